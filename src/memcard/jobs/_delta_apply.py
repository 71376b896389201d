"""Before a delta is applied: is this its base, and what file shall come out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from blake3 import blake3

from memcard.core.checkpoint import Checkpoint, FileSink
from memcard.core.progress import Listener, Progress
from memcard.errors import CorruptError, MismatchError
from memcard.formats import open_file
from memcard.formats._planned import Plan, PlannedSink
from memcard.jobs._delta_file import BLOCK, HEADER, KEY, DeltaCheckpoint, Entry, read_packed
from memcard.jobs.resolve import digest

_SHOWN = 3


def check_base(
    path: Path, result: DeltaCheckpoint, metadata: Mapping[str, str], progress: Listener
) -> list[str]:
    """Return a note if the base is not the very file, but has the same tensors.

    Raises:
        MismatchError: it is another checkpoint; says which one is wanted.
    """
    wanted = metadata.get(f"{KEY}base_sha256", "")
    if digest(path, progress) == wanted:
        return []
    used = [entry for entry in result.entries.values() if entry.base_digest]
    odd = _different(path, used, progress)
    if odd:
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        raise MismatchError(
            f"{path}: is not the base of this delta ({len(odd)} of {len(used)} tensors differ: "
            f"{', '.join(map(repr, odd[:_SHOWN]))}{more}). Wanted is "
            f"{metadata.get(f'{KEY}base_name', 'a file')!r} with SHA-256 {wanted or 'not stated'}."
        )
    return ["The base is another file with the same tensors."]


def _different(path: Path, used: list[Entry], progress: Listener) -> list[str]:
    """List the tensors of the base that are not what the delta was made from."""
    base, odd, done = open_file(path), [], 0
    total = sum(entry.spec.nbytes for entry in used)
    try:
        for entry in used:
            if not _is_same(base, entry):
                odd.append(entry.name)
            done += entry.spec.nbytes
            progress(Progress("check", done, total))
    finally:
        base.close()
    return odd


def _is_same(base: Checkpoint, entry: Entry) -> bool:
    spec = base.specs.get(entry.name)
    if spec is None or (spec.dtype, spec.nbytes) != (entry.spec.dtype, entry.spec.nbytes):
        return False
    return _digest(base, entry.name, spec.nbytes) == entry.base_digest


def _digest(checkpoint: Checkpoint, name: str, size: int) -> str:
    whole, buffer = blake3(), memoryview(bytearray(min(size, BLOCK)))
    for start in range(0, size, BLOCK):
        part = buffer[: min(BLOCK, size - start)]
        checkpoint.readinto(name, part, start)
        whole.update(part)
    return whole.hexdigest()


def restored_sink(out: Path, delta: Checkpoint, result: DeltaCheckpoint) -> FileSink:
    """Return a sink that writes the original safetensors file: its header, then its tensors.

    Raises:
        CorruptError: header and tensors do not add up to the size of the original.
    """
    header = read_packed(delta, HEADER)
    places, at = {}, len(header)
    for name, spec in result.specs.items():  # a safetensors file has no gaps
        places[name] = (at, spec.nbytes)
        at += spec.nbytes
    if str(at) != delta.metadata.get(f"{KEY}result_size"):
        raise CorruptError(
            f"delta: its parts have {at} bytes, not those of the original. Get it again."
        )
    return PlannedSink(out, lambda specs, metadata: Plan(at, ((0, header),), places))
