"""Small members of a zip archive, whole; and what a damaged archive still shows of its programs."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from memcard.formats._inflate import Inflated
from memcard.formats._source import Source
from memcard.formats._zip import LOCAL, Member

_LOOK = 16 << 20  # from either end; torch writes data.pkl first, careless tools append
_READ = 4 << 20  # of one program
_MOST = 16  # programs
_HEADER = re.compile(rb"PK\x03\x04")


def content(source: Source, member: Member, most: int) -> bytes:
    """Return the first ``most`` bytes of a member.

    Raises:
        CorruptError: its compressed bytes are damaged.
    """
    size = min(member.size, most)
    if not member.deflated:
        return source.bytes(member.offset, size)
    found = memoryview(bytearray(size))
    Inflated(source, member.name, member.offset, member.packed, member.size).readinto(0, found)
    return bytes(found)


def local_programs(source: Source) -> Iterator[bytes]:
    """Yield every ``*.pkl`` that a local header announces, as a reader without a directory sees it.

    Nothing in a damaged archive can be trusted, so a program is what follows its header up to 4 MiB, and
    the caller must expect foreign bytes after its end.
    """
    starts = [0, max(_LOOK, source.size - _LOOK)]
    found = 0
    for start in starts:
        window = source.bytes(start, min(_LOOK, source.size))
        for match in _HEADER.finditer(window):
            code = _program(window, match.start())
            if code is not None:
                yield code
                found += 1
            if found >= _MOST:
                return


def _program(window: bytes, at: int) -> bytes | None:
    head = window[at : at + LOCAL.size]
    if len(head) < LOCAL.size:
        return None
    _, _, _, method, _, _, _, _, _, n, x = LOCAL.unpack(head)
    name = window[at + LOCAL.size : at + LOCAL.size + n]
    if not name.endswith(b".pkl"):
        return None
    start = at + LOCAL.size + n + x
    code = window[start : start + _READ]
    if not method:
        return code
    try:
        return zlib.decompressobj(-15).decompress(code, _READ)
    except (zlib.error, struct.error):
        return None
