"""The texts in a clip, read without its frames: comment and description of an MP4, the comment of a GIF.

Sources: ISO/IEC 14496-12 (boxes); the iTunes metadata list as FFmpeg's mov muxer writes it; GIF89a, 24.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

_BOXES: Final = 10_000  # in one box
_BLOCKS: Final = 100_000  # of a GIF before its first picture, 255 bytes each
_TEXTS: Final = {b"\xa9cmt": "parameters", b"desc": "memcard"}
_META_HEAD: Final = 4  # version and flags
_DATA_HEAD: Final = 8  # type and language


def mp4(file: BinaryIO, take: Callable[[str, str], None], most: int) -> None:
    """Give ``take`` the texts of an MP4 by their names.

    Args:
        file: open for reading; frames are skipped.
        take: is given name and text.
        most: bytes of one text.

    Raises:
        EOFError, ValueError: the file is broken.
    """
    end = file.seek(0, os.SEEK_END)
    for places in _below(file, (0, end), (b"moov", b"udta", b"meta", b"ilst")):
        for kind, start, stop in _boxes(file, *places):
            if kind not in _TEXTS:
                continue
            for inner, begin, last in _boxes(file, start, stop):
                if inner == b"data" and _DATA_HEAD <= last - begin <= most:
                    file.seek(begin + _DATA_HEAD)
                    text = file.read(last - begin - _DATA_HEAD).decode("utf-8", "replace")
                    take(_TEXTS[kind], text)


def _below(
    file: BinaryIO, place: tuple[int, int], path: tuple[bytes, ...]
) -> Iterator[tuple[int, int]]:
    """Yield where the insides of the boxes lie that a path of kinds leads to."""
    if not path:
        yield place
        return
    for kind, start, end in _boxes(file, *place):
        if kind == path[0]:
            head = _META_HEAD if kind == b"meta" else 0
            yield from _below(file, (start + head, end), path[1:])


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, beginning and end of the insides of the boxes in a part of the file."""
    for _ in range(_BOXES):
        if start + 8 > end:
            return
        file.seek(start)
        head = file.read(16)
        size, inside = int.from_bytes(head[:4], "big"), start + 8
        if size == 1:
            size, inside = int.from_bytes(head[8:16], "big"), start + 16
        after = end if size == 0 else start + size
        if after < inside or after > end:
            raise EOFError("it ends in the middle")
        yield head[4:8], inside, after
        start = after
    raise ValueError("it has too many boxes")


def gif(file: BinaryIO, take: Callable[[str, str], None], most: int) -> tuple[int, int]:
    """Give ``take`` the comment of a GIF as ``parameters``; return width and height.

    Args:
        file: open for reading; what stands before the first picture is read.
        take: is given name and text.
        most: bytes of the comment.

    Raises:
        EOFError: the file ends too early.
    """
    file.seek(6)
    screen = _exactly(file, 7)
    if screen[4] & 0x80:
        file.seek(3 << (screen[4] & 7) + 1, os.SEEK_CUR)
    while (mark := _exactly(file, 1)) == b"!":
        label = _exactly(file, 1)
        content = _blocks(file, most if label == b"\xfe" else 0)
        if label == b"\xfe":
            take("parameters", content.decode("utf-8", "replace"))
    if mark not in b",;":
        raise ValueError("a block does not begin where it should")
    return int.from_bytes(screen[:2], "little"), int.from_bytes(screen[2:4], "little")


def _blocks(file: BinaryIO, most: int) -> bytes:
    """Return the first ``most`` bytes of a chain of small blocks, and walk to its end."""
    found = bytearray()
    for _ in range(_BLOCKS):
        size = _exactly(file, 1)[0]
        if size == 0:
            return bytes(found)
        block = _exactly(file, size)
        if len(found) + size <= most:
            found += block
    raise ValueError("it has too many blocks")


def _exactly(file: BinaryIO, count: int) -> bytes:
    found = file.read(count)
    if len(found) != count:
        raise EOFError("it ends in the middle")
    return found
