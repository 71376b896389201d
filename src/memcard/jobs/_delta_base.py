"""The base of a delta: found among the files at hand by what is in them, never by name alone.

A name is a hint for the order of the search. Size, header and a few small tensors rule out what cannot be
the base at the cost of some kilobytes; the SHA-256 of the whole file decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from blake3 import blake3

from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, Progress
from memcard.errors import MemcardError, MismatchError, NotFoundError
from memcard.formats import open_file
from memcard.jobs._delta_file import BLOCK, KEY, Entry

Digest = Callable[[Path, Listener], str]
Fits = Callable[[Checkpoint], bool]
VARIABLE: Final = "MEMCARD_BASES"
_SHOWN: Final = 3
_PROBES: Final = 16  # tensors of the base that are compared before its file is hashed
_SMALL: Final = 64 << 10  # bytes of such a tensor at most
_SUFFIXES: Final = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


def find_base(
    delta: Path,
    metadata: Mapping[str, str],
    fits: Fits,
    *,
    known: Sequence[Path] = (),
    digest: Digest,
    progress: Listener,
) -> Path:
    """Return the file a delta was made from.

    Looks at ``known`` files, in the delta's folder, in the working folder, and in the folders that the
    environment variable ``MEMCARD_BASES`` lists.

    Args:
        delta: the file of the delta, which is not its own base.
        metadata: that of the delta.
        fits: tells cheaply whether an opened file may be the base.
        known: files to look at first.
        digest: returns the SHA-256 of a file.
        progress: hears about the hashing.

    Raises:
        NotFoundError: no file has the SHA-256 the delta states; says which is wanted.
    """
    wanted = metadata.get(f"{KEY}base_sha256", "")
    name, size = metadata.get(f"{KEY}base_name", ""), metadata.get(f"{KEY}base_size")
    folders = _folders(delta)
    for path in (*known, *_candidates(folders, name)):
        if (
            _is_other(path, delta, size)
            and _may_be(path, fits)
            and digest(path, progress) == wanted
        ):
            return path
    who = f"{name!r} with SHA-256" if name else "SHA-256"
    raise NotFoundError(
        f"{delta}: this is a delta, and its base ({who} {wanted or 'not stated'}) is neither in the "
        f"starter nor in {' nor in '.join(map(str, folders))}. Put the base, or a link to it, beside "
        f"the delta; its name does not matter. Or set {VARIABLE} to the folder it is in, or name it: "
        "memcard.open(delta, base=...), memcard delta apply BASE DELTA."
    )


def _folders(delta: Path) -> list[Path]:
    named = [Path(text).expanduser() for text in os.environ.get(VARIABLE, "").split(os.pathsep)]
    told = [path.absolute() for path in named if path != Path()]
    return list(dict.fromkeys([delta.absolute().parent, Path.cwd(), *told]))


def _candidates(folders: Sequence[Path], name: str) -> Iterator[Path]:
    if name and Path(name).name == name:
        yield from (folder / name for folder in folders)
    for folder in folders:
        with suppress(OSError):  # a folder that may be entered, but not listed
            found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
            yield from (path for path in found if path.name != name)


def _is_other(path: Path, delta: Path, size: str | None) -> bool:
    try:
        stat = path.stat()
        return path.is_file() and size in (None, str(stat.st_size)) and not path.samefile(delta)
    except OSError:
        return False


def _may_be(path: Path, fits: Fits) -> bool:
    """Tell from a look into the file whether hashing it is worth it."""
    try:
        checkpoint = open_file(path)
    except (MemcardError, OSError):
        return False  # someone else's broken file is not our fault to report
    try:
        return fits(checkpoint)
    except (MemcardError, OSError):
        return False
    finally:
        checkpoint.close()


def may_be_base(candidate: Checkpoint, entries: Sequence[Entry]) -> bool:
    """Tell from dtypes, sizes and a few small tensors whether a lossless delta may be of this file."""
    used = [entry for entry in entries if entry.base_digest]
    if not all(_is_alike(candidate, entry) for entry in used):
        return False
    small = [entry for entry in used if entry.spec.nbytes <= _SMALL]
    stride = max(1, len(small) // _PROBES)
    return all(_is_same(candidate, entry) for entry in small[::stride][:_PROBES])


def check_base(
    path: Path,
    entries: Sequence[Entry],
    metadata: Mapping[str, str],
    *,
    digest: Digest,
    progress: Listener,
) -> list[str]:
    """Return a note if the base is not the very file, but has the same tensors.

    Raises:
        MismatchError: it is another checkpoint; says which one is wanted.
    """
    wanted = metadata.get(f"{KEY}base_sha256", "")
    if digest(path, progress) == wanted:
        return []
    used = [entry for entry in entries if entry.base_digest]
    odd = _different(path, used, progress)
    if odd:
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        raise MismatchError(
            f"{path}: is not the base of this delta ({len(odd)} of {len(used)} tensors differ: "
            f"{', '.join(map(repr, odd[:_SHOWN]))}{more}). Wanted is "
            f"{metadata.get(f'{KEY}base_name', 'a file')!r} with SHA-256 {wanted or 'not stated'}."
        )
    return ["The base is another file with the same tensors."]


def _different(path: Path, used: Sequence[Entry], progress: Listener) -> list[str]:
    """List the tensors of the base that are not what the delta was made from."""
    base, odd, done = open_file(path), [], 0
    total = sum(entry.spec.nbytes for entry in used)
    try:
        for entry in used:
            if not (_is_alike(base, entry) and _is_same(base, entry)):
                odd.append(entry.name)
            done += entry.spec.nbytes
            progress(Progress("check", done, total))
    finally:
        base.close()
    return odd


def _is_alike(base: Checkpoint, entry: Entry) -> bool:
    spec = base.specs.get(entry.name)
    wanted = entry.spec
    return spec is not None and (spec.dtype, spec.nbytes) == (wanted.dtype, wanted.nbytes)


def _is_same(base: Checkpoint, entry: Entry) -> bool:
    """Compare the digest of a tensor that is alike."""
    size = entry.spec.nbytes
    whole, buffer = blake3(), memoryview(bytearray(min(size, BLOCK)))
    for start in range(0, size, BLOCK):
        part = buffer[: min(BLOCK, size - start)]
        base.readinto(entry.name, part, start)
        whole.update(part)
    return whole.hexdigest() == entry.base_digest
