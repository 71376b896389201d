"""Weights are read while the first import goes on, and nothing is different for it."""

import sys
from contextlib import closing
from pathlib import Path
from threading import Event, get_ident
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fixtures.small import save
from memcard.core.checkpoint import Checkpoint
from memcard.errors import MismatchError
from memcard.formats import open_file
from memcard.generation import cache as module
from memcard.generation.cache import Cache, Request
from memcard.generation.parts import Part

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Any:
    arrays = {
        "w": np.full((8, 8), 2, np.float16),
        "b": np.full(8, 3, np.float16),
        "encoder.w": np.full((8, 8), 4, np.float16),
        "more": np.full(5, 5, np.float16),
    }
    with closing(open_file(save(tmp_path / "a.safetensors", arrays))) as found:
        yield found


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported diffusers yet."""
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)


def request(checkpoint: Checkpoint, make: Any = None, without: tuple[str, ...] = ()) -> Request:
    def network() -> nn.Module:
        with torch.device("meta"):
            return nn.Sequential(nn.Linear(8, 8))

    names = {"0.weight": "w", "0.bias": "b", "encoder.weight": "encoder.w", "2.more": "more"}
    part = Part("unet", checkpoint, names, {}, "a")
    return Request(part, make or network, torch.float32, "x", without)


def read_by(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, set[str]]]:
    """Return a list of who reads what."""
    seen: list[tuple[int, set[str]]] = []
    pour = Cache._pour

    def noted(self: Cache, jobs: Any) -> None:
        if jobs:
            seen.append((get_ident(), {job.name for job in jobs}))
        pour(self, jobs)

    monkeypatch.setattr(module.Cache, "_pour", noted)
    return seen


@pytest.mark.usefixtures("cold")
def test_another_thread_reads_while_networks_are_made(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, done = read_by(monkeypatch), Event()
    ahead = Cache._read_ahead

    def told(self: Cache, requests: Any) -> None:
        ahead(self, requests)
        done.set()

    monkeypatch.setattr(Cache, "_read_ahead", told)

    def slow() -> nn.Module:
        assert done.wait(30), "nothing was read before the network was there"
        with torch.device("meta"):
            return nn.Sequential(nn.Linear(8, 8))

    cache = Cache(CPU, 10**6)
    network = cache.load([request(checkpoint, slow, ("encoder",))])["unet"]
    assert [names for _, names in seen] == [{"w", "b", "more"}], "once, and not what is left out"
    assert seen[0][0] != get_ident()
    assert network.get_parameter("0.weight").unique().tolist() == [2.0]
    assert network.get_parameter("0.bias").unique().tolist() == [3.0]
    assert cache.nbytes == 4 * (64 + 8), "what no network uses is gone"


def test_later_nobody_reads_ahead(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", sys)
    seen = read_by(monkeypatch)
    Cache(CPU, 10**6).load([request(checkpoint)])
    assert [names for _, names in seen] == [{"w", "b"}]
    assert seen[0][0] == get_ident()


@pytest.mark.usefixtures("cold")
def test_what_fails_ahead_is_told_by_the_load(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MismatchError, match="another shape"):
        Cache(CPU, 10**6).load([request(checkpoint, _other)])

    def broken(*args: object) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr(Cache, "_pour", broken)
    with pytest.raises(OSError, match="no such disk"):
        Cache(CPU, 10**6).load([request(checkpoint)])


def _other() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(8, 9))
