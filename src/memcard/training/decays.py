"""How much of an average stays at each step: constant, with warm-up, or of a relative width.

``decay(before, after)`` is the share that is kept when an average that stood at step ``before`` takes in the
weights of step ``after``. Steps count from 1, the first that is averaged. A decay is meant per step: an
average that is updated every tenth step only keeps the tenth power, so it stays equally long.

Sources: Polyak and Juditsky 1992 (averaging); Karras et al. 2023, arXiv:2312.02696, section 3.1 (power
function); the warm-up (1 + t) / (10 + t) is that of TensorFlow and diffusers, the other one of
Crowson's k-diffusion as diffusers has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

from memcard.errors import UsageError


@runtime_checkable
class Decay(Protocol):
    """A rule for how much of an average stays."""

    @property
    def name(self) -> str:
        """Part of the names in a save; equal rules have equal names."""
        ...

    def decay(self, before: int, after: int) -> float:
        """Return the share that is kept, 0 to 1.

        Args:
            before: step of the last update; 0 if there was none.
            after: step of this one, above ``before``.
        """
        ...


@dataclass(frozen=True)
class Constant:
    """The same decay at every step. An average of the last ``1 / (1 - value)`` steps or so.

    It remembers the weights it began with: of a training of n steps, the share ``value ** n``.
    """

    value: float

    def __post_init__(self) -> None:
        _check_share("decay", self.value)

    @property
    def name(self) -> str:
        """The number."""
        return f"{self.value:.10g}"

    def decay(self, before: int, after: int) -> float:
        """See ``Decay``."""
        return float(self.value ** (after - before))


@dataclass(frozen=True)
class WarmUp:
    """``(1 + t) / (10 + t)`` until that reaches ``value``: short at first, so it forgets the beginning."""

    value: float = 0.9999

    def __post_init__(self) -> None:
        _check_share("decay", self.value)

    @property
    def name(self) -> str:
        """The number it grows to."""
        return f"warmup_{self.value:.10g}"

    def decay(self, before: int, after: int) -> float:
        """See ``Decay``. The first update takes the weights as they are, as in diffusers."""
        t = after - 1
        return float(min(self.value, (1 + t) / (10 + t)) ** (after - before)) if before else 0.0


@dataclass(frozen=True)
class InverseGamma:
    """``1 - (1 + t / inv_gamma) ** -power`` until that reaches ``value``.

    diffusers calls it ``use_ema_warmup``. Power 2/3 suits trainings of a million steps, 3/4 shorter ones.
    """

    value: float = 0.9999
    inv_gamma: float = 1.0
    power: float = 2 / 3

    def __post_init__(self) -> None:
        _check_share("decay", self.value)
        if not (self.inv_gamma > 0 and self.power > 0):
            raise UsageError(
                f"inv_gamma is {self.inv_gamma:g} and power is {self.power:g}; both must be above 0."
            )

    @property
    def name(self) -> str:
        """All three numbers."""
        return f"inverse_{self.value:.10g}_{self.inv_gamma:.6g}_{self.power:.6g}"

    def decay(self, before: int, after: int) -> float:
        """See ``Decay``."""
        if before == 0:
            return 0.0
        grown = 1 - (1 + (after - 1) / self.inv_gamma) ** -self.power
        return float(min(self.value, grown) ** (after - before))


@dataclass(frozen=True)
class Power:
    """The power-function average of EDM2: as wide as a fixed share of the training so far.

    At step t it weighs step tau by ``tau ** gamma``, so it forgets the beginning by itself. Two of them
    (``POST_HOC``), saved now and then, give an average of any other width after the training.

    Attributes:
        sigma_rel: its standard deviation as a share of the steps so far, 0.0001 to 0.2886.
    """

    sigma_rel: float

    def __post_init__(self) -> None:
        _ = self.gamma  # refuses a width out of its range here, not at the first step

    @cached_property
    def gamma(self) -> float:
        """The exponent."""
        from memcard.maths.ema import gamma_of

        return gamma_of(self.sigma_rel)

    @property
    def name(self) -> str:
        """The width."""
        return f"power_{self.sigma_rel:.6g}"

    def decay(self, before: int, after: int) -> float:
        """See ``Decay``. With ``before = after - 1`` it is the paper's ``(1 - 1/t) ** (gamma + 1)``."""
        return float((before / after) ** (self.gamma + 1))


POST_HOC = (Power(0.05), Power(0.10))
"""The pair the paper keeps: its sums reach from about 0.03 to 0.25."""

Given: TypeAlias = float | Decay
Wanted: TypeAlias = Given | Sequence[Given] | Mapping[str, Given]


def named(wanted: Wanted) -> dict[str, Decay]:
    """Return the rules by their names.

    Args:
        wanted: one decay or several; a number is constant. Those of a mapping get its names.

    Raises:
        UsageError: a number is out of its range, a name is odd, or one is there twice.
    """
    if isinstance(wanted, Mapping):
        pairs = [(name, _rule(given)) for name, given in wanted.items()]
    else:
        several = wanted if isinstance(wanted, Sequence) else (wanted,)
        pairs = [(rule.name, rule) for rule in map(_rule, several)]
    found = dict(pairs)
    if not found or len(found) < len(pairs):
        names = ", ".join(name for name, _ in pairs) or "none"
        raise UsageError(f"decay: {names} given; give at least one, and each once.")
    odd = [repr(name) for name in found if not name or "/" in name or name.strip() != name]
    if odd:
        raise UsageError(f"decay: {', '.join(odd)} is no name. Take letters, digits, dots and _.")
    return found


def _rule(given: Given) -> Decay:
    return Constant(float(given)) if isinstance(given, int | float) else given


def _check_share(what: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UsageError(f"{what} is {value:g}; it goes from 0, no average, to below 1.")
