"""The tensors of a save that is being read, and the fastest way from there into tensors that exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from memcard.training._copying import Run, copy_runs, is_plain

if TYPE_CHECKING:
    from memcard.core.checkpoint import Checkpoint

from memcard.maths.torch_bridge import Bridge


class Windows:
    """Tensors by name; nothing is read before it is used. The same name gives the same object.

    Args:
        file: stays open as long as this is used.
    """

    def __init__(self, file: Checkpoint) -> None:
        self._file = file
        self._tensors = Bridge(file).tensors()
        self._names = {id(tensor): name for name, tensor in self._tensors.items()}

    def __call__(self, name: str) -> Tensor:
        """Return a tensor that is not to be changed."""
        return self._tensors[name]

    def fill(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Copy the second tensor of each pair, one of these or of another origin, into the first."""
        import numpy as np

        runs: list[Run] = []
        alive = []  # the views that the addresses point into
        with torch.no_grad():
            for to, source in pairs:
                name = self._names.get(id(source))
                if name is None or not (is_plain(to) and to.dtype == source.dtype):
                    to.copy_(source)
                elif source.numel():
                    # The view that was verified: its pages are there, those of the window would be mapped anew.
                    view = np.frombuffer(self._file.read(name), np.uint8)
                    alive.append(view)
                    runs.append((to.data_ptr(), view.ctypes.data, view.nbytes))
        copy_runs(runs)
