"""Samples are the same values however they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import memcard
from fixtures import small
from memcard.jobs import _discover_sample as sample


@pytest.mark.parametrize("ranges", [[(0, 5)], [(3, 4), (100, 7), (990, 10)], [(0, 0)]])
@pytest.mark.parametrize("at_once", [0, 1 << 16])
def test_one_read_or_many_give_the_same_values(
    ranges: list[tuple[int, int]], at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype("f4")
    path = small.save(tmp_path / "a.safetensors", {"w": values})
    monkeypatch.setattr(sample, "_AT_ONCE", at_once)

    with memcard.open(path) as checkpoint:
        found = sample.read(checkpoint, "w", ranges)

    assert found.tobytes() == b"".join(values[s : s + n].tobytes() for s, n in ranges)
