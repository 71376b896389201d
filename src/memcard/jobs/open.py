"""Open any checkpoint: a file, or a name of the starter."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from memcard.core.extras import require
from memcard.core.identity import Place, identity
from memcard.core.views import View
from memcard.errors import MemcardError
from memcard.jobs.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from memcard.core.architecture import Identity
    from memcard.maths.torch_bridge import Bridge


class Opened(View):
    """A checkpoint that also knows its family. Closes at the end of a ``with`` block."""

    _closed = False

    @property
    def architecture(self) -> str | None:
        """Name of the model family, also of a LoRA or a VAE; None if unknown or ambiguous."""
        return self.identity.architecture

    @cached_property
    def identity(self) -> Identity:
        """What it is, from names, shapes and metadata: kind, parts, what is missing, evidence."""
        from memcard.architectures import identify

        return identify(self.specs, self.metadata)

    def identity_of(self, name: str, place: Place) -> str | None:
        """Return what a tensor is, told without reading it; see ``memcard.core.identity``."""
        return identity(self._whole, name, place)

    def tensor(self, name: str) -> Tensor:
        """Return one tensor for torch: a window on the file where that is possible, else a copy.

        It may be used after ``close``. Writing to it changes what the next call for the same name
        returns, never the file.

        Raises:
            NotFoundError: there is no tensor of this name.
            UnsupportedError: torch has no dtype for it.
            IntegrityError: the file changed since it was opened.
            UsageError: torch is not installed.
        """
        return self._bridge.tensor(name)

    def tensors(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return these tensors for torch, in this order; None for all. As ``tensor`` otherwise."""
        return self._bridge.tensors(names)

    def close(self) -> None:
        """Give back the file handle. Tensors that were handed out stay as they are."""
        self._closed = True
        self.__dict__.pop("_bridge", None)
        super().close()

    @cached_property
    def _bridge(self) -> Bridge:
        if self._closed:
            raise MemcardError("the checkpoint is closed; open it again to read from it.")
        require("torch", what="a tensor for torch")
        from memcard.maths.torch_bridge import Bridge

        return Bridge(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<checkpoint: {self.format}, {len(self.specs)} tensors>"


def open(  # noqa: A001  # the name other programs rely on
    ref: str | Path, *, base: str | Path | None = None
) -> Opened:
    """Open a checkpoint. Nothing in the file is executed; only headers are read.

    A delta is opened as the checkpoint it makes of its base, which is looked for beside it and in the
    working folder; candidates are hashed.

    Args:
        ref: a path, ``starter``, ``starter/raw`` or ``starter/STYLE``.
        base: the base of a delta, if it lies elsewhere or in another container.

    Raises:
        FormatError: the file cannot be read as a checkpoint.
        MismatchError: ``base`` is not the base of this delta.
        NotFoundError: nothing has this name, or the base of a delta is not at hand.
    """
    return Opened(resolve(ref, base=base))
