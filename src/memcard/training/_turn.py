"""One turn of the loop: a save that is taken in it is written when it ends, as things are then.

``Checkpointer.step`` need not be the last line of a loop's body. What comes after it (a scheduler, an average,
a validation that draws random numbers) is not done again by a resumed run, so it has to be in the save. The
state is copied at once; if it has changed when the turn ends, it is copied again before it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from torch import Tensor

LOOKED_AT: Final = 16  # values of each tensor; an optimizer or an average changes nearly all


class Turn:
    """Holds a save back until the turn ends.

    Attributes:
        inside: whether the body of a loop is running.
    """

    def __init__(self) -> None:
        self.inside = False
        self._write: Callable[[], None] | None = None

    def __enter__(self) -> None:
        self.inside = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.inside = False
        if kind is not None:  # left by break or an error: the state of step() is what is sound
            self.write()

    def hold(self, write: Callable[[], None]) -> None:
        """Write at the end of the turn; outside of a loop, now."""
        self._write = write
        if not self.inside:
            self.write()

    def write(self) -> None:
        """Write what is held."""
        write, self._write = self._write, None
        if write is not None:
            write()

    def drop(self) -> None:
        """Do not write what is held: it is taken again."""
        self._write = None


def mark(tree: Any, tensors: Mapping[str, Tensor]) -> tuple[Any, dict[str, Any]]:
    """Return what differs if a state has changed: plain values, and a look at each tensor.

    The states of generators are compared whole. Of the others torch's count of changes in place is taken, and
    some values of those on the CPU, because writes through ``.data`` are not counted.
    """
    return tree, {name: _look(name, tensor) for name, tensor in tensors.items()}


def _look(name: str, tensor: Tensor) -> Any:
    if name.startswith("random."):
        return tensor.tolist()
    if tensor.device.type != "cpu":
        return tensor.data_ptr(), tensor._version
    return tensor._version, str(tensor.reshape(-1)[:LOOKED_AT].tolist())  # nan is not equal to nan
