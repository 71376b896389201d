"""What the hooks share: batches for a trainer that runs the loop itself.

A save is made when the trainer asks for the next batch. Whatever it did after the update (schedulers, logs,
validation, other callbacks) is in the save then, and a resumed run has not to do it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from memcard.errors import UnsupportedError, UsageError
from memcard.training.checkpointer import Checkpointer

Metrics: TypeAlias = Mapping[str, float]


class Serving:
    """An iterable in place of a loader; every iteration goes on where the last one was left.

    It does not end by itself: the trainer knows by the length when an epoch is over.

    Args:
        loader: of the training.
        between: called before each batch; reports finished steps to the Checkpointer.

    Raises:
        UnsupportedError: the loader has no length.
    """

    def __init__(self, loader: Any, between: Callable[[], None]) -> None:
        self.loader = loader
        self._between = between
        self._batches: Iterator[tuple[int, Any]] = iter(())
        try:
            len(loader)
        except TypeError:
            raise UnsupportedError(
                f"The train loader ({type(loader).__name__} over {type(getattr(loader, 'dataset', None)).__name__}) "
                "has no length, so its trainer fetches ahead and the position would not be known. Give the data "
                "set __len__, or write the loop yourself with Checkpointer.loop."
            ) from None

    def begin(self, checkpointer: Checkpointer) -> None:
        """Serve from where a Checkpointer stands; call it after its ``resume``."""
        self._batches = checkpointer.loop(self.loader)

    def end(self) -> None:
        """Serve no more; writes the save that waits for the end of a turn."""
        if hasattr(self._batches, "close"):
            self._batches.close()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Serve batches without end."""
        while True:
            self._between()
            yield next(self._batches)[1]


class Reported:
    """Finished steps on their way to a Checkpointer, each once."""

    def __init__(self, checkpointer: Checkpointer, step: int) -> None:
        self._checkpointer = checkpointer
        self._step = step
        self.metrics: dict[str, float] = {}

    def step(self, step: int) -> None:
        """Report that so many steps are finished, and the metrics that came up since the last report."""
        if step <= self._step:
            return
        self._step = step
        metrics, self.metrics = self.metrics, {}
        self._checkpointer.step(step, metrics)

    def measured(self, metrics: Mapping[str, Any]) -> None:
        """Note metrics for the next report; what is no number is left out."""
        for name, value in metrics.items():
            if isinstance(value, (int, float)) or getattr(value, "numel", lambda: 0)() == 1:
                self.metrics[name] = float(value)


def extras(given: Any, name: str, ours: Any) -> dict[str, Any]:
    """Return what the user gave as ``extra`` together with an object of a hook.

    Raises:
        UsageError: the user's has the same name.
    """
    if isinstance(given, (list, tuple)):
        given = {str(i): one for i, one in enumerate(given)}
    elif given is not None and not isinstance(given, Mapping):
        given = {"own": given}
    if name in (given or {}):
        raise UsageError(f"extra={{{name!r}: …}} is a name of memcard's own here. Choose another.")
    return {**(given or {}), name: ours}


def few(things: list[Any]) -> Any:
    """Return nothing for none, one thing alone, several as a list."""
    return (things[0] if len(things) == 1 else things) if things else None
