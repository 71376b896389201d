"""The layout of a zip archive we write: stored, aligned, zip64 where needed, the same bytes each time.

Checksums are not known when the layout is made; the finisher computes them in one pass over the file
and writes them into the local headers and the directory. torch does not look at them, Python's
zipfile does.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from memcard.formats._planned import Plan, PlannedSink
from memcard.formats._zip import CENTRAL, END, END64, FULL16, FULL32, LOCAL, LOCATOR64, ZIP64

_ALIGN = 64  # what torch writes, so that a mapped tensor suits every vector unit
_PAD = 0x4246  # "FB", the extra field torch pads with
_DATE = 0x0021  # 1 January 1980: a lawful date that says nothing
_UTF8 = 0x0800
_CRC_AT = 14  # of the checksum in a local header


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a member goes."""

    name: bytes
    header: int
    local: bytes
    offset: int
    size: int

    @property
    def end(self) -> int:
        """First byte after the member."""
        return self.offset + self.size


def lay_out(members: Sequence[tuple[str, int]]) -> list[Slot]:
    """Place members of the given sizes one after the other, their bytes 64-byte aligned."""
    slots: list[Slot] = []
    at = 0
    for name, size in members:
        raw = name.encode()
        wide = struct.pack("<HHQQ", ZIP64, 16, size, size) if size >= FULL32 else b""
        bare = at + LOCAL.size + len(raw) + len(wide) + 4
        pad = -bare % _ALIGN
        extra = wide + struct.pack("<HH", _PAD, pad) + b"Z" * pad
        shown = FULL32 if wide else size
        local = LOCAL.pack(
            *(b"PK\x03\x04", 45 if wide else 20, _UTF8, 0, 0, _DATE, 0, shown, shown),
            *(len(raw), len(extra)),
        )
        offset = at + len(local) + len(raw) + len(extra)
        slots.append(Slot(raw, at, local + raw + extra, offset, size))
        at = offset + size
    return slots


def directory(slots: Sequence[Slot], checksums: Sequence[int]) -> bytes:
    """Return the central directory and its end records."""
    parts = [_central(slot, crc) for slot, crc in zip(slots, checksums, strict=True)]
    start = slots[-1].end
    size = sum(map(len, parts))
    end = start + size
    count = len(slots)
    if count >= FULL16 or start >= FULL32 or size >= FULL32:
        parts.append(END64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start))
        parts.append(LOCATOR64.pack(b"PK\x06\x07", 0, end, 1))
    few = min(count, FULL16)
    parts.append(END.pack(b"PK\x05\x06", 0, 0, few, few, min(size, FULL32), min(start, FULL32), 0))
    return b"".join(parts)


def _central(slot: Slot, crc: int) -> bytes:
    wide = [v for v in (slot.size, slot.size) if v >= FULL32]
    wide += [slot.header] if slot.header >= FULL32 else []
    extra = struct.pack(f"<HH{len(wide)}Q", ZIP64, 8 * len(wide), *wide) if wide else b""
    version, size = (45 if wide else 20), min(slot.size, FULL32)
    return (
        CENTRAL.pack(
            *(b"PK\x01\x02", version, version, _UTF8, 0, 0, _DATE, crc, size, size),
            *(len(slot.name), len(extra), 0, 0, 0, 0, min(slot.header, FULL32)),
        )
        + slot.name
        + extra
    )


def write_checksums(sink: PlannedSink, slots: Sequence[Slot]) -> None:
    """Read the file once, then write the checksums and the directory."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        checksums = list(pool.map(lambda slot: sink.crc32(slot.offset, slot.size), slots))
    for slot, crc in zip(slots, checksums, strict=True):
        sink.patch(slot.header + _CRC_AT, crc.to_bytes(4, "little"))
    sink.patch(slots[-1].end, directory(slots, checksums))


def plan(slots: Sequence[Slot], contents: dict[str, bytes], tensors: dict[str, str]) -> Plan:
    """Return the plan of an archive.

    Args:
        slots: from ``lay_out``.
        contents: bytes of the members that are known by now.
        tensors: tensor name to member name.
    """
    by_name = {slot.name.decode(): slot for slot in slots}
    fixed = [(slot.header, slot.local) for slot in slots]
    fixed += [(by_name[name].offset, part) for name, part in contents.items()]
    size = slots[-1].end + len(directory(slots, [0] * len(slots)))
    places = {name: (by_name[m].offset, by_name[m].size) for name, m in tensors.items()}
    return Plan(size, tuple(fixed), places)
