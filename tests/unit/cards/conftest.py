from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fixtures.sidecars import Beside, write
from memcard.cards import Subject


@pytest.fixture
def beside(tmp_path: Path) -> Beside:
    """Return a subject ``x.safetensors`` with these files beside it: suffix to JSON, text or bytes."""

    def make(files: Mapping[str, Any] | None = None, **metadata: str) -> Subject:
        for suffix, content in (files or {}).items():
            write(tmp_path / f"x{suffix}", content)
        return Subject(tmp_path / "x.safetensors", metadata)

    return make
