"""From what was learnt back to the base's own names, shapes and dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from torch import Tensor

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.tensors import Specs
from memcard.core.views import Rearranged
from memcard.dialects import translate
from memcard.errors import MismatchError
from memcard.jobs._finetune_models import Base
from memcard.maths.torch_bridge import DTYPES

_LEVEL: Final = "text_model."


class Tuned:
    """The base with what it learnt, under the base's own names, shapes and dtypes; a ``Checkpoint``.

    What did not learn has the base's own bytes, also counters that no network needs.
    """

    format = "safetensors"

    def __init__(
        self, base: Base, learnt: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> None:
        """Lay ``learnt`` over the base.

        Args:
            base: stays open.
            learnt: ``COMPONENT.NAME`` of the networks to values.
            metadata: of the result.

        Raises:
            MismatchError: values do not fit into the base's dtype.
        """
        self._base, self.metadata = base.source, metadata
        lying = _Laid(base.view, learnt)
        side = "ldm" if base.identity.dialect != "diffusers" else "diffusers"
        back = translate(lying.specs, cast("Any", side), family=base.family)
        view = Rearranged(lying, back.arrangements)
        own = base.source.specs
        odd = [name for name, spec in view.specs.items() if own.get(name) != spec]
        self.notes = (_renamed(odd),) if odd else ()
        self._learnt = view
        changed = {
            name
            for name, made in back.arrangements.items()
            if odd or any(piece.name in lying.learnt for piece in made.pieces)
        }
        self.learnt = frozenset(changed)
        self.specs: Specs = dict(view.specs) if odd else dict(own)

    def read(self, name: str) -> memoryview:
        """Return one tensor."""
        return (self._learnt if name in self.learnt else self._base).read(name)

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor that start at ``offset``."""
        (self._learnt if name in self.learnt else self._base).readinto(name, into, offset)

    def extent(self, name: str) -> Extent | None:
        """Where the bytes lie; None for what was learnt."""
        return None if name in self.learnt else self._base.extent(name)

    def close(self) -> None:
        """Do nothing: the base belongs to who opened it."""


class _Laid:
    """A view in diffusers' names with some values replaced, cast to the dtype they had."""

    format = "safetensors"

    def __init__(self, view: Checkpoint, learnt: Mapping[str, Tensor]) -> None:
        self._view, self.specs = view, view.specs
        self.metadata: Mapping[str, str] = {}
        self.notes: tuple[str, ...] = ()
        self.learnt = {
            found: value
            for name, value in learnt.items()
            if (found := _stored_name(name, view.specs)) is not None
        }
        wild = [name for name in self.learnt if not bool(torch.isfinite(self._cast(name)).all())]
        if wild:
            raise MismatchError(
                f"{len(wild)} tensors hold values that {view.specs[wild[0]].dtype} cannot, first {wild[0]!r}. "
                "The training diverged, or the base must be converted to bf16 or fp32 first."
            )

    def read(self, name: str) -> memoryview:
        if name not in self.learnt:
            return self._view.read(name)
        value = self._cast(name)
        return value.reshape(-1).view(torch.uint8).numpy().data.toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        if name in self.learnt:
            into[:] = self.read(name)[offset : offset + len(into)]
        else:
            self._view.readinto(name, into, offset)

    def extent(self, name: str) -> Extent | None:
        return None if name in self.learnt else self._view.extent(name)

    def close(self) -> None:
        return

    def _cast(self, name: str) -> Tensor:
        spec = self.specs[name]
        wanted = self.learnt[name].detach().to("cpu", DTYPES[spec.dtype.name])
        return wanted.contiguous().reshape(max(1, spec.elements) if not spec.shape else spec.shape)


def _stored_name(name: str, specs: Specs) -> str | None:
    """Return the name in the view of a network's key; transformers 5.6 dropped a level of them."""
    if name in specs:
        return name
    component, _, rest = name.partition(".")
    older = f"{component}.{_LEVEL}{rest}"
    return older if older in specs else None


def _renamed(odd: list[str]) -> str:
    return (
        f"{len(odd)} tensors have the usual names or shapes instead of the base's own, first {odd[0]!r}. "
        "Programs read both."
    )
