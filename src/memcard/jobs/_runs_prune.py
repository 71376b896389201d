"""Thin out the saves of a run: into the trash, from where `memcard undo` brings them back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memcard.core.progress import Listener, silent
from memcard.errors import MemcardError
from memcard.jobs._run_saves import let_go, only_there, refs_of
from memcard.jobs._runs_read import Opened, keep_of
from memcard.jobs.resolve import digest
from memcard.store import layout, places, refs, trash
from memcard.store.layout import Layout
from memcard.store.originals import Original
from memcard.store.places import Place, State
from memcard.store.writer import Writer
from memcard.training import saves
from memcard.training.keep import Keep
from memcard.training.run_log import RunLog
from memcard.training.saves import OpenSave, Save


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of the saves of a run, or would.

    Attributes:
        run: its name.
        gone: step to bytes of the saves that went.
        stay: step to the reason.
        entry: name of the trash entry, for ``undo``; None for a dry run, or where nothing went there.
        dry_run: whether nothing was done.
    """

    run: str
    gone: dict[int, int]
    stay: dict[int, str]
    entry: str | None = None
    dry_run: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of what went."""
        return sum(self.gone.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self) | {"nbytes": self.nbytes}


def prune(
    home: Layout,
    found: Opened,
    keep: Keep | None = None,
    *,
    dry_run: bool = False,
    for_good: bool = False,
    progress: Listener = silent,
) -> Pruned:
    """Put the saves away that no rule keeps.

    The newest one of which every byte is right stays in any case, and every one a checkpoint was made of.

    Args:
        home: the library, whose trash takes them; it is made if there is none.
        found: the run.
        keep: the rules; None: those of the run.
        dry_run: only say what would be done.
        for_good: remove them at once, not to the trash.
        progress: hears how far the reading is.

    Raises:
        IntegrityError: a file was changed at this very moment.
        DiskError: the library is on another disk, which is full; all stay.
    """
    listed = list(saves.listed(found.folder))
    sound = [one for one in saves.sound(listed) if found.run.id in ("", one.run)]
    stay = dict(_stay(found, keep or keep_of(found.run), sound))
    others = {one.step for one in listed} - {one.step for one in sound}
    stay |= dict.fromkeys(others, "damaged, or of another run: look at it yourself")
    going = [one for one in sound if one.step not in stay]
    gone = {one.step: one.size for one in going}
    done = Pruned(found.run.name, gone, dict(sorted(stay.items())), dry_run=dry_run)
    if dry_run or not going:
        return done
    if for_good:
        for save in going:
            save.path.unlink(missing_ok=True)
            let_go(home, save)
        entry = None
    else:
        entry = _put_away(home, found, going, progress)
    log = RunLog(found.folder)
    for save in going:
        log.event("removed", step=save.step)
    log.close()
    return Pruned(done.run, gone, done.stay, entry)


def _stay(found: Opened, keep: Keep, sound: list[Save]) -> Iterator[tuple[int, str]]:
    """Yield the steps that stay, each with the reason; a later one is the better reason."""
    yield from _by_rules(keep, sound)
    promoted = [e for e in found.log.events if e["event"] == "promoted"]
    yield from ((e["step"], f"{e.get('name')} was made of it") for e in promoted if _is_step(e))
    for save in reversed(sound):
        if _is_whole(save.path):
            yield save.step, "the newest whose every byte is right"
            return


def _by_rules(keep: Keep, sound: list[Save]) -> Iterator[tuple[int, str]]:
    steps = keep.choose(sound)
    newest = {save.step for save in sound[-keep.last :]}
    for save in sound:
        if save.step not in steps:
            continue
        value = save.metrics.get(keep.by or "")
        if keep.every is not None and save.step % keep.every == 0:
            yield save.step, f"one every {keep.every} steps"
        elif save.step in newest:
            yield save.step, f"one of the {keep.last} newest"
        elif keep.best and value is not None and not math.isnan(value):
            yield save.step, f"{keep.by} {value:.4g}"
        else:
            yield save.step, f"one every {keep.hours:g} hours" if keep.hours else "kept"


def _is_step(event: dict[str, Any]) -> bool:
    return isinstance(event.get("step"), int)


def _is_whole(path: Path) -> bool:
    try:
        with OpenSave(path) as opened:
            opened.verify()
    except (MemcardError, OSError):
        return False
    return True


def _put_away(home: Layout, found: Opened, going: list[Save], progress: Listener) -> str:
    """Move the files to the trash, and with them the names that would lead to nothing."""
    layout.create(home)
    originals, names = [], list[Path]()
    for save in going:
        path = save.path.absolute()
        place = Place(path, State.of(path.stat()), places.now())
        known = places.unchanged(home, path)
        sha256 = digest(path, progress) if known is None else known.sha256
        originals.append(Original.of(sha256, place))
        named = refs_of(home, save)
        names += [refs.path_of(home, ref.name) for ref in named if only_there(home, ref, path)]
    title = (
        f"{len(going)} saves of {found.run.name}"
        if len(going) > 1
        else f"a save of {found.run.name}"
    )
    with Writer(home) as writer:
        return trash.put_away_originals(writer, "prune", title, originals, names).name
