"""What differs between two checkpoints: names, shapes, dtypes, and how far every weight moved.

Streams: a piece of each side is in memory at a time and thread, whatever the size of the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from memcard.core.atomic import replacing
from memcard.core.checkpoint import Checkpoint
from memcard.core.extras import require
from memcard.core.progress import Listener, Progress, silent
from memcard.core.tensors import DType, Spec
from memcard.errors import NotFoundError, UsageError
from memcard.jobs._blocks import Place, places
from memcard.jobs._differences import Change, Diff, Metadata
from memcard.jobs._pairs import Pairing, pair
from memcard.jobs.resolve import resolve
from memcard.maths.compare import Distance, distance, same_bytes, squares
from memcard.maths.floats import scratch

PIECE: Final = 1 << 20  # values compared at once; a multiple of every packed block
_THREADS: Final = 8
_LEFT, _RIGHT = 20, 21  # places among the thread's arrays


def diff(
    a: str | Path,
    b: str | Path,
    *,
    keys: bool = False,
    threads: int | None = None,
    progress: Listener = silent,
) -> Diff:
    """Compare two checkpoints of any format; nothing in them is executed.

    Tensors are matched by name, also where only a prefix differs (a bare UNet and a whole checkpoint)
    or the dialect (LDM and diffusers). Values are compared in float64, so dtypes may differ; where
    they do, equal values are not equal tensors.

    Args:
        a: the old one, as for ``memcard.open``: a file, a folder, a name of the starter.
        b: the new one.
        keys: compare only names, shapes and dtypes; reads headers only.
        threads: None for as many as there are processors, at most 8. The figures do not depend on it.
        progress: hears how many bytes are compared.

    Returns:
        The differences. ``equal`` is True if both have the same tensors of the same shapes, dtypes and
        bits, whatever the files around them look like.

    Raises:
        FormatError: one of them cannot be read as a checkpoint.
        NotFoundError: nothing has this name.
    """
    left = resolve(a)
    try:
        right = resolve(b)
        try:
            pairing = pair(left, right)
            found = {} if keys else _distances(pairing, threads, progress)
            return _report(str(a), str(b), pairing, found, keys=keys)
        finally:
            right.close()
    finally:
        left.close()


def check_picture(path: str | Path, *, keys: bool = False) -> None:
    """Refuse a picture that cannot be drawn, before anything is compared.

    Raises:
        NotFoundError: the folder is not there.
        UsageError: pillow is not installed, the name does not end in .png, or there will be no values.
    """
    require("pictures", what="a heat map")
    path = Path(path).expanduser()
    if keys:
        raise UsageError("a heat map shows values, and --keys reads none. Leave one of them out.")
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: the heat map is a PNG; end the name in .png.")
    if not path.parent.is_dir():
        raise NotFoundError(f"{path.parent}: no such folder. Make it first.")


def draw(found: Diff, path: str | Path) -> None:
    """Write a heat map of the blocks as PNG.

    Args:
        found: of ``diff``.
        path: where; a file of this name is replaced.

    Raises:
        NotFoundError, UsageError: as ``check_picture``.
    """
    check_picture(path, keys=found.keys)
    from memcard.jobs._heat_map import heat_map

    with replacing(Path(path).expanduser()) as file:
        heat_map(found).save(file, "PNG", optimize=True)


def _report(a: str, b: str, pairing: Pairing, found: Mapping[str, Distance], *, keys: bool) -> Diff:
    one, two = pairing.a, pairing.b
    seats = places(one.specs)
    changes = tuple(
        Change(
            pairing.file_a.get(name, name),
            pairing.file_b.get(other, other),
            seats[name],
            one.specs[name],
            two.specs[other],
            found.get(name),
        )
        for name, other in pairing.names.items()
    )
    return Diff(
        a=a,
        b=b,
        changes=changes,
        only_a=_alone(pairing.only_a, one, pairing.file_a),
        only_b=_alone(pairing.only_b, two, pairing.file_b),
        metadata=Metadata.between(one.metadata, two.metadata),
        notes=pairing.notes + _value_notes(changes, keys=keys),
        keys=keys,
    )


def _alone(
    names: tuple[str, ...], whole: Checkpoint, in_file: Mapping[str, str]
) -> Mapping[str, tuple[Place, Spec]]:
    seats = places(whole.specs)
    return {in_file.get(name, name): (seats[name], whole.specs[name]) for name in names}


def _value_notes(changes: tuple[Change, ...], *, keys: bool) -> tuple[str, ...]:
    if keys:
        return ("Only names, shapes and dtypes were compared; values were not read.",)
    odd = sum(c.distance.odd for c in changes if c.distance)
    bytes_only = sorted(
        {str(c.a.dtype) for c in changes if c.distance and c.distance.aa != c.distance.aa}
    )
    notes = []
    if odd:
        notes.append(
            f"{odd} pairs of values have NaN or infinity on a side; they are left out of norms and cosines."
        )
    if bytes_only:
        notes.append(
            f"No numbers can be read from {', '.join(bytes_only)} here; only bytes were compared."
        )
    return tuple(notes)


def _distances(pairing: Pairing, threads: int | None, progress: Listener) -> dict[str, Distance]:
    """Compare every pair of one shape; equal pieces are weighed only where their component moved."""
    pieces = list(_pieces(pairing))
    total = sum(piece.size for piece in pieces)
    crew = ThreadPoolExecutor(threads or min(_THREADS, os.cpu_count() or 1))
    try:
        found: dict[str, Distance] = {}
        equal: list[_Piece] = []
        done = 0
        for piece, result in zip(pieces, crew.map(_Piece.compare, pieces), strict=True):
            found[piece.name] = found.get(piece.name, Distance()) + result
            if result.same:
                equal.append(piece)
            done += piece.size
            progress(Progress("compare", done, total))
        _weigh(found, equal, pairing, crew)
    finally:
        crew.shutdown(cancel_futures=True)
    return found


def _weigh(
    found: dict[str, Distance], equal: list[_Piece], pairing: Pairing, crew: ThreadPoolExecutor
) -> None:
    """Add the norms of equal pieces; without them a block would seem to have moved further."""
    seats = places(pairing.a.specs)
    moved = {seats[name].component for name, distance in found.items() if not distance.same}
    waiting = [piece for piece in equal if seats[piece.name].component in moved]
    for piece, norm in zip(waiting, crew.map(_Piece.weigh, waiting), strict=True):
        found[piece.name] += Distance(aa=norm)


def _pieces(pairing: Pairing) -> Iterator[_Piece]:
    for name, other in pairing.names.items():
        one, two = pairing.a.specs[name], pairing.b.specs[other]
        if one.shape != two.shape:
            continue
        same = _same_place(pairing, name, other)
        for start in range(0, max(one.elements, 1), PIECE):
            count = min(PIECE, one.elements - start)
            yield _Piece(pairing.a, pairing.b, name, other, start, count, same)


def _same_place(pairing: Pairing, name: str, other: str) -> bool:
    """Tell whether both tensors are the very same bytes on the disk."""
    if pairing.a.specs[name] != pairing.b.specs[other]:
        return False
    one, two = pairing.a.extent(name), pairing.b.extent(other)
    if one is None or two is None or (one.offset, one.size) != (two.offset, two.size):
        return False
    return one.path == two.path or one.path.samefile(two.path)


class _Piece:
    """A run of values of one pair of tensors."""

    def __init__(
        self,
        a: Checkpoint,
        b: Checkpoint,
        name: str,
        other: str,
        start: int,
        count: int,
        same: bool,
    ) -> None:
        self.name = name
        self.size = _bytes(a.specs[name].dtype, count)
        self._a, self._b, self._other = a, b, other
        self._start, self._count, self._same = start, count, same

    def compare(self) -> Distance:
        """Compare; of equal bytes the norm is left at 0 until someone asks for it."""
        if self._same or not self._count:
            return Distance(self._count, self._count)
        one, two = self._a.specs[self.name].dtype, self._b.specs[self._other].dtype
        left = self._read(self._a, self.name, one, _LEFT)
        right = self._read(self._b, self._other, two, _RIGHT)
        if one == two and same_bytes(left, right):
            return Distance(self._count, self._count)
        return distance(left, one, right, two)

    def weigh(self) -> float:
        """Return the squared norm of the piece in ``a``."""
        kind = self._a.specs[self.name].dtype
        return squares(self._read(self._a, self.name, kind, _LEFT), kind)

    def _read(self, source: Checkpoint, name: str, kind: DType, place: int) -> memoryview:
        buffer = scratch(place, _bytes(kind, self._count), "u1").data
        source.readinto(name, buffer, _bytes(kind, self._start))
        return buffer


def _bytes(kind: DType, count: int) -> int:
    return count // kind.block * kind.block_bytes
