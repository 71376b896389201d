"""Progress as events: jobs report, front doors draw.

A job calls ``progress(Progress(...))`` now and then; the command line turns that into a bar, the web
page into a stream. A job never prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one phase of a job is."""

    phase: str
    done: int
    total: int
    unit: Literal["bytes", "steps", "files"] = "bytes"


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence the user should see while the job runs: advice, an estimate, a warning."""

    text: str


Event: TypeAlias = Progress | Notice
Listener: TypeAlias = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore the event."""
