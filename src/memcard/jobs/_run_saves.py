"""Saves of trainings in the library: taken in where they lie, and let go with their file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from memcard.errors import CorruptError, NotFoundError
from memcard.jobs._run_names import run_of
from memcard.jobs.add import add
from memcard.store import cards, layout, packed, places, refs, trainings
from memcard.store import manifest as manifests
from memcard.store.layout import Layout
from memcard.store.refs import Ref
from memcard.store.writer import Writer
from memcard.training.saves import Save

KIND = "training"


def enlist(home: Layout, training: trainings.Training) -> None:
    """Note that there is a training, for ``memcard runs``.

    Raises:
        MemcardError: the library cannot be reached or changed.
    """
    layout.create(home)
    with Writer(home) as writer, writer.commit():
        trainings.note(writer, training)


def names_of(save: Save) -> tuple[str, str]:
    """Return the name a save has in the library, and the one it has if another run is called the same."""
    run = refs.default_name(save.name)
    return f"{run}/step-{save.step}", f"{run}-{save.run[:6]}/step-{save.step}"


def adopt(home: Layout, save: Save) -> str:
    """Take a save into the library where it lies; return its name.

    Raises:
        MemcardError: as ``jobs.add.add``.
    """
    known = places.known(home, save.path.absolute())
    taken = [refs.get(home, name) for name in names_of(save)]
    ours = [ref is None or ref.version.sha256 == known for ref in taken]
    name = names_of(save)[ours.index(True) if any(ours) else 1]
    return add(home, [save.path], name=name)[0].name


def refs_of(home: Layout, save: Save) -> list[Ref]:
    """Return the names that lead to a save and to nothing else, as its file was when it was taken in."""
    known = places.known(home, save.path.absolute())
    found = [refs.get(home, name) for name in names_of(save)]
    return [ref for ref in found if ref is not None and ref.version.sha256 == known]


def only_there(home: Layout, ref: Ref, path: Path) -> bool:
    """Whether the library would have nothing of a save left without this file."""
    if packed.get(home, ref.version.manifest) is not None:
        return False
    record = places.get(home, ref.version.sha256)
    others = [] if record is None else [p for p in record.places if p.path != path]
    return not any(place.is_as_it_was() for place in others)


def let_go(home: Layout, save: Save) -> None:
    """Take a save out of the library whose file was just removed; does nothing if it is not there.

    There is nothing to put back, so this does not go to the trash. What is packed stays.

    Raises:
        LockedError, DiskError: the library cannot be changed.
    """
    if not layout.exists(home):
        return
    path = save.path.absolute()
    with Writer(home) as writer, writer.commit():
        for ref in refs_of(home, save):
            if packed.get(home, ref.version.manifest) is None:
                refs.path_of(home, ref.name).unlink(missing_ok=True)
            places.leave(writer, ref.version.sha256, path)
            if refs.get(home, ref.name) is None:
                _forget(home, ref)


def _forget(home: Layout, ref: Ref) -> None:
    """Remove what only this name led to; a training makes thousands of saves, and a manifest of each."""
    others = {version.manifest for other in refs.every(home, []) for version in other.versions}
    for version in ref.versions:
        record = places.get(home, version.sha256)
        if version.manifest in others or (record is not None and record.places):
            continue
        try:
            skeletons = [file.skeleton for file in manifests.get(home, version.manifest).files]
            kept = cards.get(home, version.sha256)
        except (NotFoundError, CorruptError):
            continue  # `memcard gc` and `doctor` look after those
        if kept is not None and any(kept.said.stated()):
            continue  # the user wrote something about it
        cards.path_of(home, version.sha256).unlink(missing_ok=True)
        home.adopted(version.sha256).unlink(missing_ok=True)
        manifests.path_of(home, version.manifest).unlink(missing_ok=True)
        for skeleton in skeletons:
            home.skeleton(skeleton.blake3).unlink(missing_ok=True)


def packed_saves(home: Layout, run: str, name: str) -> Iterator[tuple[int, Ref]]:
    """Yield step and name of the saves of a run that are packed, the newest first.

    Args:
        home: the library.
        run: id of the run.
        name: of the run.
    """
    if not layout.exists(home):
        return
    probe = refs.default_name(name)
    found = [
        (int(ref.name.rpartition("-")[2]), ref)
        for ref in refs.every(home, [])
        if ref.version.kind == KIND and run_of(ref.name) in (probe, f"{probe}-{run[:6]}")
    ]
    for step, ref in sorted(found, key=lambda pair: -pair[0]):
        if packed.get(home, ref.version.manifest) is not None:
            yield step, ref
