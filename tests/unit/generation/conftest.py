import socket
from collections.abc import Iterator

import pytest
import torch

from memcard.core.checkpoint import Checkpoint
from memcard.generation.engine import Pipeline
from memcard.generation.load import load
from memcard.generation.parts import assemble


@pytest.fixture(autouse=True, scope="module")
def no_network() -> Iterator[None]:
    """Generation opens no socket, and asks for no name."""

    def refuse(*args: object, **named: object) -> None:
        raise AssertionError("generation opened a socket")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket.socket, "connect_ex", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As ``Pipeline.running`` has it for small models; several threads may share a sum in several ways."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def twin_pipeline(twin: Checkpoint) -> Pipeline:
    return load(assemble(twin, "twin"), device="cpu", dtype="F32")


@pytest.fixture(scope="session")
def starter_pipeline(starter: Checkpoint) -> Pipeline:
    return load(assemble(starter, "starter"), device="cpu", dtype="F32")
