"""The short form of a manifest: its tensors in columns, and all of it as one frame of zstd.

The id of a manifest stays the SHA-256 of its canonical JSON, in whichever form it lies on the disk. So the same
facts have the same id in both, and what names them need not know the form. Of 326 tensors the canonical JSON
has 62 kB; the short form has 12 kB, 10 of which are the digests, and these can be made no shorter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import zstandard

from memcard.core.tensors import DTYPES, QUANTIZED, DType, Spec
from memcard.errors import CorruptError, UnsupportedError
from memcard.store.canonical import to_bytes

# name, dtype, shape, file, at, blake3; as in the JSON of a tensor, whatever they are
Row: TypeAlias = tuple[Any, Any, Any, Any, Any, Any]

VERSION: Final = 1
MOST: Final = 32 << 20  # bytes of its JSON: 150,000 tensors; a larger manifest is kept as it is
_DIGEST: Final = 64  # hex digits
_NONE: Final = "-" * _DIGEST
_COLUMNS: Final = ("name", "dtype", "shape", "file", "gap")
# Of 44 kB: 12.3 kB in 2 ms at level 15, 12.7 kB in 0.1 ms at level 3, 12.4 kB in 9 ms at level 19.
_LEVEL, _LEVEL_OF_LARGE, _LARGE = 15, 3, 4 << 20
_REMEDY: Final = (
    "Add the checkpoint again to have it written anew, or put the file back from a backup."
)


def shortened(head: Mapping[str, Any], rows: Sequence[Row]) -> bytes | None:
    """Return the short form of a manifest; None if it would be too large.

    Args:
        head: the manifest's JSON object without its tensors.
        rows: the tensors; lawful ones.
    """
    raw = to_bytes({**head, "short": VERSION, "columns": _columns(rows)})
    if len(raw) > MOST:
        return None
    level = _LEVEL if len(raw) <= _LARGE else _LEVEL_OF_LARGE
    frames = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=True)
    return frames.compress(raw)


def restored(packed: bytes, path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Return head and rows of a manifest in the short form; ``path`` is for messages.

    What the values in them may be is for the manifest to say.

    Raises:
        UnsupportedError: a newer memcard wrote it.
        CorruptError: it is not what the specification says.
    """
    head, columns = _halves(packed, path)
    return head, list(_rows(columns, path))


def head_of(packed: bytes, path: Path) -> dict[str, Any]:
    """Return the head alone.

    Raises:
        UnsupportedError, CorruptError: as ``restored``.
    """
    return _halves(packed, path)[0]


def _halves(packed: bytes, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    head = _unpacked(packed, path)
    version, columns = head.pop("short", None), head.pop("columns", None)
    if type(version) is not int or not isinstance(columns, dict) or "tensors" in head:
        raise _wrong(path, "it has no version, no columns, or tensors beside them")
    if version > VERSION:
        raise UnsupportedError(
            f"{path}: is a short manifest of version {version}; this memcard knows {VERSION}. "
            "Upgrade it: pip install --upgrade memcard."
        )
    return head, columns


def dtype_named(name: str, where: str) -> DType:
    """Return the dtype of this name.

    Raises:
        UnsupportedError: this memcard does not know it.
    """
    found = DTYPES.get(name) or QUANTIZED.get(name)
    if found is None:
        raise UnsupportedError(
            f"{where}: has a tensor of dtype {name[:40]!r}, which this memcard does not know. "
            "Upgrade it: pip install --upgrade memcard."
        )
    return found


def _columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Turn rows into columns; offsets become distances, of which most are 0."""
    ends, gaps, sizes = dict[int, int](), list[int | None](), _Sizes("a manifest")
    for _, dtype, shape, file, at, _ in rows:
        gaps.append(None if at is None else at - ends.get(file, 0))
        if at is not None:
            ends[file] = at + sizes.of(dtype, shape)
    names, dtypes, shapes, files, _, digests = zip(*rows, strict=True) if rows else ((),) * 6
    lists = (names, dtypes, shapes, files, gaps)
    digest = "".join(_NONE if one is None else one for one in digests)
    return {**dict(zip(_COLUMNS, map(list, lists), strict=True)), "blake3": digest}


def _rows(columns: Mapping[str, Any], path: Path) -> Iterator[Row]:
    lists = [columns.get(key) for key in _COLUMNS]
    digests = columns.get("blake3")
    if not all(isinstance(one, list) for one in lists) or not isinstance(digests, str):
        raise _wrong(path, "a column is missing")
    count = len(digests) // _DIGEST
    if any(len(one or ()) != count for one in lists) or len(digests) != count * _DIGEST:
        raise _wrong(path, "its columns are not of one length")
    parts = (digests[at : at + _DIGEST] for at in range(0, len(digests), _DIGEST))
    ends, sizes = dict[int, int](), _Sizes(str(path))
    for name, dtype, shape, file, gap, digest in zip(*map(list, lists), parts, strict=True):  # type: ignore[arg-type]
        at = None
        if gap is not None:
            if type(gap) is not int or type(file) is not int:
                raise _wrong(path, "a distance or a file is no whole number")
            at = ends.get(file, 0) + gap
            ends[file] = at + sizes.of(dtype, shape)
        yield name, dtype, shape, file, at, None if digest == _NONE else digest


class _Sizes:
    """Sizes of tensors by dtype and shape, of which a checkpoint has few."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._known: dict[tuple[object, ...], int] = {}

    def of(self, dtype: object, shape: object) -> int:
        """Return the bytes of the values."""
        if not isinstance(shape, list) or not isinstance(dtype, str):
            raise CorruptError(f"{self._where}: a tensor has no dtype or no shape. {_REMEDY}")
        if not set(map(type, shape)) <= {int}:
            raise CorruptError(f"{self._where}: the shape {str(shape)[:60]} is none. {_REMEDY}")
        key = (dtype, *shape)
        if key not in self._known:
            self._known[key] = Spec(dtype_named(dtype, self._where), tuple(shape)).nbytes
        return self._known[key]


def _unpacked(packed: bytes, path: Path) -> dict[str, Any]:
    try:
        # a frame says itself how much memory it wants
        if not 0 < (size := zstandard.get_frame_parameters(packed).content_size) <= MOST:
            raise _wrong(path, f"it would be {size} bytes; {MOST} are the limit")
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
        found = json.loads(raw, parse_constant=_refuse)
    except (zstandard.ZstdError, ValueError, RecursionError) as error:
        raise _wrong(path, str(error)) from None
    if not isinstance(found, dict):
        raise _wrong(path, "it is JSON, but no object")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _wrong(path: Path, why: str) -> CorruptError:
    return CorruptError(f"{path}: is no short manifest ({why}). {_REMEDY}")
