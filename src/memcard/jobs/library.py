"""The library as an object: ``memcard.Library()`` with the verbs of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memcard.core.progress import Listener, silent
from memcard.store import layout, refs
from memcard.store.layout import Layout
from memcard.store.whereabouts import plain

if TYPE_CHECKING:  # each verb imports what it needs: `memcard ls` need not know the formats
    from memcard.core.card import Card
    from memcard.jobs.add import Added, How
    from memcard.jobs.doctor import Diagnosis
    from memcard.jobs.export import Exported
    from memcard.jobs.ls import Listing
    from memcard.jobs.open import Opened
    from memcard.jobs.pack import PackedAll
    from memcard.jobs.repair import Repaired
    from memcard.jobs.rm import Removed
    from memcard.jobs.scan import Scanned
    from memcard.jobs.show import Shown
    from memcard.jobs.tree import Tree
    from memcard.jobs.undo import Trashed
    from memcard.jobs.verify import Verified
    from memcard.store.gc import Collected
    from memcard.store.index_rows import Sort


class Library:
    """Remembers which checkpoints there are, where they lie and what is in them.

    Nothing is made on the disk before something is added. Every method may be called from several
    processes at once.

    Example:
        library = memcard.Library()
        library.add(["models/neon.safetensors"])
        with library.open("neon") as checkpoint:
            print(checkpoint.specs)
    """

    def __init__(self, path: str | Path | None = None) -> None:
        """Name a library.

        Args:
            path: its folder; None: ``$MEMCARD_HOME`` or the platform's folder for data.
        """
        self.layout = Layout(Path(path).expanduser() if path is not None else layout.default_home())

    @property
    def path(self) -> Path:
        """The folder of the library."""
        return self.layout.root

    @property
    def id(self) -> str:
        """The id of the library, 32 hex digits.

        Raises:
            NotFoundError: there is none in this folder yet.
        """
        return layout.check(self.layout)

    def add(
        self,
        paths: Iterable[str | Path],
        *,
        name: str | None = None,
        how: How = "in-place",
        update: bool = False,
        progress: Listener = silent,
    ) -> list[Added]:
        """Take checkpoints into the library; see ``memcard.jobs.add.add``."""
        from memcard.jobs.add import add

        return add(self.layout, paths, name=name, how=how, update=update, progress=progress)

    def scan(
        self,
        folders: Iterable[str | Path],
        *,
        hashed: bool = False,
        progress: Listener = silent,
    ) -> list[Scanned]:
        """List what lies in folders, and what of it is new; see ``memcard.jobs.scan.scan``."""
        from memcard.jobs.scan import scan

        return scan(self.layout, folders, hashed=hashed, progress=progress)

    def ls(
        self,
        query: str = "",
        *,
        kind: str | None = None,
        family: str | None = None,
        tags: Sequence[str] = (),
        sort: Sort | None = None,
        descending: bool = False,
        look: bool | None = None,
        limit: int | None = None,
        grouped: bool = False,
    ) -> Listing:
        """List names, or search them; see ``memcard.jobs.ls.ls``."""
        from memcard.jobs.ls import ls

        return ls(
            *(self.layout, query),
            kind=kind,
            family=family,
            tags=tags,
            sort=sort,
            descending=descending,
            look=look,
            limit=limit,
            grouped=grouped,
        )

    def show(self, ref: str) -> Shown:
        """Look one checkpoint up; see ``memcard.jobs.show.show``."""
        from memcard.jobs.show import show

        return show(self.layout, ref)

    def card(self, ref: str) -> Card:
        """Return everything that is said about a checkpoint: by its file, beside it, and by you."""
        from memcard.jobs.card import card_in

        layout.check(self.layout)
        return card_in(self.layout, ref)

    def describe(self, ref: str, changes: Mapping[str, str]) -> Card:
        """Say something of a checkpoint, such as ``{"tags": "film, portrait", "cfg": "5"}``.

        An empty value takes it back. Raises UsageError for what no card has.
        """
        from memcard.jobs.card import describe_in

        layout.check(self.layout)
        return describe_in(self.layout, ref, changes.items())

    def locate(self, ref: str) -> Path:
        """Return a file or folder with the bytes of a stored checkpoint.

        Raises:
            NotFoundError: there is no such checkpoint, or no copy is at hand.
            IntegrityError: all that is left was changed since it was added.
        """
        layout.check(self.layout)
        found, version = refs.find(self.layout, ref)
        return plain(self.layout, found.name, version)

    def open(self, ref: str) -> Opened:
        """Open a stored checkpoint for reading: a plain copy, or what is packed, tensor by tensor.

        Errors as ``locate`` and ``memcard.open``.
        """
        from memcard.jobs._library_refs import path_for
        from memcard.jobs.open import open as open_path

        layout.check(self.layout)
        found, version = refs.find(self.layout, ref)
        return open_path(path_for(self.layout, found.name, version))

    def pack(
        self,
        *names: str,
        threads: int | None = None,
        recipes: bool = True,
        keep_files: bool = False,
        replace_originals: bool = False,
        dry_run: bool = False,
        progress: Listener = silent,
    ) -> PackedAll:
        """Store checkpoints in little space; see ``memcard.jobs.pack.pack``."""
        from memcard.jobs.pack import pack

        return pack(
            *(self.layout, names),
            threads=threads,
            recipes=recipes,
            keep_files=keep_files,
            replace_originals=replace_originals,
            dry_run=dry_run,
            progress=progress,
        )

    def export(
        self,
        ref: str,
        out: str | Path,
        *,
        overwrite: bool = False,
        progress: Listener = silent,
    ) -> Exported:
        """Write a stored checkpoint as it was; see ``memcard.jobs.export.export``."""
        from memcard.jobs.export import export

        return export(self.layout, ref, out, overwrite=overwrite, progress=progress)

    def rm(self, *names: str, dry_run: bool = False) -> Removed:
        """Put names into the trash; see ``memcard.jobs.rm.rm``."""
        from memcard.jobs.rm import rm

        return rm(self.layout, names, dry_run=dry_run)

    def undo(self, entry: str | None = None) -> Trashed:
        """Put back what was put away last; see ``memcard.jobs.undo.undo``."""
        from memcard.jobs.undo import undo

        return undo(self.layout, entry)

    def trashed(self) -> tuple[Trashed, ...]:
        """Return what is in the trash, the oldest first."""
        from memcard.jobs.undo import trashed

        return trashed(self.layout)

    def gc(self, *, days: float = 30.0, dry_run: bool = False) -> Collected:
        """Put away what no name leads to; see ``memcard.jobs.gc.gc``."""
        from memcard.jobs.gc import gc

        return gc(self.layout, days=days, dry_run=dry_run)

    def verify(
        self,
        *names: str,
        sample: float = 1.0,
        seed: int = 0,
        older_than: float = 0.0,
        progress: Listener = silent,
    ) -> Verified:
        """Read all copies and packs and compare them with their digests; see ``memcard.jobs.verify``."""
        from memcard.jobs.verify import verify

        return verify(
            *(self.layout, names),
            sample=sample,
            seed=seed,
            older_than=older_than,
            progress=progress,
        )

    def repair(self, *names: str, dry_run: bool = False, progress: Listener = silent) -> Repaired:
        """Mend what is damaged from other copies; see ``memcard.jobs.repair.repair``."""
        from memcard.jobs.repair import repair

        return repair(self.layout, names, dry_run=dry_run, progress=progress)

    def doctor(self, *, fix: bool = False) -> Diagnosis:
        """Look the library over; see ``memcard.jobs.doctor.doctor``."""
        from memcard.jobs.doctor import doctor

        return doctor(self.layout, fix=fix)

    def tree(self, ref: str) -> Tree:
        """Return the parents and children of a checkpoint; see ``memcard.jobs.tree.tree``."""
        from memcard.jobs.tree import tree

        return tree(self.layout, ref)

    def __repr__(self) -> str:
        return f"<library: {self.path}>"
