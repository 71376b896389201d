"""Whether the weights were updated since the last look: between two updates gradients are on their way.

With accumulated gradients an optimizer steps at every n-th batch only. A save in between would lose what was
accumulated, because gradients are in no save; so saves wait for the next update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch

GIVE_UP: Final = (
    512  # looks without any update: then the optimizers step in a way that we cannot see
)


class Updates:
    """Notices the steps of optimizers.

    Args:
        optimizers: one, or a dict or list of them, or None; those that are not of torch cannot be watched.
        say: told once when no step was ever seen.
    """

    def __init__(self, optimizers: Any, say: Callable[[str], None]) -> None:
        self._say = say
        self._updated = False
        self._looks = 0
        # Accelerate and others wrap an optimizer
        found = [getattr(one, "optimizer", one) for one in _flat(optimizers)]
        watched = [one for one in found if isinstance(one, torch.optim.Optimizer)]
        self._watched = watched
        self._handles = [one.register_step_post_hook(self._note) for one in watched]

    def happened(self) -> bool:
        """Say whether an optimizer stepped since the last call, or there are no gradients to be lost."""
        updated, self._updated = self._updated or not self._gradients(), False
        self._looks = 0 if updated else self._looks + 1
        if self._looks == GIVE_UP:
            self._say(
                f"in {GIVE_UP} steps no optimizer was seen to step. Saves are made nevertheless; gradients that "
                "are accumulated at that moment are not in them. Call step() after optimizer.step()."
            )
        if self._looks >= GIVE_UP:
            self.end()
        return updated or not self._handles

    def _gradients(self) -> bool:
        groups = (group for one in self._watched for group in one.param_groups)
        return any(p.grad is not None for group in groups for p in group["params"])

    def end(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _note(self, *_: Any) -> None:
        self._updated = True


def _flat(given: Any) -> Iterator[Any]:
    if isinstance(given, Mapping):
        given = list(given.values())
    if isinstance(given, (list, tuple)):
        for one in given:
            yield from _flat(one)
    else:
        yield given
