"""A strict zip directory: the same bytes must mean the same to every reader.

torch takes the first member of a name and Python's zipfile the last; some readers believe the local
header and some the directory; some start at the first byte and some search from the end. A file that
these could read differently is refused. Members are stored or deflated; what deflated ones claim to
hold is limited.

Source: PKWARE APPNOTE 6.3.10; torch writes with miniz (stored, aligned by the local extra field).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from memcard.core.limits import DEFAULT, Limits
from memcard.errors import CorruptError, UnsupportedError
from memcard.formats._source import Source

LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
LOCATOR64 = struct.Struct("<4sIQI")
END64 = struct.Struct("<4sQ2H2I4Q")
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
ZIP64 = 0x0001
_ENCRYPTED, _DESCRIPTOR = 0x2041, 0x0008  # encrypted: the old way, strongly, or the directory
_HARMLESS = 0x080E  # compression level, data descriptor, UTF-8 names
_FOLDER = 0x10  # of DOS, in the external attributes
_DEFLATED = 8
_HEAD = 256  # a local header as torch pads it: 30 bytes, the name, up to 63 of padding


@dataclass(frozen=True, slots=True)
class Member:
    """One member; unless ``deflated``, its bytes lie as they are at ``offset``."""

    name: str
    header: int
    offset: int
    size: int
    crc: int
    packed: int  # bytes in the file
    deflated: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the directory."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


class ZipReader:
    """Reads and checks the directory and every local header; collects faults before raising."""

    def __init__(self, source: Source, limits: Limits = DEFAULT) -> None:
        self.source = source
        self.limits = limits
        self.faults: list[str] = []
        entries = self._directory()
        self.members: dict[str, Member] = {}
        reach = 0
        for entry in sorted(entries, key=lambda e: e.header):
            reach = self._member(entry, reach)
        if not self.faults and reach != self.start:
            self.faults.append(f"{self.start - reach} foreign bytes lie before the directory")
        self._check_inflated()
        self._raise()
        order = {entry.name: i for i, entry in enumerate(entries)}
        self.members = dict(sorted(self.members.items(), key=lambda m: order[m[0].encode()]))

    def _raise(self) -> None:
        if self.faults:
            raise self._refusal()

    def _refusal(self) -> CorruptError:
        more = f" (and {len(self.faults) - 3} more faults)" if len(self.faults) > 3 else ""
        return CorruptError(
            f"{self.source.path}: {'; '.join(self.faults[:3])}{more}. The archive is damaged, or "
            "made so that two programs read two different things; get it again from its source.",
            faults=self.faults,
        )

    def _fault(self, text: str) -> CorruptError:
        """Return the refusal when nothing more can be checked."""
        self.faults.append(text)
        return self._refusal()

    def _check_inflated(self) -> None:
        deflated = [member for member in self.members.values() if member.deflated]
        total = sum(member.size for member in deflated)
        most = max(self.limits.inflated_bytes, self.limits.inflated_ratio * self.source.size)
        if total > most:
            largest = max(deflated, key=lambda member: member.size)
            self.faults.append(
                f"{len(deflated)} compressed members ({largest.name!r} the largest) claim to hold {total} "
                f"bytes; a file of {self.source.size} bytes may hold {most}"
            )

    def _directory(self) -> list[_Entry]:
        source = self.source
        at = source.size - END.size
        tail = source.bytes(max(at, 0), END.size)
        if at < 0 or tail[:4] != b"PK\x05\x06":
            raise self._fault(
                "no archive directory at the end: cut off, or followed by foreign bytes"
            )
        _, disk, disk_start, here, total, size, start, comment = END.unpack(tail)
        if comment or disk or disk_start or here != total:
            raise self._fault("the archive has a comment or several volumes")
        end = at
        locator = source.bytes(at - LOCATOR64.size, LOCATOR64.size) if at >= LOCATOR64.size else b""
        if locator[:4] == b"PK\x06\x07":
            end, total, size, start = self._end64(locator, at, (total, size, start))
        elif total == FULL16 or FULL32 in (size, start):
            raise self._fault("the archive is large, but its zip64 directory is missing")
        if start + size != end or total > self.limits.zip_members:
            raise self._fault(f"the directory of {total} members is not where its end says it is")
        if size > self.limits.pickle_bytes:
            raise self._fault(f"a directory of {size} bytes")
        self.start = start
        return self._entries(source.bytes(start, size), total)

    def _end64(
        self, locator: bytes, at: int, small: tuple[int, int, int]
    ) -> tuple[int, int, int, int]:
        _, _, where, disks = LOCATOR64.unpack(locator)
        raw = self.source.bytes(where, END64.size) if where <= at else b""
        if len(raw) < END64.size or raw[:4] != b"PK\x06\x06" or disks > 1:
            raise self._fault("the zip64 end record is missing")
        _, length, _, _, disk, disk_start, here, total, size, start = END64.unpack(raw)
        if where + 12 + length != at - LOCATOR64.size or disk or disk_start or here != total:
            raise self._fault("the zip64 end record does not fit")
        for old, new, full in zip(
            small, (total, size, start), (FULL16, *2 * (FULL32,)), strict=True
        ):
            if old not in (new, full):
                raise self._fault("the two end records of the archive disagree")
        return where, total, size, start

    def _entries(self, raw: bytes, total: int) -> list[_Entry]:
        entries: list[_Entry] = []
        at = 0
        while at < len(raw):
            if at + CENTRAL.size > len(raw) or raw[at : at + 4] != b"PK\x01\x02":
                raise self._fault(f"the directory is broken at byte {self.start + at}")
            fields = CENTRAL.unpack_from(raw, at)
            _, _, _, flags, method, _, _, crc, packed, size, n, x, c, disk, _, kind, header = fields
            name = raw[at + CENTRAL.size : at + CENTRAL.size + n]
            extra = raw[at + CENTRAL.size + n : at + CENTRAL.size + n + x]
            at += CENTRAL.size + n + x + c
            if at > len(raw) or disk:
                raise self._fault(f"the directory is broken before byte {self.start + at}")
            size, packed, header = self._wide(extra, (size, packed, header))
            if size and kind & _FOLDER:
                # torch reads no bytes of it and hands out whatever was in memory
                self.faults.append(f"{_show(name)} has {size} bytes and is marked as a folder")
            entries.append(_Entry(name, flags, method, crc, packed, size, header))
        if len(entries) != total:
            raise self._fault(f"the directory has {len(entries)} members, its end says {total}")
        seen: dict[bytes, bytes] = {}
        for entry in entries:
            same = seen.setdefault(entry.name.lower(), entry.name)
            if same is not entry.name:
                how = "twice" if same == entry.name else "in two spellings"
                self.faults.append(f"{_show(entry.name)} is there {how}")
        self._raise()
        return entries

    def _wide(self, extra: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
        """Replace every full 32-bit field by its zip64 value, in order."""
        wide = _extra_field(extra, ZIP64)
        result = []
        for value in values:
            if value == FULL32 and wide is not None and len(wide) >= 8:
                value, wide = int.from_bytes(wide[:8], "little"), wide[8:]  # noqa: PLW2901
            result.append(value)
        return tuple(result)

    def _member(self, entry: _Entry, reach: int) -> int:
        """Check one member against its local header; return where it ends."""
        show = _show(entry.name)
        if entry.header != reach:
            kind = "overlaps another member" if entry.header < reach else "follows foreign bytes"
            raise self._fault(f"{show} {kind}")
        self._lawful(entry, show)
        head = self.source.bytes(entry.header, _HEAD)
        if len(head) < LOCAL.size or head[:4] != b"PK\x03\x04":
            raise self._fault(f"{show} has no local header")
        _, _, flags, method, _, _, crc, packed, size, n, x = LOCAL.unpack_from(head)
        if LOCAL.size + n + x > len(head):
            head = self.source.bytes(entry.header, LOCAL.size + n + x)
        name = head[LOCAL.size : LOCAL.size + n]
        if size == FULL32 or packed == FULL32:
            size, packed = self._wide(head[LOCAL.size + n : LOCAL.size + n + x], (size, packed))
        late = bool(flags & _DESCRIPTOR)
        if (flags ^ entry.flags) & (_ENCRYPTED | _DESCRIPTOR):
            self.faults.append(f"{show} has other flags in the directory than in its own header")
        same = (size, packed, crc) == (entry.size, entry.packed, entry.crc)
        if (name, method) != (entry.name, entry.method) or not (same or (late and not size)):
            self.faults.append(
                f"{show} is described differently by the directory and by its own header"
            )
        offset = entry.header + LOCAL.size + int(n) + int(x)
        end = offset + entry.packed
        if end > self.start:
            raise self._fault(f"{show} reaches into the directory")
        text = entry.name.decode("utf-8", "replace")
        deflated = entry.method == _DEFLATED
        self.members[text] = Member(
            *(text, entry.header, offset, entry.size, entry.crc, entry.packed, deflated)
        )
        return end + (self._descriptor(entry, end, show) if late else 0)

    def _lawful(self, entry: _Entry, show: str) -> None:
        try:
            name = entry.name.decode("utf-8")
        except UnicodeDecodeError:
            raise self._fault(f"{show}: the name is not UTF-8") from None
        parts = name.removesuffix("/").split("/")  # a folder ends in /
        if "\0" in name or name.startswith("/") or ".." in parts:
            self.faults.append(f"{show}: a name that leaves the archive")
        elif not name.isprintable() or "\\" in name or not {"", "."}.isdisjoint(parts):
            self.faults.append(f"{show}: a name that some programs read as another one")
        if entry.flags & _ENCRYPTED:
            raise UnsupportedError(f"{self.source.path}: {show} is encrypted; decrypt it first.")
        if entry.flags & ~_HARMLESS:
            self.faults.append(f"{show} has the unknown flags {entry.flags & ~_HARMLESS:#x}")
        stored = not entry.method and entry.packed == entry.size
        if not stored and entry.method != _DEFLATED:
            raise self._fault(
                f"{show}: method {entry.method} with {entry.packed} of {entry.size} bytes"
            )

    def _descriptor(self, entry: _Entry, end: int, show: str) -> int:
        """Return the length of the record after a member: 16 bytes, or 24 with wide sizes."""
        raw = self.source.bytes(end, 24)
        for length, form in ((24, "<4sIQQ"), (16, "<4sIII")):
            if len(raw) >= length:
                sign, crc, packed, size = struct.unpack_from(form, raw)
                told = (sign, crc, packed, size)
                if told == (b"PK\x07\x08", entry.crc, entry.packed, entry.size):
                    return length
        raise self._fault(f"{show} is described differently by the record that follows it")


def _extra_field(extra: bytes, tag: int) -> bytes | None:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == tag:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None


def _show(name: bytes) -> str:
    return repr(name.decode("utf-8", "replace")[:80])
