"""What the methods share that make one tensor of its namesakes in several inputs.

A method states its formula on float64; here are the plan, the refusals, widening and the one rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np

from memcard.core.tensors import DType, Spec, Specs
from memcard.errors import UsageError
from memcard.maths.floats import BLOCK, STORED, Array, Double, decode, encode, scratch, stored
from memcard.ops._pairs import UNLIKE, is_weight, narrow_faults, pair_faults, refuse, result_dtype
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param, Reader

# Formulas make several temporary arrays; this many values of each stay in the second-level cache.
_PIECE = BLOCK // 4

Formula: TypeAlias = Callable[[Sequence[Double], Params], Double]


class TensorWise:
    """An operation on tensors of equal name and shape. Subclasses say what they do in ``apply``.

    Attributes:
        takes_base: the first input is the model the others were tuned from.
        whole: ``apply`` must see whole tensors.
        kept: the input that counters, masks and position ids are taken from.
    """

    title: str
    source: str
    params: ClassVar[Mapping[str, Param]]
    arity: tuple[int, int | None]
    takes_base: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    kept: ClassVar[int] = 0

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Match tensors by name. All inputs must have the same names and shapes.

        Raises:
            MismatchError: names or shapes differ, or a dtype is one arithmetic does not know.
            UsageError: the parameters do not fit the number of inputs.
        """
        self.check(len(inputs), params)
        refuse(
            "these checkpoints do not fit together",
            self.faults(inputs),
            UNLIKE,
        )
        steps = [self.step(name, inputs, params) for name in inputs[0]]
        reads = [(s, [inputs[i][key] for i, key in s.needs + s.small]) for s in steps if not s.copy]
        faults = [fault for step, specs in reads for fault in narrow_faults(step.name, specs)]
        refuse("cannot compute", faults, "Cast these tensors first.")
        return steps

    def check(self, count: int, params: Params) -> None:
        """Refuse parameters that do not fit ``count`` inputs."""

    def faults(self, inputs: Sequence[Specs]) -> list[str]:
        """List all that does not fit together."""
        return pair_faults(inputs)

    def step(self, name: str, inputs: Sequence[Specs], params: Params) -> Step:
        """Plan one tensor; ``detail`` is the dtypes of what it reads."""
        specs = [other[name] for other in inputs]
        if not is_weight(name, specs):
            number = ("first", "second", "third")[self.kept]
            note = f"not a weight, taken from the {number} input as it is"
            return Step(name, specs[self.kept], ((self.kept, name),), copy=True, note=note)
        dtype = result_dtype(specs, params)
        needs = tuple((i, name) for i in range(len(inputs)))
        detail = tuple(spec.dtype for spec in specs)
        spec = Spec(dtype, specs[0].shape)
        whole = self.whole and spec.elements > 0
        return Step(name, spec, needs, whole=whole, detail=detail)


class ElementWise(TensorWise, ABC):
    """A method whose result at one place depends on the inputs at that place and nothing else."""

    @abstractmethod
    def formula(self, values: Sequence[Double], params: Params) -> Double:
        """Compute a run of values in float64; may change ``values`` and return one of them."""

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Compute one chunk."""
        arrays = [stored(p, dtype) for p, dtype in zip(parts, step.detail, strict=True)]
        return by_pieces(arrays, self.formula, params, target(step, out))


class WholePair(TensorWise):
    """A method that must see two tensors as a whole: its memory grows with the largest.

    Attributes:
        per_value: bytes it needs per value, beside its inputs and its result.
    """

    arity: tuple[int, int | None] = (2, 2)
    whole: ClassVar[bool] = True
    per_value: ClassVar[int]

    def temporary(self, step: Step) -> int:
        """Return what one tensor needs beside its inputs and its result, in bytes."""
        return self.per_value * step.spec.elements


def by_pieces(arrays: Sequence[Array], formula: Formula, params: Params, out: Array) -> int:
    """Apply ``formula`` to short runs of equally long arrays, so that memory stays small.

    Returns:
        How many values written are NaN or infinite.
    """
    bad = 0
    with np.errstate(all="ignore"):  # what is not finite is counted
        for at in range(0, out.size, _PIECE):
            piece = out[at : at + _PIECE]
            values = [scratch(i, piece.size, np.float64) for i in range(len(arrays))]
            for array, value in zip(arrays, values, strict=True):
                decode(array[at : at + _PIECE], value)
            bad += encode(formula(values, params), piece)
    return bad


def target(step: Step, out: memoryview) -> Array:
    """View the bytes to fill as values of the result's dtype."""
    return np.frombuffer(out, STORED[step.spec.dtype.name])


def views(step: Step, read: Reader) -> Callable[[int, int], list[Array]]:
    """Return a reader of values instead of bytes; they are good until the next call."""

    def values(start: int, count: int) -> list[Array]:
        parts = read(start, count)
        return [stored(part, dtype) for part, dtype in zip(parts, step.detail, strict=True)]

    return values


def widen(part: memoryview, dtype: DType, wide: Any = np.float64) -> Array:
    """Return stored floats in a fresh array of a wide dtype that holds them exactly."""
    values = stored(part, dtype)
    made: Array = np.empty(values.size, wide)
    for at in range(0, values.size, BLOCK):
        piece = values[at : at + BLOCK]
        double = scratch(0, piece.size, np.float64)
        decode(piece, double)
        made[at : at + BLOCK] = double
    return made


def emit(values: Array, step: Step, out: memoryview) -> int:
    """Round a whole tensor of float32 or float64 into ``out``; ``values`` may be spent.

    Returns:
        How many values written are NaN or infinite.
    """
    into, flat, bad = target(step, out), values.reshape(-1), 0
    with np.errstate(all="ignore"):
        for at in range(0, into.size, BLOCK):
            piece = np.ascontiguousarray(flat[at : at + BLOCK])
            bad += encode(piece, into[at : at + BLOCK])
    return bad


def number(params: Params, key: str) -> float:
    """Return a parameter that is a number."""
    return cast("float", params[key])


def per_input(key: str, params: Params, count: int) -> tuple[float, ...]:
    """Return one number per input; none given: all 1.

    Raises:
        UsageError: the number of numbers is wrong, one is null, or they add up to zero or less.
    """
    given = cast("tuple[float | None, ...]", params[key]) or (1.0,) * count
    numbers = tuple(w for w in given if w is not None)
    if len(given) != count or len(numbers) != count:
        raise UsageError(f"{key}: {len(given)} given for {count} models; give one for each.")
    if sum(numbers) <= 0:
        raise UsageError(
            f"{key}: they add up to {sum(numbers):g}, which cannot be made 1. "
            "Give numbers whose sum is above zero."
        )
    return numbers
