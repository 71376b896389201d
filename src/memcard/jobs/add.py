"""Take checkpoints into the library: where they are, or as its own files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, silent
from memcard.errors import (
    FormatError,
    MemcardError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from memcard.formats import open_file
from memcard.jobs._library_cards import note_read
from memcard.jobs._library_members import Surveyed, describe, members
from memcard.jobs._run_names import RUNS
from memcard.jobs._walk import below, with_loose
from memcard.store import files, layout, packed, places, refs, reserve, survey
from memcard.store import manifest as manifests
from memcard.store.layout import Layout
from memcard.store.places import Place, State
from memcard.store.writer import Writer

How: TypeAlias = Literal["in-place", "link", "move", "copy"]
Status: TypeAlias = Literal["new", "changed", "another copy", "unchanged"]


@dataclass(frozen=True, slots=True)
class Added:
    """One checkpoint that is in the library now.

    Attributes:
        name: its name there.
        sha256: of the file; of a folder see ``docs/spec/library.md``.
        manifest: id of its manifest.
        size: bytes of its files.
        path: where it was added from.
        status: ``new``; ``changed``: the file has other bytes than when it was added before, and the
            name means them now; ``another copy`` of what was there; ``unchanged``.
        kept: how the library has it: ``in place``, or as a file of its own by ``reflink``,
            ``hardlink``, ``move`` or ``copy``.
        notes: what a careful user should know about the file.
    """

    name: str
    sha256: str
    manifest: str
    size: int
    path: Path
    status: Status
    kept: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self) | {"path": str(self.path), "notes": list(self.notes)}


def add(
    home: Layout,
    paths: Iterable[str | Path],
    *,
    name: str | None = None,
    how: How = "in-place",
    update: bool = False,
    progress: Listener = silent,
) -> list[Added]:
    """Add checkpoints; each file is read once, and not at all if it is unchanged since.

    Args:
        home: the library; it is made if there is none.
        paths: files, folders that are one checkpoint, and folders in which some lie. Of a folder that
            is one checkpoint, others that lie loose in it are added too, each under its own name.
        name: for one checkpoint, of a folder for the whole; None makes names of the files'.
        how: ``in-place`` leaves the file where it is; ``link`` gives the library a reflink or hard
            link; ``move`` takes the file away from where it is; ``copy`` takes twice the space.
        update: let ``name`` mean this one from now on, if it means another.
        progress: hears how many bytes are read.

    Raises:
        FormatError: one cannot be read as a checkpoint; then none was added.
        UsageError: the name is not possible, or is taken; a file cannot be linked or moved.
        IntegrityError: a file changed while it was read.
        DiskError, LockedError: see ``store.writer``.
    """
    if how not in get_args(How):
        raise UsageError(f"how is {how!r}; it can be {', '.join(get_args(How))}.")
    todo = _listed(home, paths, named=name is not None)
    if name is not None:
        name = refs.check_name(name)
        if len(todo) > 1:
            raise UsageError(f"{len(todo)} checkpoints cannot all be called {name!r}; add one.")
    done = _unchanged(home, todo, name) if how == "in-place" else {}
    new = [path for path in todo if path not in done]
    _refuse_unreadable(new)
    if new:
        layout.create(home)
        with Writer(home) as writer:
            for path in new:
                done[path] = _add_one(writer, path, name, how, update, progress)
            reserve.keep(writer)
    return [done[path] for path in todo]


def _listed(home: Layout, paths: Iterable[str | Path], *, named: bool) -> list[Path]:
    """Return the absolute paths of all checkpoints, each once.

    Raises:
        NotFoundError: there is no such file.
        UnsupportedError: there is no checkpoint.
        UsageError: one lies in the library itself.
    """
    # a link stays a link: its name is what the user knows the file by
    given = [Path(os.path.abspath(Path(path).expanduser())) for path in paths]  # noqa: PTH100
    if missing := [str(path) for path in given if not path.exists()]:
        raise NotFoundError(f"{', '.join(missing)}: there is no such file.")
    found = list(dict.fromkeys(below(given)))
    if not (named and len(found) == 1):  # a name is meant for the folder
        found = list(dict.fromkeys(p for p in with_loose(found) if p in found or _is_one(p)))
    root = home.root.resolve()
    runs = root / RUNS  # of trainings: nothing of the library's own lies there
    if inside := [
        str(path)
        for path in found
        if root in path.resolve().parents and runs not in path.resolve().parents
    ]:
        raise UsageError(
            f"{', '.join(inside[:3])}: lies in the library itself ({root}). Name files outside of it."
        )
    if not found:
        raise UnsupportedError(f"{', '.join(map(str, given))}: no checkpoint lies there.")
    return found


def _is_one(path: Path) -> bool:
    """Whether a file in a diffusers folder is a checkpoint; trainers leave others there, which stay its parts."""
    try:
        open_file(path).close()
    except (FormatError, PermissionError):
        return False
    return True


def _refuse_unreadable(paths: Sequence[Path]) -> None:
    """Raise for files that cannot be read as checkpoints, with all faults at once."""
    errors = []
    for path in paths:
        try:
            open_file(path).close()
        except FormatError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        worst = min(errors, key=lambda error: error.exit_code)
        raise type(worst)(
            f"{len(errors)} of {len(paths)} checkpoints cannot be added, so none was: "
            + " ".join(map(str, errors[:5])),
            faults=[fault for error in errors for fault in error.faults],
        )


def _unchanged(home: Layout, paths: Sequence[Path], name: str | None) -> dict[Path, Added]:
    """Return what need not be read again."""
    if not layout.exists(home):
        return {}
    layout.check(home)
    found = {path: same_as_before(home, path, name) for path in paths}
    return {path: added for path, added in found.items() if added is not None}


def same_as_before(
    home: Layout, path: Path, name: str | None = None, *, read: bool = False
) -> Added | None:
    """Return what is known of a path whose files have not changed; costs a stat each.

    With ``read`` files are read that were too young when they were added for a stat to tell.
    """
    several = places.known(home, path, whole=True) is not None
    record = _same_folder(home, path, read) if several else places.unchanged(home, path, read=read)
    if record is None or record.manifest is None:
        return None
    guess = refs.get(home, name or _stem(path, is_folder=path.is_dir()))
    named = [guess] if guess is not None else []
    for ref in named if named or name else refs.every(home, []):
        if ref.version.manifest == record.manifest:
            version = ref.version
            facts = (ref.name, version.sha256, version.manifest, version.size, path)
            return Added(*facts, "unchanged", "in place")
    return None


def _same_folder(home: Layout, path: Path, read: bool) -> places.Record | None:
    sha256 = places.known(home, path, whole=True)
    record = None if sha256 is None else places.get(home, sha256)
    if record is None or record.manifest is None:
        return None
    here = members(path)
    known = {file.name: file.sha256 for file in manifests.get(home, record.manifest).files}
    same = here.keys() == known.keys() and all(
        (found := places.unchanged(home, file, read=read)) is not None
        and found.sha256 == known[name]
        for name, file in here.items()
    )
    return record if same else None


def _add_one(
    writer: Writer, path: Path, name: str | None, how: How, update: bool, progress: Listener
) -> Added:
    checkpoint = open_file(path)
    try:
        _refuse_move(path, checkpoint, how)
        surveyed = describe(path, checkpoint, progress)
    finally:
        checkpoint.close()
    with writer.commit():
        surveyed = _as_packed(writer.layout, surveyed)
        several = surveyed.manifest.is_folder
        before = places.known(writer.layout, path, whole=several)
        version = _version(path, surveyed)
        ref, status = _meant(writer.layout, name, version, before, update=update)
        _write(writer, path, surveyed, ref)
    manifest = surveyed.manifest
    kept = "in place" if how == "in-place" else _take(writer, surveyed, how, progress)
    return Added(
        *(ref.name, manifest.sha256, ref.version.manifest, manifest.size, path, status, kept),
        notes=manifest.notes,
    )


def _as_packed(home: Layout, surveyed: Surveyed) -> Surveyed:
    """Keep to the manifest of the same bytes that is packed, if there is one.

    A newer memcard may know more of a file, so that it gets another manifest. What is packed belongs to the
    manifest it was packed with: if the name left that one, gc would put the packs away.
    """
    with suppress(MemcardError):  # a damaged one is written anew
        known = places.get(home, surveyed.manifest.sha256)
        if known is not None and known.manifest is not None and packed.get(home, known.manifest):
            return replace(surveyed, manifest=manifests.get(home, known.manifest))
    return surveyed


def _id(surveyed: Surveyed) -> str:
    return hashlib.sha256(surveyed.manifest.to_bytes()).hexdigest()


def _refuse_move(path: Path, checkpoint: Checkpoint, how: How) -> None:
    if how != "move":
        return
    if path.is_symlink():
        raise UsageError(f"{path}: is a link. Name the file it leads to, or use --link.")
    if checkpoint.format in ("diffusers_folder", "sharded", "dcp_memcard"):
        raise UsageError(
            f"{path}: is several files, which other programs open where they are. Leave it in place, "
            "or give the library its own files with --link or --copy."
        )


def _meant(
    home: Layout, name: str | None, version: refs.Version, before: str | None, *, update: bool
) -> tuple[refs.Ref, Status]:
    """Choose the name of ``version``, and say what is new; nothing is written.

    Args:
        home: the library.
        name: that the user wants; None if he does not say.
        version: what was read.
        before: SHA-256 of what lay at the same path when it was added last.
        update: let ``name`` mean this one if it means another.
    """
    same: Status = "unchanged" if before == version.sha256 else "another copy"
    if name is None:
        old = _named(home, version, before)
        if old is None:
            is_folder = version.format in ("diffusers_folder", "dcp_memcard")
            stem = _stem(Path(version.origin), is_folder=is_folder)
            return refs.Ref(_free_name(home, stem), version), "new"
    else:
        old = refs.get(home, name)
        if old is None:
            return refs.Ref(name, version), "new"
    if old.version.sha256 == version.sha256:
        return old.moved_to(version), same
    if not update and old.version.sha256 != before:
        raise UsageError(
            f"{name}: is the name of another checkpoint, SHA-256 {old.version.sha256[:16]}…. Choose another "
            "name; or let it mean this one from now on with --update (the old one stays in its history)."
        )
    return old.moved_to(version), "changed"


def _named(home: Layout, version: refs.Version, before: str | None) -> refs.Ref | None:
    """Return the name that means these bytes, or else what lay at the same path before."""
    wanted = [version.sha256] if places.get(home, version.sha256) is not None else []
    wanted += [before] if before not in (None, version.sha256) else []
    for sha256 in wanted:  # mostly none: a list of all names costs 30 us a name
        for ref in refs.every(home, []):
            if ref.version.sha256 == sha256:
                return ref
    return None


def _version(path: Path, surveyed: Surveyed) -> refs.Version:
    manifest = surveyed.manifest
    return refs.Version(
        *(_id(surveyed), manifest.digests, manifest.size, path.name, places.now()),
        *(manifest.format, manifest.kind, manifest.architecture),
    )


def _write(writer: Writer, path: Path, surveyed: Surveyed, ref: refs.Ref) -> None:
    """Write what is new, in the order of the specification: the name comes last."""
    for file, (_, read) in zip(surveyed.manifest.files, surveyed.files, strict=True):
        survey.put_bones(writer, file.skeleton, read.bones)
    manifest = manifests.put(writer, surveyed.manifest)
    single = not surveyed.manifest.is_folder
    found = [
        (file.sha256, Place(where, State.of(read.stat), places.now()), manifest if single else None)
        for file, (where, read) in zip(surveyed.manifest.files, surveyed.files, strict=True)
    ]
    if not single:
        place = Place(path, State.of(path.stat()), places.now())
        found.append((surveyed.manifest.sha256, place, manifest))
    for sha256, place, whole in found:
        places.adopt(writer, sha256, place, whole)
    note_read(writer, surveyed.manifest.sha256, path, surveyed.manifest.metadata)
    if refs.get(writer.layout, ref.name) != ref:
        refs.put(writer, ref)
    for sha256, place, whole in found:
        places.settle(writer, sha256, place.path, whole=whole is not None and not single)


def _take(writer: Writer, surveyed: Surveyed, how: How, progress: Listener) -> str:
    """Make the files the library's own, after they are safely on record where they are."""
    done: dict[str, None] = {}
    ways: Sequence[files.How] = {
        "link": ("reflink", "hardlink"),
        "move": ("move",),
        "copy": ("reflink", "copy"),
    }[how]  # type: ignore[assignment]
    for file, (path, found) in zip(surveyed.manifest.files, surveyed.files, strict=True):
        place = Place(path, State.of(found.stat), "")
        owned = None
        for way in ways:
            owned = owned or files.take(writer, file.sha256, place, way, progress)
        if owned is None:
            raise UsageError(
                f"{path}: cannot be linked into {writer.layout.root}: another disk, or a file system "
                "without links. It was added in place. Use --move or --copy to have it in the library."
            )
        if how == "move":
            with writer.commit():
                files.let_go(writer, owned, place)
                places.leave(writer, file.sha256, path)
        done[owned.how if how != "move" else "move"] = None
    return ", ".join(done)


def _stem(path: Path, *, is_folder: bool) -> str:
    """Return the name a file or folder suggests."""
    name = path.name
    for suffix in (".safetensors.index.json", ".bin.index.json", ".index.json"):
        if name.endswith(suffix):
            return refs.default_name(name.removesuffix(suffix))
    return refs.default_name(name if is_folder else path.stem)


def _free_name(home: Layout, name: str) -> str:
    """Return the name, or the first of name-2, name-3 … that is free."""
    if refs.get(home, name) is None:
        return name
    number = 2
    while refs.get(home, f"{name}-{number}") is not None:
        number += 1
    return f"{name}-{number}"
