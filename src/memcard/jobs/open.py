"""Open any checkpoint: a file, or a name of the starter."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Self

from memcard.core.views import View
from memcard.jobs.resolve import resolve


class Opened(View):
    """A checkpoint that also knows its family. Closes at the end of a ``with`` block."""

    @cached_property
    def architecture(self) -> str | None:
        """Name of the model family, from names and shapes; None if unknown or ambiguous."""
        from memcard.architectures import detect

        found = detect(self.specs)
        return found[0] if found else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<checkpoint: {self.format}, {len(self.specs)} tensors>"


def open(ref: str | Path) -> Opened:  # noqa: A001  # the name other programs rely on
    """Open a checkpoint. Nothing in the file is executed; only headers are read.

    Args:
        ref: a path, ``starter``, ``starter/raw`` or ``starter/STYLE``.

    Raises:
        FormatError: the file cannot be read as a checkpoint.
        NotFoundError: nothing has this name.
    """
    return Opened(resolve(ref))
