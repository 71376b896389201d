"""The axes of a comparison: what varies, through which values, and where each stands on a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from memcard.errors import UsageError

OWN: Final = "own"  # the checkpoint's own VAE
MOST_VALUES: Final = 10_000  # of one axis; more is a slip of the finger
_WIDE: Final = 10  # more values than this along one axis alone go down the page
# What one most wants to see side by side comes first; the rest becomes pages.
_ORDER: Final = (
    "checkpoint", "lora", "cfg", "steps", "sampler", "schedule", "vae", "size", "prompt", "negative", "seed",
)  # fmt: skip
_WORDS: Final = frozenset({"checkpoint", "sampler", "schedule", "vae", "prompt", "negative"})
_RANGE: Final = re.compile(
    r"(?P<first>[+-]?(?:\d+\.?\d*|\.\d+))"
    r"(?:-(?P<last>\d+\.?\d*|\.\d+)(?::(?P<step>\d+\.?\d*|\.\d+))?)?"
)


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that may vary.

    Attributes:
        name: ``checkpoint``, ``prompt``, ``lora`` (with its name, if there are several), ``vae``,
            ``size``, ``seed``, or a setting.
        values: as the job takes them, each once.
        labels: what people read, one for each value.
    """

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The name without the LoRA's."""
        return self.name.split(" ", 1)[0]

    @property
    def varies(self) -> bool:
        """Whether there is more than one value."""
        return len(self.values) > 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Where axes stand; each by its number, None for a side that has none.

    Attributes:
        x: along the columns.
        y: along the rows.
        pages: those of which each combination of values is a page of its own, the slowest first.
    """

    x: int | None
    y: int | None
    pages: tuple[int, ...]


def lay_out(axes: Sequence[Axis], *, x: str | None = None, y: str | None = None) -> Layout:
    """Choose which axis is which side of a page.

    What the user does not say: of all axes with more than one value the two that are looked at most
    go on the page, words down and numbers across; prompts and seeds become pages first.

    Raises:
        UsageError: no axis that varies has this name, or both sides are the same.
    """
    across, down = _named(axes, x, "x"), _named(axes, y, "y")
    if across is not None and across == down:
        raise UsageError(f"--x and --y are both {axes[across].name!r}. Choose another for one.")
    free = [i for i, a in enumerate(axes) if a.varies and i not in (across, down)]
    free.sort(key=lambda i: _rank(axes[i]))
    if across is None and down is None:
        across, down = _both(axes, free)
    elif free and across is None:
        across = free[0]
    elif free and down is None:
        down = free[0]
    return Layout(across, down, tuple(i for i in sorted(free) if i not in (across, down)))


def _both(axes: Sequence[Axis], free: Sequence[int]) -> tuple[int | None, int | None]:
    if not free:
        return None, None
    if len(free) == 1:
        alone = axes[free[0]]
        return (free[0], None) if len(alone.values) <= _WIDE else (None, free[0])
    first, second = free[:2]
    if axes[second].kind in _WORDS and axes[first].kind not in _WORDS:
        first, second = second, first
    return second, first


def _rank(axis: Axis) -> tuple[float, str]:
    if axis.kind in _ORDER:
        return _ORDER.index(axis.kind), ""
    return _ORDER.index("prompt") - 0.5, axis.name  # settings that few people vary


def _named(axes: Sequence[Axis], name: str | None, option: str) -> int | None:
    if name is None:
        return None
    found = [i for i, axis in enumerate(axes) if axis.varies and name in (axis.name, axis.kind)]
    if found:
        return found[0]
    varying = ", ".join(repr(axis.name) for axis in axes if axis.varies) or "nothing"
    raise UsageError(f"--{option} {name}: does not vary here. What varies: {varying}.")


def numbers(text: str, name: str, *, whole: bool = False) -> tuple[float, ...]:
    """Read ``3,5,7``, ``1-4`` (1, 2, 3, 4), ``3-7:2`` (3, 5, 7), or any of these between commas.

    Args:
        text: what the user wrote.
        name: of the option, for errors.
        whole: only whole numbers, as int.

    Raises:
        UsageError: it is none of these, runs backwards, or has more than 10,000 values.
    """
    found: list[Decimal] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match or (whole and any("." in (match[k] or "") for k in match.groupdict())):
            kind = "whole number" if whole else "number"
            raise UsageError(
                f"{name} {part.strip()!r}: is no {kind} and no range. Write it like 3,5,7 or 1-4 or 3-7:2."
            )
        found += _range(match, name)
        if len(found) > MOST_VALUES:
            raise UsageError(f"{name} {text!r}: has more than {MOST_VALUES:,} values.")
    return tuple(int(n) if whole else float(n) for n in dict.fromkeys(found))


def _range(match: re.Match[str], name: str) -> list[Decimal]:
    first = Decimal(match["first"])
    if match["last"] is None:
        return [first]
    last, step = Decimal(match["last"]), Decimal(match["step"] or 1)
    if last < first or step <= 0:
        raise UsageError(f"{name} {match[0]!r}: counts up, so write the smaller number first.")
    count = min(int((last - first) / step), MOST_VALUES) + 1
    return [first + i * step for i in range(count)]


def once(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return each value once, in order."""
    return tuple(dict.fromkeys(values))


def worded(name: str, value: Any) -> str:
    """Return what people read of a value."""
    match name, value:
        case "cfg", _:
            return f"CFG {value:g}"
        case "steps", _:
            return f"{value} step" if value == 1 else f"{value} steps"
        case "seed", _:
            return f"seed {value}"
        case "size", (width, height):
            return f"{width}x{height}"
        case "vae", None:
            return "own VAE"
        case "negative", "":
            return "nothing unwanted"
        case "negative", _:
            return f"not: {value}"
        case (("sampler" | "schedule" | "prompt"), _):
            return str(value)
        case _:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            return f"{name.replace('_', ' ')} {shown}"


def worded_lora(label: str, strength: float, *, alone: bool) -> str:
    """Return what people read of a LoRA at a strength; ``alone`` if there is no other."""
    return "no LoRA" if alone and not strength else f"{label} {strength:g}"


def told_apart(labels: Sequence[str], hints: Sequence[str]) -> tuple[str, ...]:
    """Return labels of which no two are equal: those that are get a hint behind them."""
    return tuple(
        f"{label} ({hint})" if labels.count(label) > 1 else label
        for label, hint in zip(labels, hints, strict=True)
    )
