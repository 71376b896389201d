"""What an object of a lost pack was kept as a difference to: the pack knew it, so it is found out anew.

A record tells it: its title names the checkpoint it is a difference to, its recipe computes what a residual is
the difference of. Which is only a way to save space: the values were found elsewhere and have the right digest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from memcard.core.checkpoint import Checkpoint
from memcard.errors import MemcardError
from memcard.jobs._pack_plain import Reader
from memcard.jobs._stored import StoredCheckpoint
from memcard.jobs._verify_packs import PackWork
from memcard.store import refs
from memcard.store.layout import Layout
from memcard.store.manifest import Manifest
from memcard.store.pack import BaseRef
from memcard.store.packed import computed_key

New: TypeAlias = tuple[int, Reader]  # depth and values of an object that was stored again

_NAMED: Final = re.compile(r"(?:difference to|trained from) ([0-9a-f]{12})")
_DEPTH: Final = 2  # as for what is packed new


@dataclass(frozen=True, slots=True)
class Stand:
    """How an object is stored again.

    Attributes:
        base: what it is a difference to; None: nothing.
        residual: whether that is what a recipe gives.
        packs: names of those that are needed to read the base.
    """

    base: BaseRef | None = None
    residual: bool = False
    packs: tuple[str, ...] = ()


class Stands:
    """Finds out how lost objects are to be stored again. Close it at the end."""

    def __init__(self, home: Layout, work: PackWork) -> None:
        self._home, self._work = home, work
        self._owners: dict[str, tuple[str, str]] = {}
        self._wanted: Counter[str] = Counter()
        self._made: dict[str, Checkpoint | None] = {}
        self._stack = ExitStack()
        for manifest_id in work.records:
            lost = set(work.lost_keys(manifest_id))
            self._wanted.update(lost)
            for name, tensor in work.manifest(manifest_id).tensors.items() if lost else ():
                if tensor.blake3 in lost:
                    self._owners.setdefault(tensor.blake3 or "", (manifest_id, name))
        versions = [v for ref in refs.every(home, []) for v in ref.versions]
        self._called = {version.sha256[:12]: version.manifest for version in versions}

    def order(self, keys: Mapping[str, object]) -> list[str]:
        """Return keys in the order in which to store them: what others may be differences to comes first."""
        bases = {base for key in keys for base in self._namesakes(key)}
        return sorted(keys, key=lambda key: key not in bases)

    def of(self, key: str, new: Mapping[str, New]) -> Stand:
        """Return how to store an object.

        Args:
            key: of the object.
            new: objects that were stored again just now.
        """
        shelf = self._work.shelf
        pack = shelf.find(key)
        if pack is not None and pack.objects[key].kind == "tensor":
            return self._packed(shelf.chain(key)[1:])
        if (residual := self._residual(key)) is not None:
            return residual
        for base in self._namesakes(key):
            if base in new:
                depth, read = new[base]
                if depth < _DEPTH:
                    return Stand(BaseRef(base, read, depth))
            found = self._packed(shelf.chain(base))
            if found.base is not None and found.base.depth < _DEPTH:
                return found
        return Stand()

    def _packed(self, chain: tuple[str, ...]) -> Stand:
        """Return the first of a chain of objects as a base, if all of it can be read."""
        shelf = self._work.shelf
        packs = [shelf.find(key) for key in chain]
        if not chain or any(map(shelf.is_bad, chain)) or None in packs:
            return Stand()
        first = packs[0].objects[chain[0]] if packs[0] is not None else None
        if first is None or first.kind != "tensor":
            return Stand()
        read = partial(shelf.read, chain[0])
        names = tuple(pack.name for pack in packs if pack is not None)
        return Stand(BaseRef(chain[0], read, first.depth), packs=names)

    def _residual(self, key: str) -> Stand | None:
        """Return what the recipe of its only checkpoint gives; None if it has none."""
        manifest_id, name = self._owners.get(key, ("", ""))
        if self._wanted[key] != 1 or name not in self._work.wrong.get(manifest_id, ()):
            return None
        made = self._computed(manifest_id)
        if made is None:
            return None

        def read(at: int, out: memoryview) -> None:
            made.readinto(name, out, at)

        return Stand(BaseRef(computed_key(manifest_id, name), read), residual=True)

    def _computed(self, manifest_id: str) -> Checkpoint | None:
        if manifest_id not in self._made:
            self._made[manifest_id] = None
            record, packs = self._work.records[manifest_id], self._work.shelf.packs
            with suppress(MemcardError):
                there = replace(record, packs=tuple(p for p in record.packs if p in packs))
                stored = StoredCheckpoint(self._home, manifest_id, there)
                self._stack.callback(stored.close)
                self._made[manifest_id] = stored.foretold
        return self._made[manifest_id]

    def _namesakes(self, key: str) -> Iterator[str]:
        """Yield the keys of tensors of this name in the checkpoints the record speaks of."""
        manifest_id, name = self._owners.get(key, ("", ""))
        if not manifest_id:
            return
        spec = self._work.manifest(manifest_id).tensors[name].spec
        for other in self._relatives(manifest_id):
            there = other.tensors.get(name)
            if there is not None and there.spec == spec and there.blake3 not in (None, key):
                yield there.blake3 or ""

    def _relatives(self, manifest_id: str) -> Iterator[Manifest]:
        record = self._work.records[manifest_id]
        named = _NAMED.match(record.title)
        ids = [] if named is None else [self._called.get(named[1], "")]
        for one in dict.fromkeys((*ids, *record.sources)):
            with suppress(MemcardError):
                if one:
                    yield self._work.manifest(one)

    def close(self) -> None:
        """Close what was opened."""
        self._stack.close()
