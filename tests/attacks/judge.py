"""Ask memcard about many files, in a process with little memory: judge.py OUT PATH…

Prints a line of JSON for each. A crash, a hang or a memory jump is seen as a missing or an odd line.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 5  # of the processor: a loaded machine is not the reader's fault
PATIENCE = 120  # seconds of the clock, for a reader that waits for something
ROOM = 200 << 20


def set_limits() -> None:
    """Load what is loaded on use first, so that only the files count."""
    import numpy as np

    import memcard.jobs.convert
    import memcard.jobs.inspect  # noqa: F401

    np.zeros(1)
    status = Path("/proc/self/status")
    if not status.exists():
        return  # only Linux says how much there is already
    used = int(status.read_text().split("VmData:")[1].split()[0]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + ROOM, used + ROOM))


class OutOfTimeError(BaseException):
    """No ``except Exception`` and no ``except OSError`` on the way may swallow it."""


def out_of_time(*_: Any) -> None:
    raise OutOfTimeError(f"more than {SECONDS} seconds")


def digests(path: Path, *, salvage: bool = False) -> dict[str, Any]:
    """Read every tensor."""
    from memcard.formats import open_file

    checkpoint = open_file(path, salvage=salvage)
    try:
        return {
            "tensors": {
                n: hashlib.sha256(checkpoint.read(n)).hexdigest() for n in checkpoint.specs
            },
            "shapes": {n: list(spec.shape) for n, spec in checkpoint.specs.items()},
            "dtypes": {n: spec.dtype.name for n, spec in checkpoint.specs.items()},
            "notes": list(checkpoint.notes),
            "metadata": dict(checkpoint.metadata),
            "format": checkpoint.format,
        }
    finally:
        checkpoint.close()


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what came of it, the error or the time it took."""
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(PATIENCE)
    try:
        found = work()
    except BaseException as error:  # noqa: BLE001  # whatever it is, the test shall see it
        kind = type(error).__name__
        found = {"error": kind, "message": str(error), "faults": list(getattr(error, "faults", ()))}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    return found | {"seconds": time.process_time() - start}


def command(*words: str) -> dict[str, Any]:
    """Run the command line."""
    from memcard.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def emptied(folder: Path) -> int:
    """Return the size of what was written, and give the space back."""
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    shutil.rmtree(folder)
    return sum(sizes)


def judged(path: Path, out: Path) -> dict[str, Any]:
    target = out / f"{path.name}.safetensors"
    return {
        "path": str(path),
        "open": attempt(lambda: digests(path)),
        "salvage": attempt(lambda: digests(path, salvage=True)),
        "inspect": attempt(lambda: command("inspect", "--json", str(path))),
        "convert": attempt(lambda: command("convert", str(path), str(target))),
        "converted": attempt(lambda: digests(target)) if target.exists() else None,
        "written": sorted(p.name for p in out.iterdir()),
        "out_bytes": emptied(out),
    }


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, out_of_time)
    signal.signal(signal.SIGALRM, out_of_time)
    set_limits()
    folder = Path(sys.argv[1])
    for number, file in enumerate(sys.argv[2:]):
        fresh = folder / str(number)
        fresh.mkdir()
        print(json.dumps(judged(Path(file), fresh)), flush=True)
