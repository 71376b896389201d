import pytest

from memcard.core.checkpoint import Checkpoint
from memcard.generation.engine import Pipeline
from memcard.generation.load import load
from memcard.generation.parts import assemble


@pytest.fixture(scope="session")
def twin_pipeline(twin: Checkpoint) -> Pipeline:
    return load(assemble(twin, "twin"), device="cpu", dtype="F32")


@pytest.fixture(scope="session")
def starter_pipeline(starter: Checkpoint) -> Pipeline:
    return load(assemble(starter, "starter"), device="cpu", dtype="F32")
