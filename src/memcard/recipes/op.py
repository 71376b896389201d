"""What an operation is: a plan made from headers, and arithmetic on chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from memcard.core.tensors import Specs
from memcard.errors import UsageError
from memcard.recipes.nodes import Params, Step, Value

# "each": one number, or a list with one number for each fine-tune
Kind: TypeAlias = Literal["float", "int", "bool", "str", "floats", "each", "json"]
# (first element, how many) -> the chunks of ``Step.needs``; good until the next call.
Reader: TypeAlias = Callable[[int, int], Sequence[memoryview]]


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of an operation, enough to make a command-line option of it."""

    kind: Kind
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


@runtime_checkable
class Op(Protocol):
    """An operation of a recipe. The file name in ``memcard/ops`` is its public name.

    Attributes:
        title: a few words for people.
        source: the paper, page or document the arithmetic is taken from.
        params: by name, in the order a user should see them.
        arity: fewest and most inputs; None for no upper bound.
    """

    title: str
    source: str
    params: Mapping[str, Param]
    arity: tuple[int, int | None]

    def plan(self, inputs: Sequence[Specs], params: Params) -> Sequence[Step]:
        """List the outputs in file order. Sees headers only; every refusal is here.

        Raises:
            MismatchError: the inputs do not fit together; all faults at once.
        """
        ...

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Compute elements ``start`` onwards of one output into ``out``, in the dtypes stored.

        Must give every element the same bits whatever chunk it arrives in.

        Args:
            step: the plan of this tensor.
            parts: chunks of ``step.needs`` over the same elements, then ``step.small`` whole.
            params: complete and checked.
            out: bytes to fill.
            start: index of the first element of the chunk in the tensor.

        Returns:
            How many of the values written are NaN or infinite.
        """
        ...


@runtime_checkable
class Measuring(Op, Protocol):
    """An operation that must know something of a whole tensor: a threshold, a dot product."""

    def measure(self, step: Step, read: Reader, params: Params) -> Any:
        """Reduce one tensor to a few numbers, which ``apply`` finds in ``step.stats``.

        Called once per tensor whose step says ``measure``, before its first chunk is computed. The
        result may depend on the values only: read in pieces of a size of its own, and add up in an
        order of its own.

        Args:
            step: the plan of this tensor.
            read: may be called in any order and as often as needed.
            params: complete and checked.
        """
        ...


@runtime_checkable
class Surveying(Op, Protocol):
    """An operation that must know something of all tensors before it can compute one.

    Attributes:
        surveyed: the parameters that ``survey`` looks at; it says the same whatever the others are.
    """

    surveyed: tuple[str, ...]

    def survey(
        self, steps: Sequence[Step], reader: Callable[[Step], Reader], params: Params
    ) -> Mapping[str, Any]:
        """Reduce the whole model, before the first chunk of it is computed.

        Takes the place of ``Measuring.measure``: what it says of a tensor is that step's ``stats``.

        Args:
            steps: those that say ``measure``, in file order.
            reader: makes the reader of a step, as ``measure`` has it.
            params: complete and checked.

        Returns:
            Something for the name of each step.
        """
        ...


_NUMBERS = ("float", "each")


def complete(name: str, op: Op, params: Mapping[str, Value]) -> Params:
    """Return ``params`` with every default filled in, so that a recipe outlives a changed default.

    Raises:
        UsageError: a name is unknown or a value is out of its range; all faults at once.
    """
    faults = [_unknown(name, key, op) for key in params if key not in op.params]
    values: dict[str, Value] = {}
    for key, param in op.params.items():
        value = params.get(key, param.default)
        if isinstance(value, int) and not isinstance(value, bool) and param.kind in _NUMBERS:
            value = float(value)  # 1 and 1.0 are one value, so they are one recipe
        if isinstance(value, tuple) and param.kind in ("floats", "each"):
            value = tuple(float(v) if type(v) is int else v for v in value)
        values[key] = value
        if value != param.default and not _fits(value, param):
            faults.append(f"{name}: {key} is {value!r}; it takes {_range(param)}.")
    if faults:
        raise UsageError(" ".join(faults))
    return Params(values)


def check_arity(name: str, op: Op, count: int) -> None:
    """Refuse a wrong number of inputs.

    Raises:
        UsageError: too few or too many.
    """
    low, high = op.arity
    if count < low or (high is not None and count > high):
        takes = f"{low}" if low == high else f"{low} or more" if high is None else f"{low}-{high}"
        raise UsageError(f"{name}: takes {takes} inputs, {count} given.")


def _unknown(name: str, key: str, op: Op) -> str:
    near = get_close_matches(key, list(op.params), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = ", ".join(op.params) or "none"
    return f"{name}: no parameter {key!r}.{hint} It takes: {known}."


def _fits(value: Value, param: Param) -> bool:
    if param.kind == "json":
        return True  # the operation itself knows its shape
    if param.kind == "floats":
        return isinstance(value, tuple) and all(
            v is None or (isinstance(v, float) and _within(v, param)) for v in value
        )
    if param.kind == "each":
        each = value if isinstance(value, tuple) and value else (value,)
        return all(isinstance(v, float) and _within(v, param) for v in each)
    if param.kind == "bool":
        return isinstance(value, bool)
    if param.kind == "str":
        return isinstance(value, str) and (not param.choices or value in param.choices)
    wanted = float if param.kind == "float" else int
    return type(value) is wanted and _within(value, param)


def _within(value: float, param: Param) -> bool:
    low, high = param.low, param.high
    return (low is None or value >= low) and (high is None or value <= high)


_KINDS = {
    "floats": "a list of numbers",
    "each": "a number, or one for each fine-tune,",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
}


def _range(param: Param) -> str:
    if param.choices:
        return "one of " + ", ".join(param.choices)
    kind = _KINDS.get(param.kind, "a text")
    low, high = param.low, param.high
    if low is None and high is None:
        return kind
    if high is None:
        return f"{kind} of at least {low:g}"
    return f"{kind} of at most {high:g}" if low is None else f"{kind} from {low:g} to {high:g}"
