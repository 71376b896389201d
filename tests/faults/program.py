"""Runs a fault program in a process of its own, and notes how many places it injected a fault at.

With ``MEMCARD_FAULT_COUNTS=FILE`` each count is added to that file, from which ``scripts/reliability.py``
makes the table in ``docs/reliability.md``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from faults.stories import STORIES
from fixtures.warmed import server

WARM = ("strike", "replay", "flips")  # the others are few, or their own memory is measured

# Of the places where a fault can be injected, tests take a part; ``scripts/reliability.py`` takes all.
WHOLE = os.environ.get("MEMCARD_FAULT_EACH") == "1"

# Every kind of fault: what it is, what is asked afterwards, and the tests that inject it.
KINDS = {
    "killed": (
        "`kill -9` before each call that changes the disk, or in the middle of a write",
        "What was stored is exact, also without the user's files, and none of those has another byte, time or mode. The command can be given again; no litter is left.",
        "test_library_faults.py",
    ),
    "power cut": (
        "Power fails after each call; of what was not synced the disk has nothing, half, zeros, or all but one name",
        "The same. What a command reported as done is there.",
        "test_power_cuts.py",
    ),
    "ENOSPC once": ("Disk full at one call", "The same, and exit code 10.", "test_library_faults.py"),
    "ENOSPC from there on": ("Disk full from one call on", "The same, and exit code 10.", "test_library_faults.py"),
    "EIO once": ("I/O error at one call", "The same, and exit code 10.", "test_library_faults.py"),
    "EIO from there on": ("I/O errors from one call on", "The same, and exit code 10.", "test_library_faults.py"),
    "flipped bit": (
        "One flipped bit in a manifest, name, record, pack, skeleton, card, own or adopted file, journal or `library.json`",
        "An error, or the right bytes. Nothing else is handed on.",
        "test_flips.py",
    ),
    "rounds of five processes": (
        "Two writers, a packer, a collector without any time of grace and a reader, 60 s at once (rounds of work)",
        "The reader finds every checkpoint exact in every round. Afterwards as above.",
        "test_together.py",
    ),
    "file changed while it is read": (
        "A file is replaced, cut, lengthened, edited (also with its old time), removed or made a link during `add`, `export`, `pack`",
        "An error, or the bytes whose digest was told. What the other program wrote is untouched.",
        "test_under_our_feet.py",
    ),
    "links in a folder": (
        "Circles, links to nothing, to the outside, to themselves, second names",
        "Each file is found once. Nothing is touched, inside or outside.",
        "test_under_our_feet.py",
    ),
    "read-only library": (
        "Every change of the library is refused by the disk",
        "`ls`, `show`, `open`, `export`, `verify` work; the others say so and change nothing.",
        "test_under_our_feet.py",
    ),
    "index lost": (
        "The index is deleted, emptied, cut in half, zeroed, of another version, a folder",
        "Lists and searches give the same answers.",
        "test_under_our_feet.py",
    ),
    "question to a forged library": (
        "Forged names, manifests, records, recipes and bases in circles, sizes of a petabyte, paths to the outside, pipes, bombs",
        "Typed errors within 10 s and 400 MiB. Nothing outside is touched, no wrong byte is handed on.",
        "test_hostile.py",
    ),
    "copy that something needs": (
        "A plain copy is wanted by another checkpoint or a removed name, or the pack that replaces it has rotted",
        "`pack` leaves it.",
        "test_pack_frees.py",
    ),
}  # fmt: skip


def counted(kind: str, places: int) -> None:
    """Note that so many faults of a kind were injected, and all was well."""
    assert kind in KINDS
    if into := os.environ.get("MEMCARD_FAULT_COUNTS"):
        test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
        line = json.dumps({"kind": kind, "places": places, "test": test})
        with Path(into).open("a") as file:
            file.write(f"{line}\n")


def told(script: str, *args: str | Path) -> tuple[dict[str, Any], str]:
    """Run a program of this folder and return what it tells, and its stderr."""
    words = [str(word) for word in args]
    if script in WARM:
        packs = script == "flips" or STORIES[words[0]].packs
        kind = "packs" if packs else "library"
        code, out, err = server(kind).run(f"faults.{script}", *words)
    else:
        code, out, err = _fresh(script, *words)
    assert code == 0, err[-4000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found, err


def _fresh(script: str, *args: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / f"{script}.py", *args],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def run(kind: str, script: str, *args: str | Path) -> dict[str, Any]:
    """Run a program of this folder and return what it tells; nothing may have gone wrong."""
    found, err = told(script, *args)
    assert found["wrong"] == [], err[-4000:]
    counted(kind, found["places"])
    return found
