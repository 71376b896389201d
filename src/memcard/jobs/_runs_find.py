"""Which runs there are: those the library was told of, those beside it, and those in folders one names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memcard.errors import MismatchError, NotFoundError
from memcard.jobs._run_names import RUNS
from memcard.jobs._runs_read import is_run
from memcard.store import trainings
from memcard.store.layout import Layout
from memcard.training import run_log

_DEEP: Final = 3  # folders below one that is named
_ENOUGH: Final = 6  # digits of an id


@dataclass(frozen=True, slots=True)
class Found:
    """A run, and where it should be.

    Attributes:
        name, id: of the run; empty where only its folder is known.
        folder: absolute.
        is_there: whether the folder is one of a run now.
    """

    name: str
    id: str
    folder: Path
    is_there: bool


def every(home: Layout) -> list[Found]:
    """Return the runs a library knows, and those in its folder ``runs``; each folder once."""
    found = {}
    for one in trainings.every(home):
        found[one.folder] = Found(one.name, one.id, one.folder, is_run(one.folder))
    for folder in _below(home.root / RUNS):
        found.setdefault(folder, Found("", "", folder, is_there=True))
    return list(found.values())


def inside(folders: Sequence[Path]) -> list[Found]:
    """Return the runs in folders: a folder of a run itself, and those below it.

    Raises:
        NotFoundError: there is no such folder, or no run in one.
    """
    found: dict[Path, Found] = {}
    for folder in folders:
        place = _absolute(folder)
        if not place.is_dir():
            raise NotFoundError(f"{folder}: there is no such folder.")
        runs = [place] if is_run(place) else list(_below(place))
        if not runs:
            raise NotFoundError(
                f"{folder}: no run lies in it: no folder with a {run_log.RUN} or with saves."
            )
        found |= {run: Found("", "", run, is_there=True) for run in runs}
    return list(found.values())


def one(home: Layout, text: str) -> Found:
    """Return the run a user means: a folder, a name, or the first digits of an id.

    Raises:
        NotFoundError: there is none; names that are near are listed.
        MismatchError: several have the name.
    """
    place = _absolute(Path(text))
    if place.is_dir() and is_run(place):
        return Found("", "", place, is_there=True)
    named = [(_name(run), _id(run), run) for run in every(home)]
    hits = [run for name, _, run in named if name == text]
    if not hits and len(text) >= _ENOUGH:
        hits = [run for _, digits, run in named if digits.startswith(text.lower())]
    present = [run for run in hits if run.is_there] or hits
    if len(present) > 1:
        listed = "; ".join(f"{_id(run)} in {run.folder}" for run in present)
        raise MismatchError(
            f"{text}: {len(present)} runs are called so: {listed}. Name the id or the folder."
        )
    if present:
        return present[0]
    from difflib import get_close_matches

    near = get_close_matches(text, [name for name, _, _ in named], n=3)
    hint = (
        f"Did you mean {' or '.join(near)}?"
        if near
        else "`memcard runs` lists those that are known."
    )
    raise NotFoundError(
        f"{text}: no run is called so, and no run lies in a folder of this name. {hint}"
    )


def _below(folder: Path) -> Iterator[Path]:
    """Yield the runs below a folder; links and what is hidden are passed over, and runs are not looked into."""
    waiting = [(folder, 0)]
    while waiting:
        place, deep = waiting.pop()
        try:
            with os.scandir(place) as entries:
                inner = sorted(
                    Path(e.path)
                    for e in entries
                    if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)
                )
        except OSError:
            continue
        for one_of in reversed(inner):
            if is_run(one_of):
                continue
            if deep + 1 < _DEEP:
                waiting.append((one_of, deep + 1))
        yield from (one_of for one_of in inner if is_run(one_of))


def _name(run: Found) -> str:
    return run.name or run.folder.name


def _id(run: Found) -> str:
    if run.id or not run.is_there:
        return run.id
    from memcard.jobs._runs_read import opened

    return opened(run.folder).run.id


def _absolute(path: Path) -> Path:
    # a link stays a link: its name is what the user knows the folder by
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100
