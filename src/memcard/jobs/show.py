"""Everything the library knows of one checkpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from memcard.core.card import Card
from memcard.errors import CorruptError, UnsupportedError
from memcard.jobs._library_cards import kept_of
from memcard.store import manifest as manifests
from memcard.store import packed, refs, trash
from memcard.store.layout import Layout, check
from memcard.store.manifest import Manifest
from memcard.store.packed import Packed
from memcard.store.whereabouts import Copy, copies_of


@dataclass(frozen=True, slots=True)
class Shown:
    """A name, one of its versions, what that consists of and where it lies.

    Attributes:
        ref, version: the name, and what it means.
        manifest: what the checkpoint consists of.
        copies: plain files and folders that have it.
        card: what is said of it.
        packed: how the library keeps it; None if it is not packed.
        in_trash: where files of the user's were that are in the trash now, each with its entry there.
    """

    ref: refs.Ref
    version: refs.Version
    manifest: Manifest
    copies: tuple[Copy, ...]
    card: Card = field(default_factory=Card)
    packed: Packed | None = None
    in_trash: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        version, manifest = self.version, self.manifest
        return {
            "name": self.ref.name,
            "digests": dict(manifest.digests),
            "manifest": version.manifest,
            "size": manifest.size,
            "format": manifest.format,
            "kind": manifest.kind,
            "architecture": manifest.architecture,
            "tensors": len(manifest.tensors),
            "dtypes": dict(Counter(t.spec.dtype.name for t in manifest.tensors.values())),
            "files": [{"name": f.name, "sha256": f.sha256, "size": f.size} for f in manifest.files],
            "origin": version.origin,
            "added": version.at,
            "places": [
                {"path": str(c.path), "library": c.owned, "state": c.fitness} for c in self.copies
            ],
            "in_trash": [{"path": path, "entry": entry} for path, entry in self.in_trash],
            "history": [{"sha256": v.sha256, "at": v.at} for v in self.ref.history],
            "made_by": dict(manifest.made_by),
            "parents": list(manifest.parents),
            "metadata": dict(manifest.metadata),
            "packed": self._packed(),
            "card": self.card.to_dict(),
            "notes": [*manifest.notes, *self.card.notes],
        }

    def _packed(self) -> dict[str, Any] | None:
        if self.packed is None:
            return None
        record = self.packed
        return {
            "packs": list(record.packs),
            "stored": record.stored,
            "recipe": record.title or None,
            "sources": list(record.sources),
        }


def show(home: Layout, ref: str) -> Shown:
    """Look a checkpoint up; reads the library's own records only.

    Args:
        home: the library.
        ref: a name, ``name@digits``, or the first digits of a digest.

    Raises:
        NotFoundError: there is no library, or nothing of this name.
        MismatchError: several checkpoints fit.
        IntegrityError: the manifest is damaged.
    """
    check(home)
    found, version = refs.find(home, ref)
    manifest = manifests.get(home, version.manifest)
    where = copies_of(home, version)
    try:
        card = kept_of(home, version).card
    except (CorruptError, UnsupportedError) as error:
        card = Card(notes=(str(error),))
    digests = {file.sha256 for file in manifest.files}
    away = tuple((str(o.path), e.name) for e, o in trash.originals_of(home, digests))
    return Shown(found, version, manifest, where, card, packed.get(home, version.manifest), away)
