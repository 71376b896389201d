from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.sd15 import write_safetensors
from memcard.core.checkpoint import Checkpoint
from memcard.formats import open_file
from memcard.jobs.resolve import resolve


@pytest.fixture(scope="session")
def twin_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("sd1") / "twin.safetensors")


@pytest.fixture(scope="session")
def twin(twin_path: Path) -> Iterator[Checkpoint]:
    checkpoint = open_file(twin_path)
    yield checkpoint
    checkpoint.close()


@pytest.fixture(scope="session")
def starter() -> Iterator[Checkpoint]:
    checkpoint = resolve("starter")
    yield checkpoint
    checkpoint.close()
