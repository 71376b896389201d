import pytest

from memcard.core.checkpoint import Checkpoint
from memcard.generation.pipeline import Pipeline, build


@pytest.fixture(scope="session")
def twin_pipeline(twin: Checkpoint) -> Pipeline:
    return build(twin, label="twin", device="cpu", dtype="F32")


@pytest.fixture(scope="session")
def starter_pipeline(starter: Checkpoint) -> Pipeline:
    return build(starter, label="starter", device="cpu", dtype="F32")
