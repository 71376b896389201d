"""The objects in the packs of a library, opened when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Self

from memcard.errors import MemcardError, NotFoundError
from memcard.store._pack_layout import PackedObject
from memcard.store.layout import Layout
from memcard.store.pack import BaseReader, Pack, reader_of

Computed = Callable[[str, int, memoryview], bool]


class Objects:
    """Some packs of a library. Closes them at the end of a ``with`` block; safe for several threads."""

    def __init__(
        self, layout: Layout, names: Iterable[str], computed: Computed | None = None
    ) -> None:
        """Name the packs.

        Args:
            layout: of the library.
            names: of the packs; opened at once, which reads their lists of objects only.
            computed: fills memory with what a recipe gives for a key; False if it knows no such key.

        Raises:
            NotFoundError: a pack is missing.
            CorruptError, UnsupportedError: a pack cannot be read.
        """
        self._packs: dict[str, Pack] = {}
        self._keys: dict[str, Pack] = {}
        self._layout, self._lock = layout, Lock()
        try:
            for name in names:
                self.include(name)
        except BaseException:
            self.close()
            raise
        self._reader = self.reader(computed)

    @classmethod
    def everything(cls, layout: Layout) -> Self:
        """Open all packs that are there and can be read."""
        objects = cls(layout, ())
        for name in _names(layout):
            with suppress(MemcardError, OSError):  # verify and doctor speak of it
                objects.include(name)
        return objects

    def reader(self, computed: Computed | None = None) -> BaseReader:
        """Return what reads these objects, and what a recipe gives for other keys."""
        return reader_of(self._keys.get, computed or (lambda key, offset, out: False))

    def include(self, name: str) -> Pack:
        """Open one more pack."""
        with self._lock:
            if name not in self._packs:
                path = pack_path(self._layout, name)
                try:
                    self._packs[name] = Pack.open(path)
                except FileNotFoundError:
                    raise NotFoundError(
                        f"{path}: the library lacks this pack. `memcard doctor` tells which checkpoints "
                        "need it, `memcard repair` looks for other copies of them."
                    ) from None
                self._know(self._packs[name])
            return self._packs[name]

    @property
    def packs(self) -> tuple[str, ...]:
        """Names of the packs that are open."""
        return tuple(self._packs)

    def lacks_a_base(self, name: str) -> bool:
        """Tell whether an open pack has a difference to something that is in no open pack.

        What a residual is a difference to is computed, and is in none.
        """
        bases = (o.base for o in self._packs[name].objects.values() if o.kind != "residual")
        return any(base is not None and base not in self._keys for base in bases)

    def has_pack(self, name: str) -> bool:
        """Tell whether a pack is open."""
        return name in self._packs

    def exclude(self, name: str) -> None:
        """Forget a pack."""
        with self._lock:
            gone = self._packs.pop(name, None)
            if gone is not None:
                gone.close()
                self._keys.clear()
                for pack in self._packs.values():
                    self._know(pack)

    def _know(self, pack: Pack) -> None:
        for key, one in pack.objects.items():
            old = self._keys.get(key)
            # What needs a recipe to be read is the last choice.
            if old is None or (old.objects[key].kind == "residual" and one.kind != "residual"):
                self._keys[key] = pack

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def get(self, key: str) -> PackedObject | None:
        """Return what is known of an object; None if no pack has it."""
        pack = self._keys.get(key)
        return None if pack is None else pack.objects[key]

    def pack_of(self, key: str) -> Pack | None:
        """Return the pack an object is read from; None if no pack has it."""
        return self._keys.get(key)

    def built_on(self) -> Counter[str]:
        """Count the objects that are kept as differences to each other object."""
        bases = (pack.objects[key].base for key, pack in self._keys.items())
        return Counter(base for base in bases if base is not None)

    def read(self, key: str, offset: int, out: memoryview) -> None:
        """Fill ``out`` with the bytes of an object from ``offset`` on; each block is checked."""
        self._reader(key, offset, out)

    def packs_of(self, key: str) -> Iterator[str]:
        """Yield the names of the packs that are needed to read an object: its own, those of its bases."""
        seen: set[str] = set()
        at: str | None = key
        while at is not None and at not in seen:
            seen.add(at)
            pack = self._keys.get(at)
            if pack is None:
                return
            yield pack.name
            at = pack.objects[at].base

    def close(self) -> None:
        """Close all packs."""
        for pack in self._packs.values():
            pack.close()
        self._packs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def pack_path(layout: Layout, name: str) -> Path:
    """Return the file of a pack."""
    return layout.packs / name[:2] / f"{name}.pack"


def all_packs(layout: Layout) -> Iterator[str]:
    """Yield the names of all packs that are there and can be read."""
    for name in _names(layout):
        try:
            Pack.open(pack_path(layout, name)).close()
        except (MemcardError, OSError):
            continue  # verify and doctor speak of it
        yield name


def _names(layout: Layout) -> list[str]:
    return [path.stem for path in sorted(layout.packs.glob("[0-9a-f][0-9a-f]/*.pack"))]
