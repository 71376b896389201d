"""What a run folder says about its run: ``run.json``, and ``log.jsonl`` with one line for each logged step.

Needs no tensor library. A line that was cut off by a kill is skipped. After a resume the steps behind the
save that was used are no longer part of the run: the line ``{"event": "resumed"}`` says where it went on.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from memcard._version import __version__
from memcard.core.atomic import disk_errors, replacing
from memcard.errors import CorruptError
from memcard.training.saves import from_json, to_json

RUN: Final = "run.json"
LOG: Final = "log.jsonl"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Run:
    """What ``run.json`` says.

    Attributes:
        id: of the run, 16 hex digits; its saves carry it.
        name: of the run; the folder's when it was made.
        created: seconds since 1970.
        settings: what the program wants to know again: plain JSON.
        keep: the rules by which saves stay.
        made_by: version of memcard that wrote it last.
        steps: of the whole training; None if that is not known.
        command: how the last process was started; see ``_command``.
    """

    id: str
    name: str
    created: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    keep: Mapping[str, Any] = field(default_factory=dict)
    made_by: str = __version__
    steps: int | None = None
    command: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def new(cls, name: str, **more: Any) -> Self:
        """Begin a run."""
        return cls(secrets.token_hex(8), name, time.time(), **more)

    def write(self, folder: Path) -> None:
        """Write ``run.json``.

        Raises:
            DiskError: the disk is full, read-only or failing.
        """
        found = {
            "version": VERSION,
            "id": self.id,
            "name": self.name,
            "created": self.created,
            "settings": dict(self.settings),
            "keep": dict(self.keep),
            "made_by": self.made_by,
        }
        found |= {} if self.steps is None else {"steps": self.steps}
        found |= {"command": dict(self.command)} if self.command else {}
        text = json.dumps(found, indent=1, allow_nan=False) + "\n"
        with replacing(folder / RUN) as file:
            file.write(text.encode())


def read_run(folder: Path) -> Run | None:
    """Return what ``run.json`` says; None if there is none.

    Raises:
        CorruptError: it is damaged.
    """
    path = folder / RUN
    try:
        found = json.loads(path.read_bytes())
        return Run(
            *(str(found["id"]), str(found["name"]), float(found["created"])),
            settings=dict(found["settings"]),
            keep=dict(found["keep"]),
            made_by=str(found["made_by"]),
            steps=None if (steps := found.get("steps")) is None else int(steps),
            command=dict(found.get("command", {})),
        )
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptError(
            f"{path}: is damaged ({error}). The saves are not affected; remove it, and it is made anew."
        ) from None


class RunLog:
    """Appends lines to ``log.jsonl``; from any thread. A full disk costs lines, never a training."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._lock = threading.Lock()
        self._fd = -1

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note what was measured at a step."""
        self._append({"step": step, "metrics": {k: to_json(v) for k, v in metrics.items()}})

    def event(self, event: str, **facts: Any) -> None:
        """Note that something happened: ``resumed``, ``saved``, ``failed``, ``waited``, ``ended``."""
        self._append({"event": event, **facts})

    def _append(self, line: Mapping[str, Any]) -> None:
        raw = json.dumps({**line, "time": round(time.time(), 3)}, separators=(",", ":")).encode()
        with self._lock, suppress(OSError):
            if self._fd < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
                self._fd = os.open(self._path, flags, 0o644)
                size = os.fstat(self._fd).st_size
                if (
                    size and os.pread(self._fd, 1, size - 1) != b"\n"
                    if hasattr(os, "pread")
                    else size
                ):
                    raw = b"\n" + raw  # the end of a line that was cut off
            os.write(self._fd, raw + b"\n")

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True)
class Point:
    """One logged step of a run.

    Attributes:
        step: finished optimizer steps.
        time: seconds since 1970.
        metrics: what was measured.
    """

    step: int
    time: float
    metrics: Mapping[str, float]


def read_log(folder: Path) -> list[Point]:
    """Return the logged steps of a run in order, each once; steps that a resume took back are left out."""
    found: dict[int, Point] = {}
    for line in lines(folder):
        if line.get("event") == "resumed":
            back = int(line["step"])
            found = {step: point for step, point in found.items() if step <= back}
        elif "metrics" in line:
            metrics = {str(k): from_json(v) for k, v in line["metrics"].items()}
            found[int(line["step"])] = Point(int(line["step"]), float(line["time"]), metrics)
    return [found[step] for step in sorted(found)]


def lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of ``log.jsonl`` as they are; damaged ones are skipped."""
    path = folder / LOG
    if not path.exists():
        return
    with disk_errors(path), path.open("rb") as file:
        for raw in file:
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                found = json.loads(raw)
                if _is_sound(found):
                    yield found


def _is_sound(line: Any) -> bool:
    if not isinstance(line, dict):
        return False
    if line.get("event") == "resumed":
        return isinstance(line.get("step"), int)
    if "event" in line:
        return isinstance(line["event"], str)
    metrics = line["metrics"]
    for value in metrics.values():
        from_json(value)  # a ValueError is caught by the caller
    return isinstance(line["step"], int) and isinstance(line["time"], int | float)
