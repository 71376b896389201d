from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: the calls are the same, and fsync costs nothing."""
    shm = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="memcard-", dir=shm if shm.is_dir() else None)
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
