"""Start a run again as it was started: the command, the folder, and why that may not be possible."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memcard.errors import LockedError, NotFoundError, UsageError
from memcard.jobs._runs_read import Opened
from memcard.store import trainings
from memcard.store.layout import Layout
from memcard.training._folder import holder


@dataclass(frozen=True, slots=True)
class Restart:
    """How a run is started again.

    Attributes:
        run: name of the run.
        argv: the command.
        cwd: the folder to start it in.
        step: of the newest save, from where it will go on; 0 if there is none.
        trusted: whether this machine's library was told of the run, so that its command was noted here.
        notes: what a careful user should know.
    """

    run: str
    argv: tuple[str, ...]
    cwd: str
    step: int
    trusted: bool
    notes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.argv)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self) | {
            "argv": list(self.argv),
            "notes": list(self.notes),
            "line": self.line,
        }


def restart(home: Layout, found: Opened) -> Restart:
    """Say how a run is started again; nothing is started.

    Raises:
        LockedError: it is running.
        UsageError: it was begun at a prompt or in a notebook.
        NotFoundError: the program or the folder it was started in is not there.
    """
    if (pid := holder(found.folder)) is not None:
        which = f" (process {pid})" if pid else ""
        raise LockedError(f"{found.folder}: {found.run.name} is running{which}. Stop it first.")
    command = found.run.command
    argv = command.get("launcher") or command.get("argv")
    if not isinstance(argv, list) or not argv:
        raise UsageError(
            f"{found.folder}: how {found.run.name} was started is not known: it was begun in a notebook or at a "
            "prompt, or with an older memcard. Start it again by hand; resume() finds the saves."
        )
    cwd = str(command.get("cwd") or found.folder)
    known = any(t.folder == found.folder for t in trainings.every(home))
    _refuse_missing(found, [str(word) for word in argv], cwd)
    notes = []
    if (host := command.get("host")) and host != platform.node():
        notes.append(f"It was started on {host}.")
    newest = found.numbered[-1][0] if found.numbered else 0
    return Restart(found.run.name, tuple(map(str, argv)), cwd, newest, known, tuple(notes))


def _refuse_missing(found: Opened, argv: list[str], cwd: str) -> None:
    faults = []
    if not Path(cwd).is_dir():
        faults.append(f"{cwd}, the folder it was started in, is not there.")
    program = shutil.which(argv[0], path=None) or shutil.which(str(Path(cwd) / argv[0]))
    if program is None:
        faults.append(f"{argv[0]} cannot be run.")
    script = next((word for word in argv[1:] if not word.startswith("-")), "")
    if script.endswith(".py") and Path(cwd).is_dir() and not (Path(cwd) / script).exists():
        faults.append(f"{script} is not in {cwd}.")
    if faults:
        raise NotFoundError(
            f"{found.folder}: {found.run.name} cannot be started as before: {' '.join(faults)} Start it by hand; "
            "resume() finds the saves."
        )


def start(found: Restart) -> int:
    """Run the command in the place of this process, or as a child where that cannot be; return its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "nt":
        os.chdir(found.cwd)
        os.execvp(found.argv[0], found.argv)  # noqa: S606  # asked for
    return subprocess.run(found.argv, cwd=found.cwd, check=False).returncode  # noqa: S603  # asked for
