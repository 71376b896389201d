"""Containers that hold named tensors. A file is opened by what it contains, not by its name."""

from __future__ import annotations

import os
from pathlib import Path

from memcard.core.checkpoint import Checkpoint, Format
from memcard.core.registry import Registry
from memcard.errors import NotFoundError, UnsupportedError
from memcard.formats._bare_pickle import refuse_hostile
from memcard.formats._identify import describe

FORMATS: Registry[Format] = Registry("memcard.formats")
HEAD = 4096  # bytes a format may look at to recognise itself


def open_file(path: str | os.PathLike[str], *, salvage: bool = False) -> Checkpoint:
    """Open a checkpoint by its content; reads headers only.

    Args:
        path: a file, or a folder that is one checkpoint.
        salvage: list the tensors of a file that asks to run code; nothing is run.

    Raises:
        NotFoundError: there is no such file.
        UnsafeError: the file asks the reader to run code.
        CorruptError: its bytes break the rules of its format.
        UnsupportedError: it is something else; the message says what, and what to do.
    """
    path = Path(path)
    head = _head(path)
    for name in FORMATS:
        if FORMATS[name].sniff(head):
            return FORMATS[name].open(path, salvage=salvage)
    refuse_hostile(path, head)
    raise UnsupportedError(f"{path}: {describe(head)}")


def sniff_file(path: str | os.PathLike[str]) -> str | None:
    """Return the name of the format whose content the file has; None if it is none of ours."""
    head = _head(Path(path))
    return next((name for name in FORMATS if FORMATS[name].sniff(head)), None)


def format_for_suffix(path: str | os.PathLike[str]) -> Format:
    """Return the format to write under this name.

    Raises:
        UnsupportedError: no format has this suffix.
    """
    suffix = Path(path).suffix.lower()
    known: list[str] = []
    for form in FORMATS.values():
        if suffix in form.suffixes:
            return form
        known += form.suffixes
    raise UnsupportedError(
        f"{path}: no format is written as {suffix or 'a name without suffix'!r}. "
        f"End the name in one of: {', '.join(known)}."
    )


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UnsupportedError(
                f"{path}: is a folder. Name the file inside it, such as "
                "unet/diffusion_pytorch_model.safetensors of a diffusers folder."
            )
        if path.exists() and not path.is_file():
            raise UnsupportedError(f"{path}: is not a regular file. Copy its content to one first.")
        with path.open("rb", buffering=0) as file:
            return file.read(HEAD)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no such file.") from None
