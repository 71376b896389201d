"""Sums as PyTorch computes them, with PyTorch as the reference."""

from typing import Any

import numpy as np
import pytest

from memcard.maths.emulate import STYLES, emulate
from memcard.maths.floats import STORED

torch = pytest.importorskip("torch")

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
COUNT = 70_001
W = 0.3


def tensors(kind: str, seed: int = 0) -> list[Any]:
    rng = torch.Generator().manual_seed(seed)
    base = torch.randn(COUNT, generator=rng) * 0.05
    parts = [base + torch.randn(COUNT, generator=rng) * 0.002 for _ in range(3)]
    return [p.to(DTYPES[kind]) for p in parts]


def arrays(parts: list[Any], kind: str) -> list[Any]:
    whole = torch.int32 if kind == "F32" else torch.int16
    return [p.view(whole).numpy().view(STORED[kind]) for p in parts]


def naive(style: str, a: Any, b: Any, c: Any, dtype: Any) -> tuple[Any, list[float], int]:
    """Return the result of a few lines of PyTorch, the weights, and how many inputs they take."""
    f = [x.float() for x in (a, b, c)]
    match style:
        case "float32":
            return (0.7 * f[0] + W * f[1]).to(dtype), [0.7, W], 2
        case "float32_mean":
            weights = torch.tensor([0.7, 0.6])
            mixed = f[0] * weights[0] + f[1] * weights[1]
            return (mixed / weights.sum()).to(dtype), [0.7, 0.6], 2
        case "fused_mean":
            mixed = torch.zeros(COUNT)
            for part, weight in zip(f, (0.5, 0.3, 0.2), strict=True):
                mixed.addcmul_(part, torch.tensor([weight]))
            return (mixed / torch.tensor([0.5, 0.3, 0.2]).sum()).to(dtype), [0.5, 0.3, 0.2], 3
        case "stored":
            return 0.7 * a + W * b + 0.25 * c, [0.7, W, 0.25], 3
        case "stored_alpha":
            return a.mul(0.7).add(b, alpha=W), [0.7, W], 2
        case "lerp":
            return torch.lerp(a, b, W), [0.7, W], 2
        case "float32_change":
            return (f[0] + (f[1] - f[2]) * W).to(dtype), [W], 3
        case _ if style.startswith("running"):
            return moving(style, a, b, c), [0.64, 0.16, 0.2], 3
        case _:
            return a + (b - c) * W, [W], 3


def moving(style: str, a: Any, b: Any, c: Any) -> Any:
    """Return a moving average of three."""
    if style == "running_change":
        mean = a + (b - a) * 0.2
        return mean + (c - mean) * 0.2
    if style == "running_scale":
        return a.clone().mul_(0.8).add_(b, alpha=0.2).mul_(0.8).add_(c, alpha=0.2)
    return a.clone().lerp_(b, 0.2).lerp_(c, 0.2)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("style", STYLES)
def test_a_style_gives_the_bits_of_the_program_it_is_named_for(style: str, kind: str) -> None:
    parts = tensors(kind)
    right, weights, count = naive(style, *parts, DTYPES[kind])
    out = np.empty(COUNT, STORED[kind])

    wild = emulate(arrays(parts, kind)[:count], weights, style, out)

    [expected] = arrays([right], kind)
    different = np.count_nonzero(expected.view("u1") != out.view("u1"))
    assert wild == 0
    # The last few values of a run PyTorch adds one by one, not fused.
    most = (
        COUNT // 5_000 if style in ("stored_alpha", "lerp", "running_scale", "running_lerp") else 0
    )
    assert different <= most, f"{different} bytes differ"


def test_lerp_from_the_other_side_once_the_weight_is_a_half() -> None:
    a, b, _ = tensors("F32")
    out = np.empty(COUNT, "f4")

    emulate(arrays([a, b], "F32"), [0.25, 0.75], "lerp", out)

    assert np.count_nonzero(out != torch.lerp(a, b, 0.75).numpy()) <= COUNT // 10_000


def test_the_rate_of_a_moving_average_is_that_of_its_weights() -> None:
    parts = arrays(tensors("F32"), "F32")
    out, other = np.empty(COUNT, "f4"), np.empty(COUNT, "f4")

    emulate(parts, [0.25, 0.25, 0.5], "running_change", out)
    first = parts[0] + (parts[1] - parts[0]) * np.float32(0.5)
    np.add(first, (parts[2] - first) * np.float32(0.5), out=other)

    assert out.tobytes() == other.tobytes()


def test_what_is_not_finite_is_counted() -> None:
    a = np.array([1, np.inf, np.nan], "f2")
    out = np.empty(3, "f2")

    assert emulate([a, a], [0.5, 0.5], "stored", out) == 2
    assert out[0] == 1
