"""Small files that ask for much: a typed error within a second and 50 MB."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.torch_archive import (
    ONE,
    ONE_DATA,
    name,
    number,
    pack,
    state_dict,
    tensor,
    text,
    write_archive,
)
from memcard.errors import CorruptError, FormatError, UnsupportedError
from memcard.formats import open_file

W = tensor("0", [4], [1])


def _doubling(kind: bytes, rounds: int, seed: bytes) -> bytes:
    """x = (x, x), again and again: 2^rounds leaves from a few bytes."""
    grow = b"".join(b"q%c0(h%ch%c" % (i, i, i) + kind for i in range(1, rounds))
    return seed + grow


PROGRAMS: dict[str, tuple[type[FormatError], bytes]] = {
    "long4_claim": (CorruptError, b"\x80\x02\x8b\xff\xff\xff\x7f."),
    "unicode8_claim": (CorruptError, b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0f."),
    "bytes8_claim": (CorruptError, b"\x80\x04\x8e" + b"\xff" * 8 + b"."),
    "bytearray8_claim": (CorruptError, b"\x80\x05\x96" + b"\xff" * 8 + b"."),
    "frame_claim": (CorruptError, b"\x80\x04\x95" + b"\xff" * 8 + b"."),
    "out_of_band_buffer": (CorruptError, b"\x80\x05\x97."),
    "memo_never_set": (CorruptError, b"\x80\x02j\xff\xff\xff\xff."),
    "negative_memo": (CorruptError, b"\x80\x02Np-1\n."),
    "million_digits": (CorruptError, b"I" + b"9" * 1_000_000 + b"\n."),
    "mark_flood": (CorruptError, b"\x80\x02" + b"(" * 135_000 + b"."),
    "stack_flood": (CorruptError, b"\x80\x02" + b"N" * 135_000 + b"."),
    "deep_lists": (UnsupportedError, b"\x80\x02" + b"]" * 30_000 + b"a" * 29_999 + b"."),
    "deep_tuples": (UnsupportedError, b"\x80\x02)" + b"\x85" * 40_000 + b"."),
    "nested_tuple_as_key": (CorruptError, b"\x80\x02}" + _doubling(b"t", 60, b")") + b"Ns."),
    "shared_lists_with_a_tensor": (
        UnsupportedError,
        b"\x80\x02" + _doubling(b"l", 60, W) + b".",
    ),
    "stride_0": (CorruptError, state_dict({"w": tensor("0", [1 << 40], [0])})),
    "stride_0_overflow": (
        CorruptError,
        state_dict({"w": tensor("0", [1 << 40, 1 << 40, 1 << 40], [0, 0, 0])}),
    ),
    "offset_beyond": (CorruptError, state_dict({"w": tensor("0", [4], [1], offset=1)})),
    "offset_overflow": (CorruptError, state_dict({"w": tensor("0", [4], [1], offset=1 << 63)})),
    "negative_stride": (CorruptError, state_dict({"w": tensor("0", [4], [-1], offset=3)})),
    "storage_larger_than_its_record": (
        CorruptError,
        state_dict({"w": tensor("0", [4], [1], numel=1 << 30)}),
    ),
    "many_axes": (CorruptError, state_dict({"w": tensor("0", [1] * 5000, [1] * 5000)})),
    "setitem_on_a_tensor": (CorruptError, b"\x80\x02" + W + b"K\x00K\x01s."),
    "append_to_a_dict": (CorruptError, b"\x80\x02}K\x01a."),
    "one_storage_of_two_types": (
        CorruptError,
        state_dict({"w": W, "v": tensor("0", [4], [1], kind="IntStorage")}),
    ),
    "storage_type_is_a_name": (
        CorruptError,
        b"\x80\x02("
        + text("storage") + name("collections", "OrderedDict") + text("0") + text("cpu")
        + number(4) + b"tQ.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", PROGRAMS)
def test_a_hostile_program_is_refused_cheaply(bomb: str, tmp_path: Path) -> None:
    kind, program = PROGRAMS[bomb]
    file = write_archive(tmp_path / "x.ckpt", program, ONE_DATA)

    assert_cheap(kind, file)


def _header(length: int, body: bytes) -> bytes:
    return struct.pack("<Q", length) + body


def _overlapping() -> bytes:
    """1000 members of the directory share the bytes of one (zip bomb after Fifield)."""
    raw = pack([("archive/data.pkl", ONE), ("archive/data/0", b"\0" * 65536)])
    start, end = raw.index(b"PK\x01\x02"), raw.rindex(b"PK\x05\x06")
    line = raw[raw.index(b"PK\x01\x02", start + 4) : end]
    lines = b"".join(line.replace(b"data/0", b"data/%x" % i) for i in range(10, 16))
    directory = raw[start:end] + lines
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 8, 8, len(directory), start, 0)
    return raw[:start] + directory + tail


def _claims_many_members() -> bytes:
    raw = pack([("archive/data.pkl", ONE)])
    end = raw.rindex(b"PK\x05\x06")
    return raw[: end + 8] + b"\xff\xff\xff\xff" + raw[end + 12 :]


FILES: dict[str, tuple[type[FormatError], Callable[[], bytes]]] = {
    "header_claims_2_to_39": (CorruptError, lambda: _header(1 << 39, b'{"a":')),
    "header_claims_100_mb": (CorruptError, lambda: _header(100_000_000, b'{"a":')),
    "json_nested": (CorruptError, lambda: _header(400_001, b'{"a":' + b"[" * 399_996)),
    "json_many_axes": (
        CorruptError,
        lambda: _header(
            900_066,
            b'{"a":{"dtype":"U8","shape":[' + b"9223372036854," * 64_285 + b"9"
            + b" " * 7 + b'],"data_offsets":[0,1]}}',
        )[:-1],
    ),
    "overlapping_members": (CorruptError, _overlapping),
    "directory_claims_65535": (CorruptError, _claims_many_members),
}  # fmt: skip


@pytest.mark.parametrize("bomb", FILES)
def test_a_hostile_container_is_refused_cheaply(bomb: str, tmp_path: Path) -> None:
    kind, make = FILES[bomb]
    file = tmp_path / "x.bin"
    file.write_bytes(make())

    assert_cheap(kind, file)


def assert_cheap(kind: type[FormatError], file: Path) -> None:
    start = time.process_time()
    with pytest.raises(kind):
        open_file(file)
    assert time.process_time() - start < 1

    tracemalloc.start()
    try:
        with pytest.raises(kind):
            open_file(file)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
