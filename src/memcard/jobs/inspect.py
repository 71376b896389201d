"""Say what a file is, on what evidence, and whether it is safe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from memcard.architectures import ARCHITECTURES, candidates
from memcard.core.checkpoint import Checkpoint
from memcard.core.digest import digests_file
from memcard.core.progress import Listener, silent
from memcard.core.report import Report, Verdict
from memcard.core.tensors import Specs
from memcard.errors import CorruptError, FormatError, UnsafeError
from memcard.formats import open_file, sniff_file
from memcard.jobs.resolve import locate


def inspect(path: str | Path, digests: bool = False, progress: Listener = silent) -> Report:
    """Look at one file; read headers only, run nothing.

    Args:
        path: a file, or a name of the starter.
        digests: also read the whole file for its sha256, autov2 and autov3.
        progress: hears how far the digests are.

    Returns:
        A report; a file that cannot be read is a verdict, not an exception.

    Raises:
        NotFoundError: there is no such file.
    """
    file = locate(path)
    try:
        checkpoint = open_file(file)
    except FormatError as error:
        sums = digests_file(file, progress=progress) if digests and file.is_file() else {}
        return _refused(file, error, sums)
    try:
        offset = getattr(checkpoint, "data_offset", None)
        sums = digests_file(file, data_offset=offset, progress=progress) if digests else {}
        return _accepted(file, checkpoint, sums)
    finally:
        checkpoint.close()


def _refused(path: Path, error: FormatError, digests: Mapping[str, str]) -> Report:
    verdict: Verdict = "unsupported"
    if isinstance(error, UnsafeError):
        verdict = "unsafe"
    elif isinstance(error, CorruptError):
        verdict = "corrupt"
    message = str(error)
    faults = (message, *(fault for fault in error.faults if fault not in message))
    return Report(
        path,
        verdict,
        size=path.stat().st_size,
        format=sniff_file(path) if path.is_file() else None,
        faults=faults,
        digests=digests,
    )


def _accepted(path: Path, checkpoint: Checkpoint, digests: Mapping[str, str]) -> Report:
    specs = checkpoint.specs
    found = candidates(specs)
    notes = tuple(checkpoint.notes)
    if len(found) > 1:
        notes += (f"Fits several model families: {', '.join(found)}. It is left undecided.",)
    name, evidence = next(iter(found.items())) if len(found) == 1 else (None, None)
    return Report(
        path,
        "ok",
        size=path.stat().st_size,
        format=checkpoint.format,
        notes=notes,
        tensors=specs,
        metadata=dict(checkpoint.metadata),
        architecture=name,
        evidence=evidence.reasons if evidence else (),
        components=_components(name, specs) if name else {},
        digests=digests,
    )


def _components(architecture: str, specs: Specs) -> dict[str, int]:
    family = ARCHITECTURES[architecture]
    counts: dict[str, int] = {}
    for name, spec in specs.items():
        if part := family.component(name):
            counts[part] = counts.get(part, 0) + spec.elements
    return counts
