"""What file comes out when a delta is applied."""

from __future__ import annotations

from pathlib import Path

from memcard.core.checkpoint import Checkpoint, FileSink
from memcard.errors import CorruptError
from memcard.formats._planned import Plan, PlannedSink
from memcard.jobs._delta_file import HEADER, KEY, DeltaCheckpoint, read_packed


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
