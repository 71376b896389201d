"""A recipe as a checkpoint: listed from headers, computed where it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Lock, local
from typing import Any, TypeAlias, cast

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.identity import Place, Supply, derived, identity, supply
from memcard.core.tensors import Specs
from memcard.errors import MismatchError, NotFoundError
from memcard.recipes.nodes import Apply, Node, Params, Source, Step
from memcard.recipes.op import Measuring, Op, Reader, Surveying, check_arity, complete

Resolver: TypeAlias = Callable[[Source], Checkpoint]

# Measured from 1 to 16 MiB: no difference in time, so the smaller memory decides.
CHUNK = 4 << 20


class RecipeCheckpoint:
    """The result of one operation, not yet computed.

    Reads from any thread; memory is ``CHUNK`` per input and thread, whatever the tensors' sizes
    (steps marked ``whole`` excepted).
    """

    format = "recipe"

    def __init__(
        self, op: Op, inputs: Sequence[Checkpoint], params: Params, metadata: Mapping[str, str]
    ) -> None:
        self._op, self._inputs, self._params = op, tuple(inputs), params
        steps = op.plan([c.specs for c in inputs], params)
        self._steps: dict[str, Step] = {step.name: step for step in steps}
        self.specs: Specs = {name: step.spec for name, step in self._steps.items()}
        self.metadata: Mapping[str, str] = dict(metadata)
        self.nonfinite: dict[str, int] = {}
        self._lock, self._local = Lock(), local()
        self._last: tuple[str, memoryview] | None = None  # a whole step that is read in pieces
        self._measured: dict[str, Step] = {}
        self._gates: dict[str, Lock] = {}
        self._survey: Mapping[str, Any] | None = None
        self._survey_gate = Lock()

    @property
    def notes(self) -> Sequence[str]:
        """Each note of the plan once, with the tensors it is about; then those of the inputs."""
        by_note: dict[str, list[str]] = {}
        for step in self._steps.values():
            if step.note:
                by_note.setdefault(step.note, []).append(step.name)
        own = [f"{note} ({_few(names)})" for note, names in by_note.items()]
        return tuple(dict.fromkeys([*own, *(n for c in self._inputs for n in c.notes)]))

    @property
    def computed(self) -> int:
        """Number of tensors that are computed, not copied."""
        return sum(not step.copy for step in self._steps.values())

    def piece(self, name: str, chunk: int) -> int:
        """Bytes to ask for at once: ``chunk``, or the whole tensor where the step needs it."""
        step = self._steps[name]
        item = _item(step)
        return step.spec.nbytes if step.whole else max(item, chunk // item * item)

    def read(self, name: str) -> memoryview:
        """Compute one tensor."""
        whole = memoryview(bytearray(self._step(name).spec.nbytes))
        self.readinto(name, whole)
        return whole.toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Compute the bytes of one tensor from ``offset`` on."""
        step = self._step(name)
        if step.copy:
            index, key = step.needs[0]
            self._inputs[index].readinto(key, into, offset)
        elif step.whole:
            self._read_whole(step, into, offset)
        else:
            item = _item(step)
            if offset % item or len(into) % item:
                self._read_odd(step, into, offset)
                return
            size = max(item, CHUNK // item * item)
            for at in range(0, len(into), size):
                start = (offset + at) // step.spec.dtype.block_bytes
                self._compute(step, into[at : at + size], start)

    def measures(self, name: str) -> bool:
        """Tell whether the tensor is read once before any of it can be computed."""
        step = self._step(name)
        return step.measure and not step.copy

    def measure(self, name: str) -> None:
        """Do that reading now, for those who want to choose when; else the first read does it."""
        self._ready(self._step(name))

    def extent(self, name: str) -> Extent | None:
        """Where the bytes lie, for a tensor that is copied; None for one that is computed."""
        step = self._step(name)
        if not step.copy:
            return None
        index, key = step.needs[0]
        return self._inputs[index].extent(key)

    def identity_of(self, name: str, place: Place) -> str | None:
        """Return what a tensor is: that of its source if it is copied, else the operation and its inputs.

        An operation that surveys all of its inputs first depends on all of them.
        """
        step = self._step(name)
        if step.copy:
            index, key = step.needs[0]
            return identity(self._inputs[index], key, place)
        needs = [*step.needs, *step.small]
        if isinstance(self._op, Surveying):
            needs += [(i, key) for i, one in enumerate(self._inputs) for key in one.specs]
        parts = [
            (identity(self._inputs[i], key, place), self._inputs[i].specs[key]) for i, key in needs
        ]
        if any(one is None for one, _ in parts):
            return None
        kind = type(self._op)
        how = (self._op, self._params, step.name, step.spec, step.detail)
        return derived(
            f"{kind.__module__}.{kind.__qualname__} {how!r}",
            *(f"{one} {spec}" for one, spec in parts),
        )

    def supplied_by(self, source: Supply | None) -> None:
        """Let the inputs ask ``source`` before they unpack anything."""
        for checkpoint in self._inputs:
            supply(checkpoint, source)

    def close(self) -> None:
        """Close the inputs."""
        for checkpoint in self._inputs:
            checkpoint.close()

    def _step(self, name: str) -> Step:
        try:
            return self._steps[name]
        except KeyError:
            raise NotFoundError(f"the recipe makes no tensor {name!r}.") from None

    def _read_whole(self, step: Step, into: memoryview, offset: int) -> None:
        if len(into) == step.spec.nbytes:
            self._compute(step, into, 0)
            return
        with self._lock:
            last = self._last
        if last is None or last[0] != step.name:
            last = step.name, memoryview(bytearray(step.spec.nbytes))
            self._compute(step, last[1], 0)
            with self._lock:
                self._last = last
        into[:] = last[1][offset : offset + len(into)]

    def _read_odd(self, step: Step, into: memoryview, offset: int) -> None:
        """Serve a range that cuts through elements, or through blocks of them."""
        item = _item(step)
        first, last = offset // item, -(-(offset + len(into)) // item)
        around = memoryview(bytearray((last - first) * item))
        self.readinto(step.name, around, first * item)
        into[:] = around[offset - first * item :][: len(into)]

    def _ready(self, step: Step) -> Step:
        """Return the step with its statistics: the first to ask measures, others wait for it."""
        if not step.measure:
            return step
        with self._lock:
            gate = self._gates.setdefault(step.name, Lock())
        with gate:
            if step.name not in self._measured:
                self._measured[step.name] = replace(step, stats=self._stats(step))
            return self._measured[step.name]

    def _stats(self, step: Step) -> Any:
        if not isinstance(self._op, Surveying):
            op = cast("Measuring", self._op)
            return op.measure(step, self._reader(step), self._params)
        with self._survey_gate:  # one thread surveys the whole model, the others wait for it
            if self._survey is None:
                steps = [s for s in self._steps.values() if s.measure]
                self._survey = self._op.survey(steps, self._reader, self._params)
            return self._survey[step.name]

    def _reader(self, step: Step) -> Reader:
        return lambda start, count: self._chunks(step, start, count)

    def _chunks(self, step: Step, start: int, count: int) -> list[memoryview]:
        """Read the same run of elements of every input."""
        parts = []
        for place, (index, key) in enumerate(step.needs):
            spec = self._inputs[index].specs[key]
            size, block = spec.dtype.block_bytes, spec.dtype.block
            part = self._buffer(place, spec.nbytes if step.whole else count * size // block)
            self._inputs[index].readinto(key, part, start * size // block)
            parts.append(part)
        return parts

    def _compute(self, step: Step, out: memoryview, start: int) -> None:
        step = self._ready(step)
        count = len(out) // step.spec.dtype.block_bytes
        parts = self._chunks(step, start, count)
        for place, (index, key) in enumerate(step.small, len(parts)):
            part = self._buffer(place, self._inputs[index].specs[key].nbytes)
            self._inputs[index].readinto(key, part, 0)
            parts.append(part)
        bad = self._op.apply(step, parts, self._params, out, start)
        if bad:
            with self._lock:
                self.nonfinite[step.name] = self.nonfinite.get(step.name, 0) + bad

    def _buffer(self, place: int, size: int) -> memoryview:
        """Return this thread's buffer for one input; fresh pages cost 20 times the arithmetic."""
        buffers: dict[int, bytearray] = self._local.__dict__.setdefault("buffers", {})
        if place not in buffers or len(buffers[place]) < size:
            buffers[place] = bytearray(size)
        return memoryview(buffers[place])[:size]


def _item(step: Step) -> int:
    """Fewest bytes of the result that can be computed by themselves."""
    return step.spec.dtype.block_bytes * step.block


def evaluate(
    node: Node,
    resolve: Resolver,
    ops: Mapping[str, Op],
    *,
    metadata: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Return the result of a recipe as a checkpoint; nothing is computed until it is read.

    A source that stands in the recipe twice is opened once. ``metadata`` is what the result shall
    say about itself; without it an operation's result says nothing.

    Raises:
        MismatchError: the inputs do not fit together.
        NotFoundError: an operation or a source does not exist.
        UsageError: a parameter is out of its range.
    """
    opened: dict[Node, Checkpoint] = {}
    try:
        return _evaluate(node, resolve, ops, metadata or {}, opened)
    except BaseException:
        for checkpoint in opened.values():
            checkpoint.close()
        raise


def _evaluate(
    node: Node,
    resolve: Resolver,
    ops: Mapping[str, Op],
    metadata: Mapping[str, str],
    opened: dict[Node, Checkpoint],
) -> Checkpoint:
    if node in opened:
        return opened[node]
    if isinstance(node, Source):
        opened[node] = resolve(node)
        return opened[node]
    return _operation(node, resolve, ops, metadata, opened)


def _operation(
    node: Apply,
    resolve: Resolver,
    ops: Mapping[str, Op],
    metadata: Mapping[str, str],
    opened: dict[Node, Checkpoint],
) -> Checkpoint:
    op = ops[node.op]
    check_arity(node.op, op, len(node.inputs))
    params = complete(node.op, op, node.params)
    inputs = [_evaluate(child, resolve, ops, {}, opened) for child in node.inputs]
    try:
        opened[node] = RecipeCheckpoint(op, inputs, params, metadata)
    except MismatchError as error:
        given = "\n".join(f"  input {i}: {_face(n)}" for i, n in enumerate(node.inputs, 1))
        raise type(error)(f"{node.op}: {error}\n{given}") from None
    return opened[node]


def _face(node: Node) -> str:
    """Return what people know an input by."""
    if isinstance(node, Source):
        return node.ref
    return f"{node.op}({', '.join(_face(child) for child in node.inputs)})"


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
