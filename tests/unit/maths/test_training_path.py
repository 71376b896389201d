"""What AdamW did between two saves: found from both ends, foretold bit for bit where no gradient was."""

from __future__ import annotations

import json
from pathlib import Path as File
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3

from memcard.errors import CorruptError
from memcard.maths.training_fit import Ends, fit
from memcard.maths.training_path import (
    STEPS_MOST,
    Path,
    decayed,
    foretell_first,
    foretell_second,
    foretell_weight,
)

GOLDEN = File(__file__).parents[2] / "golden"
RATE, DECAY = 2e-3, 0.01
Arrays = dict[str, Any]


def trained(steps: int, *, idle: int, seed: int = 0, count: int = 20_000) -> list[Arrays]:
    """Train one weight with PyTorch's AdamW; the first ``idle`` values never have a gradient after step 4."""
    rng = torch.Generator().manual_seed(seed)
    weight = torch.nn.Parameter(torch.randn(count, generator=rng) * 0.05)
    optimizer = torch.optim.AdamW([weight], lr=RATE, weight_decay=DECAY)
    pull = torch.randn(count, generator=rng) * 1e-3
    saves = []
    for step in range(4 + steps + 1):
        if step in (4, 4 + steps):
            state = optimizer.state[weight]
            names = {"w": weight, "m": state["exp_avg"], "v": state["exp_avg_sq"]}
            saves.append({k: t.detach().numpy().copy() for k, t in names.items()})
        gradient = pull + torch.randn(count, generator=rng) * 1e-3
        gradient[:idle] = gradient[:idle] * (step < 4)
        gradient[: idle // 2] = 0
        weight.grad = gradient
        optimizer.step()
    return saves


def ends(old: Arrays, new: Arrays) -> Ends:
    return Ends(old["w"], new["w"], (old["m"], old["v"]), (new["m"], new["v"]))


def test_the_way_between_two_saves_is_found() -> None:
    old, new = trained(8, idle=10_000)

    path = fit([ends(old, new)])

    assert path.steps == 8
    assert path.decay == pytest.approx(1 - RATE * DECAY, abs=2**-24)
    assert path.first == pytest.approx(0.9**8, rel=1e-4)
    assert path.second == pytest.approx(0.999**8, rel=1e-5)


def test_what_had_no_gradient_is_foretold_bit_for_bit() -> None:
    old, new = trained(8, idle=10_000)
    out = np.empty_like(old["w"])

    foretell_weight(
        fit([ends(old, new)]), old["w"], (old["m"], old["v"]), (new["m"], new["v"]), out
    )

    assert (out[:5000] == new["w"][:5000]).all()  # never any
    assert np.abs(out[5000:10_000] - new["w"][5000:10_000]).max() < 1e-5  # none since


def test_a_weight_is_foretold_better_than_it_stood() -> None:
    old, new = trained(8, idle=0)
    out = np.empty_like(old["w"])

    foretell_weight(
        fit([ends(old, new)]), old["w"], (old["m"], old["v"]), (new["m"], new["v"]), out
    )

    assert np.std(new["w"] - out) < 0.5 * np.std(new["w"] - old["w"])


def test_a_fine_tune_without_moments_tells_its_decay() -> None:
    old, new = trained(30, idle=20_000)
    out = np.empty_like(old["w"])

    path = fit([Ends(old["w"][:10_000], new["w"][:10_000])])
    foretell_weight(path, old["w"][:10_000], None, None, out[:10_000])

    assert path.steps == 30
    assert (out[:10_000] == new["w"][:10_000]).all()


def test_moments_without_gradient_are_foretold() -> None:
    old, new = trained(8, idle=10_000)
    path = fit([ends(old, new)])
    first, second = np.empty_like(old["m"]), np.empty_like(old["v"])

    foretell_second(path, old["v"], second)
    foretell_first(path, (old["m"], old["v"]), new["v"], first)

    rest = slice(5000, 10_000)
    assert np.abs(second[rest] / new["v"][rest] - 1).max() < 1e-5
    assert np.abs(first[rest] / np.abs(new["m"][rest]) - 1).max() < 1e-4


def test_strangers_have_no_path() -> None:
    rng = np.random.default_rng(1)
    old, new = (rng.standard_normal(5000).astype("f4") for _ in range(2))

    assert fit([Ends(old, new)]) == Path()
    assert fit([]) == Path()


ODD = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, 3e38, -3e38, 1.0, 2.0**-126] * 50, "f4")


@pytest.mark.filterwarnings("error")
def test_odd_values_are_foretold_as_numbers_every_machine_has() -> None:
    rng = np.random.default_rng(2)
    w, m, v, m1, v1 = (rng.permutation(ODD) for _ in range(5))
    path = fit([Ends(w, rng.permutation(w), (m, v), (m1, v1))])
    strong = Path(
        decay=2.0, steps=3, first=5.0, second=1e30, drift=1e30, old=1.0, new=-2.0, size=1e20
    )

    for one in (path, strong):
        out = np.empty_like(w)
        foretell_weight(one, w, (m, v), (m1, v1), out)
        wrong = np.isnan(out) & ~np.isnan(w)
        assert not wrong.any()
        foretell_first(one, (m, v), v1, out)
        foretell_second(one, v, out)
        assert ((np.isfinite(out)) | (out.view("u4") == v.view("u4"))).all()


def test_pieces_are_foretold_as_the_whole() -> None:
    old, new = trained(8, idle=10_000, count=70_000)
    path, whole, parts = fit([ends(old, new)]), np.empty_like(old["w"]), np.empty_like(old["w"])
    foretell_weight(path, old["w"], (old["m"], old["v"]), (new["m"], new["v"]), whole)

    for at in (slice(0, 33_333), slice(33_333, 70_000)):
        a, b = (old["m"][at], old["v"][at]), (new["m"][at], new["v"][at])
        foretell_weight(path, old["w"][at], a, b, parts[at])

    assert whole.tobytes() == parts.tobytes()


def test_decay_rounds_at_every_step() -> None:
    weights = np.float32([1.0, 0.1, 3.0])
    path = Path(decay=1 - 2**-24 * 3, steps=7)
    expected = torch.from_numpy(weights.copy())
    for _ in range(7):
        expected.mul_(1 - 2**-24 * 3)

    assert decayed(weights, path).tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": STEPS_MOST + 1},
        {"steps": 1.5},
        {"steps": -1},
        {"steps": True},
        {"decay": float("nan")},
        {"first": "1"},
        {"size": None},
    ],
)
def test_numbers_of_a_record_are_checked(change: Any) -> None:
    sound = Path(decay=0.5, steps=3).to_dict()
    assert Path.from_mapping(sound) == Path(decay=0.5, steps=3)

    with pytest.raises(CorruptError, match="damaged or forged"):
        Path.from_mapping({**sound, **change})


def test_what_version_1_foretells_stays_the_same_for_ever() -> None:
    golden = json.loads((GOLDEN / "training_path_v1.json").read_text())
    path, found = Path.from_mapping(golden["path"]), {}
    w, m, v, m1, v1 = (np.float32(1e-3) * _known(seed) for seed in range(5))
    v, v1 = v * v, v1 * v1
    v1[:1000] = v[:1000] * np.float32(path.second)
    for name, before, after in (
        ("both", (m, v), (m1, v1)),
        ("new", None, (m1, v1)),
        ("none", None, None),
    ):
        out = np.empty_like(w)
        foretell_weight(path, w, before, after, out)
        found[f"weight {name}"] = blake3(out.tobytes()).hexdigest()
        if after is not None:
            foretell_first(path, before, v1, out)
            found[f"first {name}"] = blake3(out.tobytes()).hexdigest()
    foretell_second(path, v, out)
    found["second"] = blake3(out.tobytes()).hexdigest()

    assert found == golden["blake3"]


def _known(seed: int) -> Any:
    """Return values every machine computes alike."""
    whole = (np.arange(4000, dtype=np.uint32) + np.uint32(seed * 4001)) * np.uint32(2654435761)
    found = (whole >> np.uint32(8)).astype("f4") * np.float32(2.0**-23) - np.float32(1)
    found[seed::500] = 0
    return found


def test_what_is_foretold_may_go_where_the_earlier_values_are() -> None:
    rng = np.random.default_rng(2)
    count = 100_003  # more than one piece
    old, *moments = (rng.standard_normal(count).astype("f4") for _ in range(5))
    m0, m1 = moments[:2]
    v0, v1 = (np.square(m) for m in moments[2:])
    path = Path(0.99999, 3, 0.3, 0.9, 1e-5, 2e-5, 3e-5, 0.5)
    old[::1000] = np.inf
    weights, second, apart = old.copy(), v0.copy(), np.empty_like(old)

    foretell_weight(path, weights, (m0, v0), (m1, v1), weights)
    foretell_second(path, second, second)

    foretell_weight(path, old, (m0, v0), (m1, v1), apart)
    assert weights.tobytes() == apart.tobytes()
    foretell_second(path, v0, apart)
    assert second.tobytes() == apart.tobytes()
