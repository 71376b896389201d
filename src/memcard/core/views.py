"""Checkpoints that show another one: whole, in part, or under other names. No value is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.identity import Place, Supply, derived, identity, supply
from memcard.core.tensors import Spec, Specs
from memcard.errors import NotFoundError


class View:
    """Another checkpoint, seen through. Subclasses change what they have to."""

    def __init__(self, whole: Checkpoint) -> None:
        self._whole = whole

    @property
    def format(self) -> str:
        """Name of the format, or ``recipe``."""
        return self._whole.format

    @property
    def specs(self) -> Specs:
        """Name to dtype and shape, in file order."""
        return self._whole.specs

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free text the checkpoint carries about itself."""
        return self._whole.metadata

    @property
    def notes(self) -> Sequence[str]:
        """What a careful user should know; one sentence each."""
        return self._whole.notes

    def read(self, name: str) -> memoryview:
        """Return one tensor: little-endian, row-major, read-only bytes."""
        return self._whole.read(name)

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor that start at ``offset``."""
        self._whole.readinto(name, into, offset)

    def extent(self, name: str) -> Extent | None:
        """Where the bytes lie as they are; None if nowhere."""
        return self._whole.extent(name)

    def identity_of(self, name: str, place: Place) -> str | None:
        """Return what a tensor is; here only where its bytes lie, as a subclass may change them."""
        extent = self.extent(name)
        return None if extent is None else place(extent)

    def supplied_by(self, source: Supply | None) -> None:
        """Let what is below ask ``source`` before it unpacks anything."""
        supply(self._whole, source)

    def check_unchanged(self) -> None:
        """Raise IntegrityError if the file was written to since it was opened, where that shows."""
        check = getattr(self._whole, "check_unchanged", None)
        if check is not None:
            check()

    def close(self) -> None:
        """Give back the file handle."""
        self._whole.close()


class Part(View):
    """Some tensors of a checkpoint."""

    def __init__(self, whole: Checkpoint, names: Iterable[str]) -> None:
        super().__init__(whole)
        self._specs: Specs = {name: whole.specs[name] for name in names}

    @property
    def specs(self) -> Specs:
        """Name to dtype and shape, of the chosen tensors only."""
        return self._specs

    def identity_of(self, name: str, place: Place) -> str | None:
        """Return what a tensor is: the same as in the whole."""
        return identity(self._whole, name, place)


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of one tensor."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How one tensor is put together from the bytes of others.

    Attributes:
        spec: of the result.
        pieces: the bytes, one after another.
        transposed: the pieces are a matrix whose rows become the columns of the result.
    """

    spec: Spec
    pieces: tuple[Piece, ...]
    transposed: bool = False


class Rearranged(View):
    """A checkpoint under other names, rows split, joined or moved as ``arrangements`` say.

    Reads stream: no tensor is held whole, transposed matrices excepted.
    """

    def __init__(self, whole: Checkpoint, arrangements: Mapping[str, Arrangement]) -> None:
        super().__init__(whole)
        self.arrangements = dict(arrangements)
        self._specs: Specs = {name: a.spec for name, a in self.arrangements.items()}

    @property
    def specs(self) -> Specs:
        """Name to dtype and shape, in the order of the arrangements."""
        return self._specs

    def read(self, name: str) -> memoryview:
        """Return one tensor: little-endian, row-major, read-only bytes."""
        found = self._find(name)
        only = found.pieces[0] if len(found.pieces) == 1 and not found.transposed else None
        if only is not None:
            return self._whole.read(only.name)[only.offset : only.offset + only.size]
        into = memoryview(bytearray(found.spec.nbytes))
        self.readinto(name, into)
        return into.toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor that start at ``offset``."""
        found = self._find(name)
        if found.transposed:
            into[:] = self._transposed(found)[offset : offset + len(into)]
            return
        at = 0
        for piece in found.pieces:
            first, last = max(at, offset), min(at + piece.size, offset + len(into))
            if first < last:
                part = into[first - offset : last - offset]
                self._whole.readinto(piece.name, part, piece.offset + first - at)
            at += piece.size

    def extent(self, name: str) -> Extent | None:
        """Where the bytes lie, for a tensor that is one run of bytes of another."""
        found = self._find(name)
        if len(found.pieces) != 1 or found.transposed:
            return None
        piece = found.pieces[0]
        whole = self._whole.extent(piece.name)
        return (
            None if whole is None else Extent(whole.path, whole.offset + piece.offset, piece.size)
        )

    def identity_of(self, name: str, place: Place) -> str | None:
        """Return what a tensor is: that of its only piece, if this is a whole tensor, else made of them."""
        found = self._find(name)
        pieces = [(identity(self._whole, p.name, place), p) for p in found.pieces]
        if any(one is None for one, _ in pieces):
            return None
        if len(pieces) == 1 and not found.transposed:
            one, piece = pieces[0]
            if (piece.offset, piece.size) == (0, self._whole.specs[piece.name].nbytes):
                return one
        turned = f"transposed {found.spec.shape}" if found.transposed else "joined"
        return derived(turned, *(f"{one} {p.offset} {p.size}" for one, p in pieces))

    def _find(self, name: str) -> Arrangement:
        try:
            return self.arrangements[name]
        except KeyError:
            raise NotFoundError(f"the checkpoint has no tensor {name!r}.") from None

    def _transposed(self, found: Arrangement) -> memoryview:
        import numpy as np

        columns, rows = found.spec.shape
        buffer = memoryview(bytearray(found.spec.nbytes))
        at = 0
        for piece in found.pieces:
            self._whole.readinto(piece.name, buffer[at : at + piece.size], piece.offset)
            at += piece.size
        item = np.dtype((np.void, found.spec.dtype.block_bytes))
        matrix = np.frombuffer(buffer, item).reshape(rows, columns)
        return memoryview(np.ascontiguousarray(matrix.T).tobytes())
