"""The one loop that turns a recipe into a file: threads over chunks of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from threading import Event, Lock, Thread

from memcard.core.checkpoint import Checkpoint, Phased, Sink, aligned
from memcard.core.progress import Listener, Progress, silent
from memcard.errors import MismatchError, UsageError
from memcard.recipes.execute import CHUNK, RecipeCheckpoint, Resolver, evaluate
from memcard.recipes.nodes import Node
from memcard.recipes.op import Op

_MEASURE = -1  # in place of an offset: a job that measures a tensor and writes nothing


@dataclass(frozen=True, slots=True)
class Baked:
    """What baking did.

    Attributes:
        tensors: number of tensors written.
        copied: how many of them were copied as they are, without passing through memory.
        nbytes: size of all tensors.
        nonfinite: name to number of NaN or infinite values computed; empty is good.
        notes: what a careful user should know, one sentence each.
    """

    tensors: int
    copied: int
    nbytes: int
    nonfinite: Mapping[str, int]
    notes: tuple[str, ...]


def bake(
    node: Node,
    resolve: Resolver,
    ops: Mapping[str, Op],
    sink: Sink,
    *,
    threads: int = 2,
    chunk: int = CHUNK,
    metadata: Mapping[str, str] | None = None,
    progress: Listener = silent,
) -> Baked:
    """Write the result of ``node`` to ``sink``. The bits depend on neither threads nor chunk.

    Raises:
        MismatchError: the inputs do not fit together; nothing has been written.
        KeyboardInterrupt: passed on after the threads have stopped; the sink leaves no trace.
    """
    checkpoint = evaluate(node, resolve, ops, metadata=metadata)
    try:
        return pour(
            checkpoint, sink, threads=threads, chunk=chunk, metadata=metadata, progress=progress
        )
    finally:
        checkpoint.close()


def pour(
    checkpoint: Checkpoint,
    sink: Sink,
    *,
    threads: int = 2,
    chunk: int = CHUNK,
    metadata: Mapping[str, str] | None = None,
    refuse_nonfinite: bool = False,
    progress: Listener = silent,
) -> Baked:
    """Write every tensor of ``checkpoint`` to ``sink``; memory is ``chunk`` per thread and input.

    Raises:
        MismatchError: ``refuse_nonfinite``, and a computed value is NaN or infinite; the sink leaves
            no trace.
    """
    if threads < 1 or chunk < 16:
        raise UsageError(f"threads is {threads} and chunk {chunk}; at least 1 and 16 are needed.")
    specs = checkpoint.specs
    with sink:
        sink.begin(specs, checkpoint.metadata if metadata is None else metadata)
        crew = _Crew(checkpoint, sink, chunk)
        crew.run(threads, sum(spec.nbytes for spec in specs.values()), progress)
        nonfinite = checkpoint.nonfinite if isinstance(checkpoint, RecipeCheckpoint) else {}
        if nonfinite and refuse_nonfinite:
            raise MismatchError(
                f"{_wild(nonfinite)} Nothing was written. Repair the input (memcard diff counts them), "
                "choose a wider dtype, or allow them with --nonfinite allow."
            )
    notes = [*checkpoint.notes]
    if nonfinite:
        notes.append(_wild(nonfinite))
    total = sum(spec.nbytes for spec in specs.values())
    return Baked(len(specs), crew.copied, total, dict(nonfinite), tuple(notes))


def _wild(nonfinite: Mapping[str, int]) -> str:
    worst = max(nonfinite, key=lambda name: nonfinite[name])
    return (
        f"{sum(nonfinite.values())} computed values are NaN or infinite, in {len(nonfinite)} "
        f"tensors; most in {worst!r}. Inputs that hold them, or a dtype too narrow, cause this."
    )


class _Crew:
    """Threads that take (tensor, chunk) jobs in file order until none is left or one fails."""

    def __init__(self, checkpoint: Checkpoint, sink: Sink, chunk: int) -> None:
        self.copied = 0
        self._checkpoint, self._sink, self._chunk = checkpoint, sink, chunk
        self._jobs: Iterator[tuple[str, int, int]] = iter(())
        self._lock, self._stop = Lock(), Event()
        self._done = 0
        self._error: BaseException | None = None

    def run(self, threads: int, total: int, progress: Listener) -> None:
        """Work until done; re-raise the first error after all threads have stopped."""
        self._jobs = self._list(threads)
        crew = [Thread(target=self._work, name=f"bake-{i}", daemon=True) for i in range(threads)]
        for thread in crew:
            thread.start()
        try:
            busy = True
            while busy:
                for thread in crew:
                    thread.join(0.1)  # short, so that Ctrl-C is heard
                busy = any(thread.is_alive() for thread in crew)
                if not self._stop.is_set():
                    progress(Progress("bake", self._done, total))
        finally:
            self._stop.set()
            for thread in crew:
                thread.join()
        if self._error is not None:
            raise self._error

    def _list(self, threads: int) -> Iterator[tuple[str, int, int]]:
        """List the jobs; a tensor is measured by one thread while the others compute those before.

        So the measuring of each is begun as many tensors early as there are other threads.
        """
        names, begun = list(self._checkpoint.specs), 0
        for index, name in enumerate(names):
            for early in names[begun : index + threads]:
                if isinstance(self._checkpoint, RecipeCheckpoint) and self._checkpoint.measures(
                    early
                ):
                    yield early, _MEASURE, 0
            begun = max(begun, index + threads)
            yield from self._pieces(name)

    def _pieces(self, name: str) -> Iterator[tuple[str, int, int]]:
        step, size = self._chunk, self._checkpoint.specs[name].nbytes
        if isinstance(self._checkpoint, RecipeCheckpoint):
            step = self._checkpoint.piece(name, step)
        if step >= size or self._checkpoint.extent(name) is not None:
            yield name, 0, size
            return
        for at in range(0, size, step):
            yield name, at, min(step, size - at)

    def _work(self) -> None:
        buffer = aligned(0)
        try:
            while not self._stop.is_set():
                with self._lock:
                    job = next(self._jobs, None)
                if job is None:
                    return
                buffer = self._one(*job, buffer)
                with self._lock:
                    self._done += job[2]
        except BaseException as error:  # noqa: BLE001  # carried to the caller's thread
            self._error = self._error or error
            self._stop.set()

    def _one(self, name: str, offset: int, size: int, buffer: memoryview) -> memoryview:
        if offset == _MEASURE and isinstance(self._checkpoint, RecipeCheckpoint):
            self._checkpoint.measure(name)
            return buffer
        extent = self._checkpoint.extent(name)
        if extent is not None:
            self._sink.copy(name, extent)
            with self._lock:
                self.copied += 1
            return buffer
        lead = self._sink.phase(name, offset) if isinstance(self._sink, Phased) else 0
        if len(buffer) < lead + size:
            buffer = aligned(lead + size)
        part = buffer[lead : lead + size]
        self._checkpoint.readinto(name, part, offset)
        self._sink.write(name, part, offset)
        return buffer
