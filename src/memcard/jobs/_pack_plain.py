"""Plain copies of stored checkpoints, read through their manifests whatever their format."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from memcard.core.checkpoint import Extent
from memcard.errors import IntegrityError
from memcard.store.layout import Layout
from memcard.store.manifest import Manifest
from memcard.store.whereabouts import copies

# Fills the given memory with the bytes from this offset on.
Reader = Callable[[int, memoryview], None]


class Source:
    """Where the values of a checkpoint are read from: a plain copy of each of its files."""

    def __init__(self, manifest: Manifest, files: Sequence[Reader]) -> None:
        self._manifest, self._files = manifest, files

    def reader(self, name: str) -> Reader:
        """Return what reads one tensor."""
        tensor = self._manifest.tensors[name]
        file, start = self._files[tensor.file], tensor.at or 0
        return lambda at, out: file(start + at, out)

    def file(self, number: int) -> Reader:
        """Return what reads one file."""
        return self._files[number]


class Plain:
    """A checkpoint as ``memcard.core.checkpoint.Checkpoint`` has it, read from plain files."""

    def __init__(self, manifest: Manifest, source: Source) -> None:
        self.format = manifest.format
        self.specs = {n: t.spec for n, t in manifest.tensors.items() if t.at is not None}
        self.metadata = dict(manifest.metadata)
        self.notes: tuple[str, ...] = ()
        self.source = source

    def read(self, name: str) -> memoryview:
        """Return one tensor."""
        out = memoryview(bytearray(self.specs[name].nbytes))
        self.readinto(name, out)
        return out

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into``."""
        self.source.reader(name)(offset, into)

    def extent(self, name: str) -> Extent | None:
        """Not said."""
        return None

    def close(self) -> None:
        """Do nothing: the files are closed by who opened them."""


def open_plain(stack: ExitStack, home: Layout, manifest: Manifest) -> Source:
    """Open plain copies of the files of a checkpoint, until ``stack`` is left.

    Raises:
        IntegrityError: of one there is none that is unchanged.
    """
    readers: list[Reader] = []
    for file in manifest.files:
        sound = [c for c in copies(home, file.sha256) if c.fitness == "ok"]
        if not sound:
            raise IntegrityError(
                f"no unchanged plain copy of {file.name or file.sha256[:16]} is at hand to pack it from."
            )
        handle = stack.enter_context(sound[0].path.open("rb", buffering=0))
        readers.append(_reader(handle.fileno(), sound[0].path))
    return Source(manifest, readers)


def _reader(fd: int, path: Path) -> Reader:
    def read(at: int, out: memoryview) -> None:
        done = 0
        while done < len(out):
            n = os.preadv(fd, [out[done:]], at + done)
            if n == 0:
                raise IntegrityError(f"{path}: became shorter while it was read.")
            done += n

    return read
