"""Look a library over: its folder, its disk and all its records; say what is wrong and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memcard.core.digest_cache import cache_folder
from memcard.errors import CorruptError, NotFoundError
from memcard.jobs._doctor_place import Finding, place
from memcard.jobs._doctor_records import look
from memcard.store import layout as layouts
from memcard.store.layout import Layout, check
from memcard.store.library_index import open_index


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found.

    Attributes:
        root: folder of the library.
        findings: the worst first.
        names: how many checkpoints have names.
    """

    root: Path
    findings: tuple[Finding, ...]
    names: int

    @property
    def ok(self) -> bool:
        """Whether there is no fault that was not mended; notes are none."""
        return all(one.fixed or one.severity == "note" for one in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "ok": self.ok,
            "library": str(self.root),
            "names": self.names,
            "findings": [asdict(one) for one in self.findings],
        }


def doctor(home: Layout, *, fix: bool = False) -> Diagnosis:
    """Look at everything but the values of tensors, which `verify` reads.

    Args:
        home: the library.
        fix: mend what can be mended without a choice: a lost ``library.json``, manifests whose file is at
            hand, the index, litter, places that are empty. Nothing is removed that anything needs.

    Raises:
        NotFoundError: there is no library, nor what is left of one.
        UnsupportedError: it is of a newer version.
        DiskError: it cannot be written, with ``fix``.
    """
    if not home.root.is_dir():
        raise NotFoundError(f"{home.root}: there is no such folder. `memcard add FILE` makes one.")
    if not layouts.exists(home) and not home.refs.is_dir() and not home.shelf("manifests").is_dir():
        check(home)  # says that there is none
    found = [*place(home, fix=fix), *look(home, fix=fix), *_index(home, fix=fix)]
    order = ("error", "warning", "note")
    found.sort(key=lambda one: order.index(one.severity))
    names = sum(path.suffix == ".json" for path in _listed(home.refs))
    return Diagnosis(home.root, tuple(found), names)


def _index(home: Layout, *, fix: bool) -> Iterator[Finding]:
    try:
        library_id = check(home)
    except (CorruptError, NotFoundError):
        return  # told already
    folder = cache_folder()
    if folder is None or not _usable(folder):
        where = "is switched off (MEMCARD_CACHE)" if folder is None else "cannot be written"
        yield Finding(
            *("note", str(folder or "cache"), f"the cache folder {where}."),
            "Nothing, unless lists of a large library take too long: they read every name then.",
        )
        return
    with open_index(home, library_id) as index:
        if fix:
            index.rebuild()
        count, named = index.count(), len(_readable(home))
        if index.built and not fix:
            yield Finding(
                *(
                    "note",
                    str(folder),
                    "the index was missing, damaged or behind, and was built anew.",
                ),
                "Nothing.",
            )
        if count != named:
            yield Finding(
                *("warning", str(folder), f"the index lists {count} names, there are {named}."),
                "memcard doctor --fix builds it anew.",
                "builds it anew",
            )


def _readable(home: Layout) -> list[str]:
    from memcard.store import refs

    return [ref.name for ref in refs.every(home, [])]


def _usable(folder: Path) -> bool:
    """Whether a folder can be written to, or made."""
    there = next((f for f in (folder, *folder.parents) if f.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK)


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
