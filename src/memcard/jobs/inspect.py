"""Say what a file is, on what evidence, and whether it is safe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock

from memcard.architectures import ARCHITECTURES, identify
from memcard.core.architecture import Identity
from memcard.core.checkpoint import Checkpoint
from memcard.core.digest import NAMES, digests_file
from memcard.core.progress import Listener, Progress, silent
from memcard.core.report import Report, Verdict
from memcard.errors import CorruptError, FormatError, UnsafeError
from memcard.formats import is_checkpoint_folder, open_file, sniff_file
from memcard.jobs._delta_file import KEY, MODE, SAME, read_index
from memcard.jobs._library_refs import called, originals, record_of
from memcard.jobs._metadata import modelspec, training
from memcard.jobs._stored import StoredCheckpoint, open_stored
from memcard.jobs._walk import below, with_loose
from memcard.jobs.digests import digests as digests_of
from memcard.jobs.digests import files_of
from memcard.jobs.resolve import known_digests, locate
from memcard.store.layout import Layout

_PICKLE = (
    "its pickle program was interpreted as data, nothing was run; every name in it is one of "
    "torch's rebuild functions or harmless"
)
_SAFETY: Mapping[str, str] = {
    "safetensors": "a JSON header and numbers: the format cannot hold code",
    "gguf": "a list of values and numbers: the format cannot hold code",
    "torch_zip": _PICKLE,
    "torch_legacy": _PICKLE,
    "sharded": "every shard was judged by itself",
    "dcp_memcard": "a JSON index, and files of a JSON header and numbers: the format cannot hold code",
    "diffusers_folder": "every file of weights was judged by itself",
}


def inspect(
    path: str | Path,
    digests: bool = False,
    *,
    salvage: bool = False,
    progress: Listener = silent,
) -> Report:
    """Look at one checkpoint; read headers only, run nothing.

    Args:
        path: a file, a folder that is one checkpoint, or a name of the starter or the library.
        digests: also read the whole file for its sha256, AutoV1, AutoV2, AutoV3, BLAKE3 and CRC32.
        salvage: list the tensors of a file that asks to run code too. It stays ``unsafe``.
        progress: hears how far the digests are.

    Returns:
        A report; a file that cannot be read is a verdict, not an exception.

    Raises:
        NotFoundError: there is no such file.
    """
    file = locate(path)
    try:
        record = record_of(file)
        checkpoint = open_stored(*record) if record else open_file(file)
    except FormatError as error:
        refused = digests_file(file, progress=progress) if digests and file.is_file() else {}
        return _refused(file, error, refused, salvage=salvage)
    try:
        sums = _digests(file, checkpoint, progress) if digests else {}
        try:
            report = _accepted(file, checkpoint, sums)
        except FormatError as error:  # a delta whose index is damaged
            return _refused(file, error, sums, salvage=salvage)
        return report if record is None else _by_name(report, *record, str(path))
    finally:
        checkpoint.close()


def _by_name(report: Report, home: Layout, manifest_id: str, ref: str) -> Report:
    """Say of a packed checkpoint what people know it by; its record is the library's own matter."""
    name = called(home, manifest_id, ref)
    was = originals(home, manifest_id)
    note = f"Packed in the library {home.root}; `memcard export '{name}' FILE` writes it as a plain file."
    return replace(report, path=Path(name), notes=(*report.notes, note, *was))


def inspect_all(
    paths: Iterable[str | Path],
    digests: bool = False,
    *,
    salvage: bool = False,
    threads: int | None = None,
    progress: Listener = silent,
) -> list[Report]:
    """Look at many files, and at every checkpoint below the folders among them.

    Args:
        paths: files, folders, names of the starter.
        digests: as for ``inspect``.
        salvage: as for ``inspect``.
        threads: None for as many as there are processors, at most 8.
        progress: hears how many files are done.

    Returns:
        One report a checkpoint, in the order given; folders by name.

    Raises:
        NotFoundError: one of the paths does not exist.
    """
    given = [(str(path), locate(path)) for path in paths]
    names = {file: ref for ref, file in given if record_of(file)}
    files = list(below([file for _, file in given]))
    if files != [file for _, file in given]:  # what is named is looked at, and no more
        files = list(dict.fromkeys(with_loose(files)))
    crew = 1 if digests else min(8, threads or os.cpu_count() or 1)  # hashing has its own threads
    done, lock = 0, Lock()
    inner = progress if len(files) == 1 else silent

    def one(file: Path) -> Report:
        nonlocal done
        ref = names.get(file, file)
        report = _inspect_or_say_why(ref, digests, salvage=salvage, progress=inner)
        with lock:
            done += 1
            progress(Progress("inspect", done, len(files), "files"))
        return report

    if crew == 1 or len(files) == 1:  # in this thread, where Ctrl-C is heard at once
        return [one(file) for file in files]
    with ThreadPoolExecutor(crew) as pool:
        try:
            return list(pool.map(one, files))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _inspect_or_say_why(
    file: str | Path, digests: bool, *, salvage: bool, progress: Listener
) -> Report:
    """Look at one file of many: one that the system does not let us read must not hide the others."""
    try:
        return inspect(file, digests, salvage=salvage, progress=progress)
    except PermissionError as error:
        fault = f"{file}: {error.strerror}. Ask its owner for the right to read it."
        return Report(Path(file), "unsupported", size=0, faults=(fault,))


def is_one(ref: str | Path) -> bool:
    """Whether a path is one checkpoint, rather than a folder in which to look for some."""
    path = locate(ref)
    return not path.is_dir() or is_checkpoint_folder(path)


def family_title(architecture: str) -> str:
    """Return a family's name as people write it."""
    return ARCHITECTURES[architecture].title


def _digests(file: Path, checkpoint: Checkpoint, progress: Listener) -> Mapping[str, str]:
    if isinstance(checkpoint, StoredCheckpoint):
        return dict(checkpoint.manifest.digests)
    if len(files_of(file)) != 1 or file.is_dir():
        found = digests_of(file, only=("sha256",), progress=progress)
        return {name: digests["sha256"] for name, digests in found.items()}
    offset = (
        getattr(checkpoint, "data_offset", None) if checkpoint.format == "safetensors" else None
    )
    return known_digests().fresh(file, only=NAMES, data_offset=offset, progress=progress)


def _refused(
    path: Path, error: FormatError, digests: Mapping[str, str], *, salvage: bool
) -> Report:
    verdict: Verdict = "unsupported"
    if isinstance(error, UnsafeError):
        verdict = "unsafe"
    elif isinstance(error, CorruptError):
        verdict = "corrupt"
    message = str(error)
    faults = (message, *(fault for fault in error.faults if fault not in message))
    report = Report(
        path,
        verdict,
        size=_size(path),
        format=sniff_file(path) if path.is_file() or is_checkpoint_folder(path) else None,
        faults=faults,
        digests=digests,
    )
    return _with_tensors(report) if salvage and verdict == "unsafe" else report


def _with_tensors(report: Report) -> Report:
    """Add what can be salvaged of an unsafe file; the verdict stays."""
    try:
        checkpoint = open_file(report.path, salvage=True)
    except FormatError as error:
        return Report(
            report.path,
            report.verdict,
            size=report.size,
            format=report.format,
            faults=(*report.faults, f"Nothing can be salvaged: {error}"),
            digests=report.digests,
        )
    try:
        found = _accepted(report.path, checkpoint, report.digests)
    finally:
        checkpoint.close()
    return Report(
        *(found.path, "unsafe", found.size, found.format),
        faults=report.faults,
        notes=found.notes,
        tensors=found.tensors,
        metadata=found.metadata,
        identity=found.identity,
        modelspec=found.modelspec,
        training=found.training,
        digests=report.digests,
    )


def _accepted(path: Path, checkpoint: Checkpoint, digests: Mapping[str, str]) -> Report:
    specs, metadata = checkpoint.specs, dict(checkpoint.metadata)
    identity = _delta(path, checkpoint) or identify(specs, metadata)
    notes = tuple(checkpoint.notes)
    if len(identity.candidates) > 1:
        notes += (
            f"Fits several model families: {', '.join(identity.candidates)}. It is left undecided.",
        )
    safety = _SAFETY.get(checkpoint.format)
    return Report(
        path,
        "ok",
        size=_size(path, checkpoint),
        format=checkpoint.format,
        notes=notes,
        tensors=specs,
        metadata=metadata,
        identity=identity,
        safety=(safety,) if safety else (),
        modelspec=modelspec(metadata),
        training=training(metadata),
        digests=digests,
    )


def _delta(path: Path, checkpoint: Checkpoint) -> Identity | None:
    """Say of memcard's own deltas what they are and make; None if the file is none."""
    metadata, count = checkpoint.metadata, len(checkpoint.specs)
    mode = metadata.get(f"{KEY}mode")
    if mode is None:
        return None
    made, said = (
        identify(checkpoint.specs, metadata),
        f"{count} tensors stand in for those of a base",
    )
    if mode == MODE:
        try:
            entries, told = read_index(checkpoint)
        except FormatError as error:
            raise type(error)(f"{path}: {error}", faults=error.faults) from None
        made = identify({entry.name: entry.spec for entry in entries}, told)
        changed = sum(entry.codec != SAME for entry in entries)
        said = f"with its base it makes {len(entries)} tensors, {changed} of them not the base's"
    name = metadata.get(f"{KEY}base_name")
    base = f"{metadata.get(f'{KEY}base_sha256', 'not stated')}{f', called {name}' if name else ''}"
    return replace(
        made,
        kind="delta",
        evidence=(f"{KEY}mode is {mode}: {said}",),
        missing=(f"base checkpoint, SHA-256 {base}",),
    )


def _size(path: Path, checkpoint: Checkpoint | None = None) -> int:
    """Return the size in bytes of a file, of a folder, or of an index with its shards."""
    if isinstance(checkpoint, StoredCheckpoint):  # the path is that of its record
        return checkpoint.manifest.size
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    parts: Iterable[Path] = getattr(checkpoint, "parts", ())
    return path.stat().st_size + sum(part.stat().st_size for part in parts)
