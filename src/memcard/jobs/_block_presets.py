"""Published block weights of Stable Diffusion merges, by name: 26 numbers for BASE, IN00-11, M00, OUT00-11.

Each number is the share of the second checkpoint. The curves are written as their formulas and agree with
the published digits to 1e-9.

Source: the preset table of sdweb-merge-block-weighted-gui (bbc-mc 2022), as supermerger ships it in
``scripts/mbwpresets.txt``; the numbers are facts, the table is written anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

_BLOCKS: Final = 25  # without BASE
_LAST: Final = _BLOCKS - 1


def preset(name: str) -> tuple[float, ...] | None:
    """Return the 26 weights of a preset, or None if there is none of this name."""
    key = _ALIASES.get(name.upper(), name.upper())
    if key in _BASES:
        base, weight = _BASES[key]
        return (base, *((weight,) * _BLOCKS))
    if key in _RUNS:
        return (0.0, *_RUNS[key])
    if key in _CURVES:
        return (0.0, *(_CURVES[key](i / _LAST) for i in range(_BLOCKS)))
    return None


def names() -> tuple[str, ...]:
    """List the presets."""
    return (*_BASES, *_RUNS, *_CURVES)


def _run(text: str) -> tuple[float, ...]:
    """Read weights written as ``8x0 0.5 4x1``."""
    found: list[float] = []
    for part in text.split():
        count, times, weight = part.rpartition("x")
        found += [float(weight)] * (int(count) if times else 1)
    return tuple(found)


def _rounded(t: float) -> float:
    return round(t, 10)  # the published digits, so that published merges come out bit for bit


def _smooth(t: float) -> float:
    return t * t * (3 - 2 * t)


def _fold(t: float) -> float:
    """Return a zigzag between 0 and 1 of period 2."""
    t %= 2
    return 2 - t if t > 1 else t


def _cosine(t: float) -> float:
    return (1 + math.cos(math.pi * t)) / 2


def _true_cubic(t: float) -> float:
    return 0.0 if t == 0 else (77 * t**3 - 115.5 * t**2 + 50 * t + 0.5) / 12


def _fake_cubic(t: float) -> float:
    return 19 / 3 * t**3 - 19 / 2 * t**2 + 25 / 6 * t


def _reverse(curve: Callable[[float], float]) -> Callable[[float], float]:
    return lambda t: 1 - curve(t)


def _high(n: int) -> Callable[[float], float]:
    return lambda t: _fold(n * _smooth(t))


def _often(n: int) -> Callable[[float], float]:
    return lambda t: _smooth(_fold(n * t))


def _waves() -> dict[str, Callable[[float], float]]:
    found: dict[str, Callable[[float], float]] = {}
    for n in (2, 3, 4):
        for name, curve in ((f"SMOOTHSTEP*{n}", _high(n)), (f"SMOOTHSTEP/{n}", _often(n))):
            found |= {name: curve, f"R_{name}": _reverse(curve)}
    return found


_ALIASES: Final = {"REVERSE-SMOOTHSTEP": "REVERSE_SMOOTHSTEP"}
_BASES: Final[Mapping[str, tuple[float, float]]] = {
    "ALL_A": (0.0, 0.0),
    "ALL_B": (1.0, 1.0),
    "FLAT_25": (0.0, 0.25),
    "FLAT_75": (0.0, 0.75),
}
_RUNS: Final[Mapping[str, tuple[float, ...]]] = {
    "WRAP08": _run("4x1 17x0 4x1"),
    "WRAP12": _run("6x1 13x0 6x1"),
    "WRAP14": _run("7x1 11x0 7x1"),
    "WRAP16": _run("8x1 9x0 8x1"),
    "MID12_50": _run("5x0 14x0.5 6x0"),
    "OUT07": _run("18x0 7x1"),
    "OUT12": _run("13x0 12x1"),
    "OUT12_5": _run("12x0 0.5 12x1"),
    "RING08_SOFT": _run("5x0 0.5 3x1 0.5 5x0 0.5 3x1 0.5 5x0"),
    "RING08_5": _run("6x0 4x1 5x0 4x1 6x0"),
    "RING10_5": _run("5x0 5x1 5x0 5x1 5x0"),
    "RING10_3": _run("6x0 5x1 3x0 5x1 6x0"),
}
_CURVES: Final[Mapping[str, Callable[[float], float]]] = {
    "GRAD_V": lambda t: _rounded(abs(1 - 2 * t)),
    "GRAD_A": lambda t: _rounded(1 - abs(1 - 2 * t)),
    "SMOOTHSTEP": _smooth,
    "REVERSE_SMOOTHSTEP": _reverse(_smooth),
    **_waves(),
    "COSINE": _cosine,
    "REVERSE_COSINE": _reverse(_cosine),
    "TRUE_CUBIC_HERMITE": _true_cubic,
    "TRUE_REVERSE_CUBIC_HERMITE": _reverse(_true_cubic),
    "FAKE_CUBIC_HERMITE": _fake_cubic,
    "FAKE_REVERSE_CUBIC_HERMITE": _reverse(_fake_cubic),
}
