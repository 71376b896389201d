from collections.abc import Iterator

import pytest

from fixtures.sd15 import write_safetensors
from memcard.core.checkpoint import Checkpoint
from memcard.formats import open_file
from memcard.jobs.resolve import resolve


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    checkpoint = open_file(write_safetensors(tmp_path_factory.mktemp("sd1") / "twin.safetensors"))
    yield checkpoint
    checkpoint.close()


@pytest.fixture(scope="session")
def starter() -> Iterator[Checkpoint]:
    checkpoint = resolve("starter")
    yield checkpoint
    checkpoint.close()
