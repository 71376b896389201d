"""What a checkpoint needs to be read without a plain file of it: packs, and for some a recipe.

A record names every pack that holds an object of the checkpoint or a base of one, so a reader opens these and
no others. With a recipe, the tensors that lie in no pack are computed from other packed checkpoints; those
that the recipe gives wrongly in a few places lie in a pack as the difference to what it gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from memcard.errors import UnsupportedError
from memcard.store.canonical import Fields, read_object, sealed
from memcard.store.layout import Layout
from memcard.store.writer import Writer

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Packed:
    """See ``docs/spec/library.md``.

    Attributes:
        manifest: id of the manifest.
        packs: names of all packs that are needed to read it.
        recipe: document of the recipe, whose sources are called by the ids of manifests; None: no recipe.
        title: how it is packed, in one line; of a recipe what it computes.
        sources: ids of the manifests the recipe computes from.
        stored: bytes of the packs that were written for it; bases and tensors that were there not counted.
    """

    manifest: str
    packs: tuple[str, ...]
    recipe: Mapping[str, Any] | None = None
    title: str = ""
    sources: tuple[str, ...] = field(default=())
    stored: int = 0

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return sealed(
            {
                "packed": VERSION,
                "manifest": self.manifest,
                "packs": list(self.packs),
                "recipe": dict(self.recipe or {}),
                "title": self.title,
                "sources": list(self.sources),
                "stored": self.stored,
            }
        )


def path_of(layout: Layout, manifest: str) -> Path:
    """Return the file of a record."""
    return layout.shelf("packed") / manifest[:2] / f"{manifest}.json"


def put(writer: Writer, packed: Packed) -> None:
    """Write a record; what it names must be there and synced."""
    writer.write(path_of(writer.layout, packed.manifest), packed.to_bytes())


def get(layout: Layout, manifest: str) -> Packed | None:
    """Return the record of a manifest; None if the checkpoint is not packed.

    Raises:
        CorruptError: the record is damaged.
        UnsupportedError: a newer memcard wrote it.
    """
    path = path_of(layout, manifest)
    try:
        fields = Fields(read_object(path), str(path))
    except FileNotFoundError:
        return None
    if (version := fields.number("packed")) > VERSION:
        raise UnsupportedError(
            f"{path}: is a record of version {version}; this memcard knows {VERSION}. "
            "Upgrade it: pip install --upgrade memcard."
        )
    return Packed(
        fields.digest("manifest"),
        fields.digests("packs"),
        fields.mapping("recipe") or None,
        fields.text("title", ""),
        fields.digests("sources"),
        fields.maybe_number("stored") or 0,
    )


def packed_size(layout: Layout, manifest: str) -> int | None:
    """Return the bytes of the packs that were written for a checkpoint; None if it is not packed.

    What it shares with others, bases and equal tensors, is counted with the one that came first.

    Raises:
        CorruptError, UnsupportedError: as ``get``.
    """
    found = get(layout, manifest)
    return None if found is None else found.stored


def every(layout: Layout) -> Iterator[str]:
    """Yield the ids of all manifests that are packed."""
    for path in sorted(layout.shelf("packed").glob("[0-9a-f][0-9a-f]/*.json")):
        if len(path.stem) == 64:
            yield path.stem


def computed_key(manifest: str, tensor: str) -> str:
    """Return the key by which a residual calls what the recipe of its checkpoint gives for a tensor."""
    return blake3(f"memcard computed\n{manifest}\n{tensor}".encode()).hexdigest()
