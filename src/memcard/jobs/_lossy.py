"""Another dtype for the floating-point tensors: what is cast, what is refused, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import DTYPES, DType, Spec
from memcard.errors import MismatchError, UsageError
from memcard.jobs._components import apply

if TYPE_CHECKING:
    from memcard.maths.casting import Cast, Loss
    from memcard.recipes.execute import RecipeCheckpoint

NAMES: Mapping[str, str] = {
    "fp64": "F64", "float64": "F64", "f64": "F64", "double": "F64",
    "fp32": "F32", "float32": "F32", "f32": "F32", "float": "F32",
    "fp16": "F16", "float16": "F16", "f16": "F16", "half": "F16",
    "bf16": "BF16", "bfloat16": "BF16",
    "fp8": "F8_E4M3", "fp8_e4m3": "F8_E4M3", "fp8_e4m3fn": "F8_E4M3", "f8_e4m3": "F8_E4M3",
    "float8_e4m3fn": "F8_E4M3",
    "fp8_e5m2": "F8_E5M2", "f8_e5m2": "F8_E5M2", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_SHOWN = 5
_NEVER_PACKED = ("F64", "F32", "F16", "BF16", "I64")  # I64: counters
_PLAIN = ("fp8 e4m3", "fp8 e5m2")  # rounded, not scaled: a value is what its bits say


def dtype_named(name: str) -> DType:
    """Read the name of a dtype.

    Raises:
        UsageError: it is none of those that can be cast to.
    """
    if name.lower() not in NAMES:
        raise UsageError(
            f"dtype is {name!r}; it can be fp64, fp32, fp16, bf16, fp8_e4m3 or fp8_e5m2."
        )
    return DTYPES[NAMES[name.lower()]]


@dataclass(slots=True)
class Lossy:
    """What was wrapped around a checkpoint to change its dtype, to ask afterwards what it cost."""

    dtype: DType
    allow_overflow: bool
    changed: dict[str, int] = field(default_factory=dict)  # "F32 to F16": number of tensors
    _cast: Cast | None = None
    _unpacked: RecipeCheckpoint | None = None

    def unpacked(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint whose packed blocks are values of the dtype."""
        packed = [name for name, spec in checkpoint.specs.items() if spec.dtype.quantized]
        if not packed:
            return checkpoint
        self._unpacked = apply("dequantize", checkpoint, {"dtype": self.dtype.name})
        for name in packed:
            self._count(checkpoint.specs[name])
        return self._unpacked

    def cast(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint whose floating-point tensors are of the dtype.

        Raises:
            MismatchError: tensors are of a dtype that cannot be computed with; all of them.
        """
        from memcard.maths.casting import Cast
        from memcard.maths.floats import can_compute

        names = [
            n for n, s in checkpoint.specs.items() if s.dtype.is_float and s.dtype != self.dtype
        ]
        odd = [name for name in names if not can_compute(checkpoint.specs[name].dtype)]
        if odd:
            listed = ", ".join(f"{name!r} ({checkpoint.specs[name]})" for name in odd[:_SHOWN])
            more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
            raise MismatchError(
                f"cannot cast {listed}{more}: these dtypes hold packed or complex values. Convert "
                "without --dtype, or these tensors with the tool that made them."
            )
        if not names:
            return checkpoint
        for name in names:
            self._count(checkpoint.specs[name])
        self._cast = Cast(checkpoint, self.dtype, names=frozenset(names))
        return self._cast

    def announce(self) -> None:
        """Say that the work is about to begin: a large cast loads faster arithmetic meanwhile."""
        from memcard.maths.rounding import announce

        if self._cast is not None:
            announce(sum(spec.elements for spec in self._cast.specs.values()))

    def check(self) -> None:
        """Refuse what overflowed, unless that is allowed.

        Raises:
            MismatchError: finite values became infinite; counts them per tensor.
        """
        lost = {name: loss.overflow for name, loss in self._losses().items() if loss.overflow}
        if not lost or self.allow_overflow:
            return
        worst = sorted(lost, key=lambda name: -lost[name])
        listed = ", ".join(f"{name!r} ({lost[name]})" for name in worst[:_SHOWN])
        more = f" and {len(lost) - _SHOWN} more tensors" if len(lost) > _SHOWN else ""
        raise MismatchError(
            f"{sum(lost.values())} values are too large for {self.dtype} and would become "
            f"{self._extreme()}: {listed}{more}. Nothing was written. Choose bf16 or fp32, which have "
            "room for them, or allow it with --allow-overflow."
        )

    def overflow(self) -> dict[str, int]:
        """Return, per tensor, how many finite values became infinite."""
        return {name: loss.overflow for name, loss in self._losses().items() if loss.overflow}

    def notes(self) -> tuple[str, ...]:
        """Say what else the cast cost, one sentence each."""
        found = self._losses()
        told = []
        if count := sum(loss.overflow for loss in found.values()):
            told.append(f"{count} values were too large for {self.dtype}: now {self._extreme()}.")
        if count := sum(loss.unordered for loss in found.values()):
            which = _few([name for name, loss in found.items() if loss.unordered])
            told.append(f"{count} values were NaN or infinite before, in {which}.")
        if count := sum(loss.gone for loss in found.values()):
            told.append(f"{count} values were too small for {self.dtype} and became zero.")
        if count := sum(loss.small - loss.gone for loss in found.values()):
            told.append(f"{count} values lie where {self.dtype} keeps fewer bits (denormal).")
        if self._unpacked is not None and (bad := self._unpacked.nonfinite):
            told.append(f"{sum(bad.values())} unpacked values are NaN or infinite, in {_few(bad)}.")
        return tuple(told)

    def _losses(self) -> Mapping[str, Loss]:
        return {} if self._cast is None else self._cast.losses

    def _count(self, spec: Spec) -> None:
        key = f"{spec.dtype} to {self.dtype}"
        self.changed[key] = self.changed.get(key, 0) + 1

    def _extreme(self) -> str:
        return "NaN, as E4M3 has no infinity" if self.dtype.name == "F8_E4M3" else "infinite"


def refuse_packed(checkpoint: Checkpoint, *, dtype: str | None) -> None:
    """Refuse to change weights that mean nothing without their scales, and GGUF blocks as they are.

    Raises:
        MismatchError: it holds such weights; says which way of packing, and the remedy.
    """
    packed = [name for name, spec in checkpoint.specs.items() if spec.dtype.quantized]
    if packed and dtype is None:
        raise MismatchError(
            f"{len(packed)} tensors are packed blocks ({checkpoint.specs[packed[0]].dtype} and the "
            "like), which no writable format holds. --dtype fp16 (or bf16, fp32) dequantises them."
        )
    if dtype is None or all(spec.dtype.name in _NEVER_PACKED for spec in checkpoint.specs.values()):
        return
    from memcard.architectures import identify

    how = identify(checkpoint.specs, checkpoint.metadata).quantization
    parts = [p for p in (how or "").split(", ") if p and p not in _PLAIN]
    if parts and not packed:
        raise MismatchError(
            f"the weights are packed ({', '.join(parts)}): their values need the scales beside them, "
            "so a cast alone would make them wrong. Convert without --dtype, or start from the "
            "unpacked model."
        )


def _few(names: Sequence[str] | Mapping[str, int]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(map(repr, listed[:_SHOWN])) + more
