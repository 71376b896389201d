"""What merge methods on changes from a base share: the plan, the blocks, and the common parameters.

    W = W0 + lambda * mix(d1, d2, ...),  di = Wi - W0

A method is its ``mix``, and a ``measure`` if it must know something of a whole tensor first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np

from memcard.core.tensors import DType, Spec, Specs
from memcard.errors import UsageError
from memcard.maths.deltas import BLOCK, RUN, Reader, blocks, tensor
from memcard.maths.floats import Array, Double, encode, stored
from memcard.maths.select import EVERYTHING
from memcard.maths.stored_deltas import merge
from memcard.ops._pairs import DTYPE, is_weight, narrow_faults, pair_faults, refuse, result_dtype
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param

KEPT = "not a weight, taken from the base as it is"
WEIGHTS = Param("floats", (), "one number per fine-tune, the base apart; none: all 1")
LAMBDA = Param("float", 1.0, "how much of the merged change to add to the base")
SEED = Param("int", 0, "of the random numbers; the same seed gives the same bits")


def density(default: float, what: str = "share of each change to keep") -> Param:
    """Return the parameter ``density``."""
    return Param("each", default, f"{what}; one number, or one per fine-tune", low=0.0, high=1.0)


def normalize(*, default: bool) -> Param:
    """Return the parameter ``normalize``."""
    return Param("bool", default, "divide by the sum of the weights that took part")


def rescale(*, default: bool) -> Param:
    """Return the parameter ``rescale``."""
    return Param("bool", default, "divide what is kept by the probability of keeping it")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a plan knows of one tensor.

    Attributes:
        dtypes: of the base, then of the fine-tunes that take part.
        weights: of these fine-tunes.
        streams: their numbers among all inputs, the base being 0.
        columns: values per row: of all dimensions but the first.
    """

    dtypes: tuple[DType, ...]
    weights: tuple[float, ...]
    streams: tuple[int, ...]
    columns: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of one tensor, for ``mix``, which may overwrite the changes."""

    step: Step
    params: Params
    start: int
    deltas: list[Double]

    @property
    def inputs(self) -> Inputs:
        """What the plan knows of the tensor."""
        return cast("Inputs", self.step.detail)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole tensor to measure, in blocks."""

    step: Step
    params: Params
    read: Reader

    @property
    def inputs(self) -> Inputs:
        """What the plan knows of the tensor."""
        return cast("Inputs", self.step.detail)

    @property
    def count(self) -> int:
        """Number of values."""
        return self.step.spec.elements

    def blocks(self) -> Iterator[tuple[int, list[Double]]]:
        """Yield (first value, changes) from the first value to the last."""
        for at, _, deltas in tensor(self.read, self.inputs.dtypes, self.count):
            yield at, deltas

    def runs(self) -> Iterator[tuple[int, Sequence[memoryview]]]:
        """Yield (first value, what is stored of base and fine-tunes) from the first value to the last."""
        for start in range(0, self.count, RUN):
            yield start, self.read(start, min(RUN, self.count - start))


@dataclass(frozen=True, slots=True)
class Simple:
    """What a method does that trims each change, or not, and adds up: there are loops for it.

    Attributes:
        agreeing: it adds only the changes that have the sign of the sum of all.
        trims: what ``measure_whole`` found are the cuts.
    """

    agreeing: bool
    trims: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaMethod:
    """A merge method on changes. Inputs: the base, then one or more fine-tunes of it.

    Attributes:
        title: a few words for people.
        source: the paper.
        own: its own parameters; ``lambda`` and ``dtype`` are added.
        mix: the merged change of one block.
        measure_whole: what the method must know of a tensor, if anything.
        fewest: fewest fine-tunes.
        rows: blocks hold whole rows.
        check: says what is wrong with the parameters, "" if nothing.
        simple: says the same as ``mix`` where that is one of a few things.
        takes_base: the first input is the base.
    """

    title: str
    source: str
    own: Mapping[str, Param]
    mix: Callable[[Piece], Double]
    measure_whole: Callable[[Whole], Any] | None = None
    fewest: int = 1
    rows: bool = False
    check: Callable[[Params], str] | None = None
    simple: Simple | None = None
    takes_base = True

    @property
    def params(self) -> Mapping[str, Param]:
        """All parameters, in the order a user should see them."""
        return {**self.own, "lambda": LAMBDA, "dtype": DTYPE}

    @property
    def arity(self) -> tuple[int, int | None]:
        """The base, and the fine-tunes."""
        return 1 + self.fewest, None

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Match tensors by name. All inputs must have the same names and shapes."""
        fault = self.check(params) if self.check else ""
        if fault:
            raise UsageError(fault)
        weights = weights_of(len(inputs) - 1, params)
        self._refuse_lists(len(inputs) - 1, params)
        refuse_pairs(inputs)
        steps = [self._step(name, inputs, weights, params) for name in inputs[0]]
        refuse_dtypes(inputs, steps)
        return steps

    def _step(
        self, name: str, inputs: Sequence[Specs], weights: Sequence[float], params: Params
    ) -> Step:
        specs = [other[name] for other in inputs]
        if not is_weight(name, specs):
            return Step(name, specs[0], ((0, name),), copy=True, note=KEPT)
        dtype, shape = result_dtype(specs, params), specs[0].shape
        # A weight of zero must not turn the other input's infinity into NaN, so it is left out.
        used = [i for i, w in enumerate(weights, 1) if w != 0 and params["lambda"] != 0]
        chosen = [0, *used]
        columns = max(1, prod(shape[1:]) if len(shape) > 1 else prod(shape))
        detail = Inputs(
            tuple(specs[i].dtype for i in chosen),
            tuple(weights[i - 1] for i in used),
            tuple(used),
            columns,
        )
        return Step(
            *(name, Spec(dtype, shape), tuple((i, name) for i in chosen)),
            copy=not used and specs[0].dtype == dtype,
            block=columns if self.rows else 1,
            detail=detail,
            measure=self.measure_whole is not None and bool(used) and prod(shape) > 0,
        )

    def _refuse_lists(self, count: int, params: Params) -> None:
        """Refuse lists of another length than the fine-tunes; all faults at once."""
        lists = [(key, params[key]) for key, param in self.own.items() if param.kind == "each"]
        faults = [
            f"{key}: {len(given)} given for {count} fine-tunes; give one number for all, or one for "
            "each, and none for the base."
            for key, given in lists
            if isinstance(given, tuple) and len(given) != count
        ]
        if faults:
            raise UsageError(" ".join(faults))

    def measure(self, step: Step, read: Reader, params: Params) -> Any:
        """Find out what ``mix`` must know of a whole tensor."""
        if self.measure_whole is None:
            return None
        with np.errstate(all="ignore"):
            return self.measure_whole(Whole(step, params, read))

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Merge one chunk."""
        inputs: Inputs = step.detail
        target, bad = stored(out, step.spec.dtype), 0
        if self.simple and inputs.weights:
            done = _at_once(self.simple, step, parts, params, target, start)
            if done is not None:
                return done
        scale, columns = cast("float", params["lambda"]), inputs.columns
        size = max(1, BLOCK // columns) * columns if self.rows else BLOCK
        with np.errstate(all="ignore"):
            for at, base, deltas in blocks(parts, inputs.dtypes, size=size):
                if deltas:
                    change = self.mix(Piece(step, params, start + at, deltas))
                    if scale != 1:
                        np.multiply(change, scale, out=change)
                    np.add(base, change, out=base)
                bad += encode(base, target[at : at + base.size])
        return bad


def _at_once(
    simple: Simple,
    step: Step,
    parts: Sequence[memoryview],
    params: Params,
    out: Array,
    start: int,
) -> int | None:
    """Merge a chunk by one compiled loop, if there is one."""
    inputs: Inputs = step.detail
    with np.errstate(all="ignore"):
        return merge(
            [stored(part, dtype) for part, dtype in zip(parts, inputs.dtypes, strict=True)],
            step.stats if simple.trims else [EVERYTHING] * len(inputs.weights),
            inputs.weights,
            out,
            start=start,
            scale=cast("float", params["lambda"]),
            agreeing=simple.agreeing,
            mean=bool(params["normalize"]),
        )


def each(key: str, inputs: Inputs, params: Params) -> tuple[float, ...]:
    """Return a parameter of the kind "each" for the fine-tunes that take part."""
    given = cast("float | tuple[float, ...]", params[key])
    return tuple(given[i - 1] if isinstance(given, tuple) else given for i in inputs.streams)


def together(params: Params, *keys: str) -> list[tuple[float, ...]]:
    """Return what parameters of the kind "each" are for one fine-tune after the other.

    Once, if none of them is a list; lists of unequal length are cut, which ``plan`` refuses.
    """
    given = [cast("float | tuple[float, ...]", params[key]) for key in keys]
    count = min((len(g) for g in given if isinstance(g, tuple)), default=1)
    return [tuple(g[i] if isinstance(g, tuple) else g for g in given) for i in range(count)]


def weights_of(count: int, params: Params) -> tuple[float, ...]:
    """Return one weight per fine-tune.

    Raises:
        UsageError: there are more or fewer than fine-tunes.
    """
    given = cast("tuple[float, ...]", params.get("weights")) or (1.0,) * count
    if len(given) != count or None in given:
        raise UsageError(
            f"weights: {len(given)} given for {count} fine-tunes; "
            "give one for each, and none for the base."
        )
    return given


def refuse_pairs(inputs: Sequence[Specs]) -> None:
    """Refuse inputs that are not alike.

    Raises:
        MismatchError: names or shapes differ; all faults at once.
    """
    refuse(
        "these checkpoints do not fit together",
        pair_faults(inputs),
        "Input 1 is the base. Merge only fine-tunes of one base with the same parts; a file without "
        "its VAE or text encoder, or with EMA weights beside the raw ones, must be made alike first "
        "(pick_ema drops the extra weights).",
    )


def refuse_dtypes(inputs: Sequence[Specs], steps: Sequence[Step]) -> None:
    """Refuse dtypes that arithmetic does not know.

    Raises:
        MismatchError: some tensor to compute has one; all faults at once.
    """
    known = [(s.name, [inputs[i][key] for i, key in s.needs]) for s in steps if not s.copy]
    faults = [fault for name, specs in known for fault in narrow_faults(name, specs)]
    refuse("cannot compute", faults, "Cast these tensors first.")
