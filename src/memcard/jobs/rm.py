"""Take names out of the library; `undo` puts them back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from memcard.errors import NotFoundError, UsageError
from memcard.store import refs, reserve, trash
from memcard.store.layout import Layout, check
from memcard.store.whereabouts import copies_of
from memcard.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Removed:
    """Names that are in the trash now, or would be.

    Attributes:
        names: of the checkpoints.
        entry: name of the trash entry, for ``undo``; None for a dry run.
        stays: files of the user's that had these bytes; they stay where they are.
        nbytes: of the library's own files that nothing else needs: what ``gc`` will free after the
            grace period.
    """

    names: tuple[str, ...]
    entry: str | None
    stays: tuple[str, ...]
    nbytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self)


def rm(home: Layout, names: Iterable[str], *, dry_run: bool = False) -> Removed:
    """Put names into the trash. No file of a checkpoint is touched.

    Args:
        home: the library.
        names: names, or the first digits of digests, each of one checkpoint.
        dry_run: only say what would be done.

    Raises:
        NotFoundError: there is no such name; then none was removed.
        UsageError: an older version of a name was meant.
    """
    check(home)
    if dry_run:
        return _removed(home, _found(home, names), None)
    chosen = tuple(names)
    return reserve.with_space(home, lambda: _put_away(home, chosen))


def _put_away(home: Layout, names: tuple[str, ...]) -> Removed:
    with Writer(home) as writer, writer.commit():
        found = _found(home, names)
        title = ", ".join(ref.name for ref in found)
        told = _removed(home, found, "")
        paths = [refs.path_of(home, ref.name) for ref in found]
        entry = trash.put_away(writer, "rm", title, paths)
    return Removed(told.names, entry.name, told.stays, told.nbytes)


def _found(home: Layout, names: Iterable[str]) -> list[refs.Ref]:
    found: dict[str, refs.Ref] = {}
    for name in names:
        ref, version = refs.find(home, name)
        if version is not ref.version:
            raise UsageError(
                f"{name}: is an older version of {ref.name}. Names are removed with all their versions: "
                f"memcard rm '{ref.name}'."
            )
        found[refs.quoted(ref.name)] = ref
    if not found:
        raise NotFoundError("no name was given. `memcard ls` lists them.")
    return list(found.values())


def _removed(home: Layout, found: list[refs.Ref], entry: str | None) -> Removed:
    stays, nbytes = dict[str, None](), 0
    gone = {refs.quoted(ref.name) for ref in found}
    others = {
        version.sha256
        for ref in refs.every(home, [])
        if refs.quoted(ref.name) not in gone
        for version in ref.versions
    }
    for sha256 in dict.fromkeys(v.sha256 for ref in found for v in ref.versions):
        version = next(v for ref in found for v in ref.versions if v.sha256 == sha256)
        for copy in copies_of(home, version):
            if not copy.owned and copy.fitness != "missing":
                stays[str(copy.path)] = None
            elif copy.owned and sha256 not in others and copy.path.stat().st_nlink == 1:
                nbytes += copy.path.stat().st_size
    return Removed(tuple(ref.name for ref in found), entry, tuple(stays), nbytes)
