"""A compressed member of a zip archive, read by offset with little memory.

torch writes none, but its reader takes them (with ``mmap=True`` it returns wrong numbers), so people who
pack a checkpoint again have them. Deflate can only be read from the start; copies of the
decompressor are kept along the way, so that threads and parts in any order cost at most one stretch each.
"""

from __future__ import annotations

import mmap
import tempfile
import zlib
from threading import Lock

from memcard.errors import CorruptError
from memcard.formats._source import Source

_PART = 256 << 10
_STOPS = 16  # copies of a decompressor, 45 kB each
_STRETCH = 4 << 20  # least distance between two of them


class _Place:
    """A decompressor that stands at byte ``at`` of the content."""

    __slots__ = ("at", "inflater", "rest", "taken")

    def __init__(self) -> None:
        self.inflater = zlib.decompressobj(-15)
        self.at = 0
        self.taken = 0  # packed bytes handed to it
        self.rest = b""  # of these, not yet used

    def copy(self) -> _Place:
        other = _Place.__new__(_Place)
        other.inflater = self.inflater.copy()
        other.at, other.taken, other.rest = self.at, self.taken, self.rest
        return other


class Inflated:
    """The content of one member, as if it lay uncompressed in a file of its own."""

    def __init__(self, source: Source, name: str, start: int, packed: int, size: int) -> None:
        self._source = source
        self._name = name
        self._start, self._packed = start, packed
        self.size = size
        self._stretch = max(_STRETCH, -(-size // _STOPS))
        self._stops: dict[int, _Place] = {}
        self._lock = Lock()
        self._spool: mmap.mmap | None = None
        self._last = _Place()

    def readinto(self, offset: int, into: memoryview) -> None:
        """Fill ``into`` from ``offset`` on.

        Raises:
            CorruptError: the compressed bytes are damaged, or hold more or less than they claim.
        """
        into = into.cast("B") if into.format != "B" or into.ndim != 1 else into
        with self._lock:
            place, self._last = self._nearest(offset), _Place()  # a damaged one is not kept
            while place.at < offset:
                self._next(place, min(_PART, offset - place.at))
            done = 0
            while done < len(into):
                part = self._next(place, min(_PART, len(into) - done))
                into[done : done + len(part)] = part
                done += len(part)
            if place.at == self.size:
                self._check_end(place.copy())
            self._last = place

    def window(self, offset: int, size: int) -> tuple[mmap.mmap, int]:
        """Return a map of the content and where ``offset`` is in it; spills to a temporary file once."""
        if self._spool is None:
            with tempfile.TemporaryFile() as file:
                buffer = memoryview(bytearray(_PART))
                for at in range(0, self.size, _PART):
                    part = buffer[: min(_PART, self.size - at)]
                    self.readinto(at, part)
                    file.write(part)
                file.flush()
                self._spool = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
        return self._spool, offset

    def _nearest(self, offset: int) -> _Place:
        if self._last.at <= offset < self._last.at + self._stretch:
            return self._last
        before = [place for place in self._stops.values() if place.at <= offset]
        return max(before, key=lambda place: place.at).copy() if before else _Place()

    def _next(self, place: _Place, most: int) -> bytes:
        """Return up to ``most`` bytes, at least one."""
        part = b""
        while not part:
            fed = self._feed(place)
            # without new bytes too: zlib may hold some back that did not fit the last time
            part = b"" if place.inflater.eof else self._inflate(place, most)
            if not part and (place.inflater.eof or not fed):
                raise self._corrupt(f"ends after {place.at} of {self.size} bytes")
        place.at += len(part)
        stretch = place.at // self._stretch
        if stretch and stretch not in self._stops:
            self._stops[stretch] = place.copy()
        return part

    def _feed(self, place: _Place) -> bool:
        """Fetch packed bytes if none are at hand; False if there are no more."""
        if not place.rest and place.taken < self._packed:
            size = min(_PART, self._packed - place.taken)
            place.rest = self._source.bytes(self._start + place.taken, size)
            place.taken += len(place.rest)
        return bool(place.rest)

    def _inflate(self, place: _Place, most: int) -> bytes:
        try:
            part = place.inflater.decompress(place.rest, most)
        except zlib.error as error:
            raise self._corrupt(f"cannot be decompressed ({error})") from None
        place.rest = place.inflater.unconsumed_tail
        return part

    def _check_end(self, place: _Place) -> None:
        """Nothing may be left, and the end must be there: no reader may see another length."""
        more, fed = b"", True
        while fed and not more and not place.inflater.eof:
            fed = self._feed(place)
            more = self._inflate(place, 1)
        if not more and not place.inflater.eof:
            raise self._corrupt("is cut off: its last block has no end")
        if more or place.taken < self._packed or place.inflater.unused_data:
            raise self._corrupt(f"holds more than the {self.size} bytes it claims")

    def _corrupt(self, what: str) -> CorruptError:
        return CorruptError(
            f"{self._source.path}: {self._name!r} {what}. The archive is damaged; get it again from "
            "its source."
        )
