"""What the saves of trainings are called in a library: `RUN/step-N`."""

from __future__ import annotations

RUNS = "runs"  # folder beside the library's own, where trainings lie unless they are told otherwise


def run_of(name: str) -> str | None:
    """Return what the saves of a run are called by, of the name of one of them; None if it is none's."""
    run, slash, rest = name.rpartition("/")
    return run if slash and rest.removeprefix("step-").isdecimal() and rest[:5] == "step-" else None
