"""Compressed members are read by offset, in any order and from any thread, with little memory."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memcard.errors import CorruptError
from memcard.formats._inflate import Inflated
from memcard.formats._source import Source

SIZE = 20 << 20
CONTENT = bytes(SIZE // 2) + random.Random(0).randbytes(SIZE // 2)


def deflate(raw: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(raw) + packer.flush()


PACKED = deflate(CONTENT)


def member(path: Path, packed: bytes, size: int) -> Inflated:
    path.write_bytes(b"before" + packed + b"after")
    return Inflated(Source(path), "data/0", 6, len(packed), size)


def part(found: Inflated, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    found.readinto(offset, memoryview(buffer))
    return bytes(buffer)


def test_parts_in_any_order_are_the_same_bytes(tmp_path: Path) -> None:
    found, rng = member(tmp_path / "x", PACKED, SIZE), random.Random(1)
    places = [(rng.randrange(SIZE), rng.randrange(1, 300_000)) for _ in range(40)]
    places = [(at, min(n, SIZE - at)) for at, n in places] + [(SIZE - 1, 1), (0, 1), (SIZE, 0)]

    assert [part(found, at, n) == CONTENT[at : at + n] for at, n in places] == [True] * len(places)


def test_threads_at_growing_offsets_do_not_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part would cost all before it: 80 parts, 40 times the member."""
    found, inflated = member(tmp_path / "x", PACKED, SIZE), [0]
    one: Callable[..., bytes] = Inflated._next

    def counted(self: Inflated, *args: object) -> bytes:
        made = one(self, *args)
        inflated[0] += len(made)
        return made

    monkeypatch.setattr(Inflated, "_next", counted)
    step = 256 << 10
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda at: part(found, at, step), range(0, SIZE, step)))

    assert b"".join(parts) == CONTENT
    assert inflated[0] < 12 * SIZE


def test_memory_stays_small(tmp_path: Path) -> None:
    found, buffer = member(tmp_path / "x", PACKED, SIZE), memoryview(bytearray(1 << 20))
    tracemalloc.start()
    try:
        for at in range(0, SIZE, len(buffer)):
            found.readinto(at, buffer)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_window_shows_the_same_bytes(tmp_path: Path) -> None:
    window, at = member(tmp_path / "x", PACKED, SIZE).window(SIZE // 2 - 5, 10)

    assert window[at : at + 10] == CONTENT[SIZE // 2 - 5 :][:10]


def test_an_empty_member(tmp_path: Path) -> None:
    assert part(member(tmp_path / "x", deflate(b""), 0), 0, 0) == b""


SHORT = deflate(b"0123456789")
DAMAGED: dict[str, tuple[bytes, int, str]] = {
    "less_than_claimed": (SHORT, 11, "ends after 10 of 11 bytes"),
    "more_than_claimed": (SHORT, 9, "holds more than the 9 bytes"),
    "bytes_after_the_end": (SHORT + b"x", 10, "holds more than the 10 bytes"),
    "cut_off": (SHORT[:-4], 10, "ends after"),
    "no_end": (deflate(b"0123456789" * 10_000)[:-1], 100_000, "cut off|ends after"),
    "not_deflate": (b"\xff" * 20, 10, "cannot be decompressed"),
    "nothing": (b"", 10, "ends after 0 of 10"),
    "not_even_empty": (b"", 0, "cut off"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_member_that_is_not_what_it_claims_is_corrupt(case: str, tmp_path: Path) -> None:
    packed, size, said = DAMAGED[case]
    found = member(tmp_path / "x", packed, size)

    with pytest.raises(CorruptError, match=said):
        part(found, 0, size)
    with pytest.raises(CorruptError, match="'data/0'"):
        part(found, 0, size)


SMALL = {
    "floats": struct.pack("<4f", 1, 2, 3, 4),
    "zeros": bytes(40),
    "no two alike": bytes(range(40)),
    "repeats": b"abcabcabcabcabcabcabcabcabcabcabd",
}


@pytest.mark.parametrize("content", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("level", [0, 1, 9])
def test_every_part_of_a_small_member_can_be_read(
    content: bytes, level: int, tmp_path: Path
) -> None:
    """The last bytes may come out of zlib when no packed ones are left to hand it."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    packed, size = packer.compress(content) + packer.flush(), len(content)
    ranges = [(at, n) for at in range(size + 1) for n in range(size - at + 1)]

    read = [part(member(tmp_path / "x", packed, size), at, n) for at, n in ranges]

    assert read == [content[at : at + n] for at, n in ranges]
