"""One input, one answer: read or refused with a typed error. Anything else is a finding."""

from __future__ import annotations

import resource
import shutil
import signal
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from fuzz.targets import Target
from memcard.errors import CorruptError, NotFoundError, UnsafeError, UnsupportedError
from memcard.formats import open_file

SECONDS = 5  # of the processor
ROOM = 200 << 20
MOST = 16 << 20  # bytes of one tensor that are read whole
TYPED = (UnsafeError, CorruptError, UnsupportedError, NotFoundError, OSError)


class OutOfTimeError(BaseException):
    """An input that takes too long; no handler of memcard may catch it."""


class WrongError(AssertionError):
    """What was read contradicts itself."""


def set_limits() -> None:
    """Let this process have ``ROOM`` more bytes than it has now."""
    import numpy as np

    np.zeros(1)
    signal.signal(signal.SIGPROF, _out_of_time)
    status = Path("/proc/self/status")
    if status.exists():  # only Linux says how much there is already
        used = int(status.read_text().split("VmData:")[1].split()[0]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (used + ROOM, used + ROOM))


def _out_of_time(*_: Any) -> None:
    raise OutOfTimeError(f"more than {SECONDS} s")


def outcome(target: Target, raw: bytes, rng: Random, *, alarm: bool = True) -> str:
    """Read one input in every way there is.

    Returns:
        ``ok``, or the name of the typed error.

    Raises:
        anything else: a finding.
    """
    folder = Path(tempfile.mkdtemp(dir=_fast()))
    if alarm:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        try:
            path = target.put(raw, folder)
        except (OSError, ValueError):
            return "no file"  # a name no file system takes
        plain = _answer(path, rng, salvage=False)
        salvaged = _answer(path, rng, salvage=True)
        if plain == "ok" and salvaged != "ok":
            raise WrongError(f"read plainly, but refused by salvage with {salvaged}")
        return plain
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        shutil.rmtree(folder, ignore_errors=True)


def _fast() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _answer(path: Path, rng: Random, *, salvage: bool) -> str:
    try:
        checkpoint = open_file(path, salvage=salvage)
    except TYPED as error:
        if not str(error).strip():
            raise WrongError("an error without a message") from error
        return type(error).__name__
    try:
        _read(checkpoint, rng)
    except TYPED as error:
        return type(error).__name__
    finally:
        checkpoint.close()
    return "ok"


def _read(checkpoint: Any, rng: Random) -> None:
    """Read up to 20 tensors whole, in part and through their extents."""
    names = list(checkpoint.specs)
    list(checkpoint.metadata.items())
    ",".join(checkpoint.notes).encode()
    for name in rng.sample(names, min(20, len(names))):
        name.encode()
        spec = checkpoint.specs[name]
        if spec.nbytes > MOST:
            continue
        whole = checkpoint.read(name)
        if whole.nbytes != spec.nbytes or not whole.readonly:
            raise WrongError(f"{name!r}: {spec} gave {whole.nbytes} bytes")
        start = rng.randrange(spec.nbytes + 1)
        part = memoryview(bytearray(rng.randrange(spec.nbytes - start + 1)))
        checkpoint.readinto(name, part, start)
        if part != whole[start : start + part.nbytes]:
            raise WrongError(f"{name!r}: readinto at {start} differs from read")
        _same_by_extent(checkpoint, name, whole)


def _same_by_extent(checkpoint: Any, name: str, whole: memoryview) -> None:
    extent = checkpoint.extent(name)
    if extent is None:
        return
    with extent.path.open("rb") as file:
        file.seek(extent.offset)
        if extent.size != whole.nbytes or file.read(extent.size) != whole:
            raise WrongError(f"{name!r}: its extent holds other bytes than read gives")
