from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from fixtures.torch_archive import pack
from memcard.errors import CorruptError, UnsupportedError
from memcard.formats._source import Source
from memcard.formats._zip import ZipReader
from memcard.formats._zip_layout import directory, lay_out

MEMBERS = [("a/one", b"first"), ("a/two", b"second"), ("a/empty", b"")]
RAW = pack(MEMBERS)


def read(path: Path, raw: bytes) -> ZipReader:
    path.write_bytes(raw)
    return ZipReader(Source(path))


def replaced(old: bytes, new: bytes, which: int = 0) -> bytes:
    at = -1
    for _ in range(which + 1):
        at = RAW.index(old, at + 1)
    return RAW[:at] + new + RAW[at + len(old) :]


def test_members_are_where_the_directory_says(tmp_path: Path) -> None:
    reader = read(tmp_path / "x", RAW)

    found = {m.name: RAW[m.offset : m.offset + m.size] for m in reader.members.values()}

    assert list(found.items()) == MEMBERS


def test_what_a_stream_was_written_to_is_read(tmp_path: Path) -> None:
    """zipfile writes data descriptors when it cannot seek, as torch's writer does."""

    class Pipe:
        def __init__(self) -> None:
            self.raw = b""

        def write(self, part: bytes) -> int:
            self.raw += part
            return len(part)

        def flush(self) -> None: ...

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[arg-type]
        for name, raw in MEMBERS:
            archive.writestr(name, raw)

    assert list(read(tmp_path / "x", pipe.raw).members) == [name for name, _ in MEMBERS]


CENTRAL = RAW.index(b"PK\x01\x02")
END = RAW.rindex(b"PK\x05\x06")
BAD: dict[str, tuple[bytes, str]] = {
    "cut_off": (RAW[:-1], "cut off"),
    "trailing": (RAW + b"x", "foreign bytes"),
    "comment": (RAW[:-2] + b"\x01\x00x", "cut off"),
    "prefix": (b"#!/bin/sh\n" + RAW, "not where its end says"),
    "name_differs": (replaced(b"a/one", b"a/0ne"), "described differently"),
    "name_differs_in_directory": (replaced(b"a/one", b"a/0ne", 1), "described differently"),
    "twice": (RAW.replace(b"a/two", b"a/one"), "'a/one' is there twice"),
    "parent": (RAW.replace(b"a/one", b"../no"), "leaves the archive"),
    "absolute": (RAW.replace(b"a/one", b"/root"), "leaves the archive"),
    "nul": (RAW.replace(b"a/one", b"a/\0ne"), "leaves the archive"),
    "not_utf8": (RAW.replace(b"a/one", b"a/\xffne"), "not UTF-8"),
    "too_few_members": (RAW[: END + 8] + struct.pack("<HH", 2, 2) + RAW[END + 12 :], "has 3 members"),
    "volumes": (RAW[: END + 4] + struct.pack("<H", 1) + RAW[END + 6 :], "several volumes"),
    "method": (RAW.replace(b"\0\0\0\0!\0", b"\x63\0\0\0!\0"), "method 99"),
    "local_size": (RAW[:18] + b"\4" + RAW[19:], "described differently"),
    "directory_size": (RAW[: CENTRAL + 20] + b"\4\0\0\0\4" + RAW[CENTRAL + 25 :], "differently"),
    "no_local_header": (b"XX" + RAW[2:], "no local header"),
    "broken_directory": (RAW[:CENTRAL] + b"XX" + RAW[CENTRAL + 2 :], "directory is broken"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_an_archive_that_two_readers_could_read_differently_is_refused(
    case: str, tmp_path: Path
) -> None:
    raw, text = BAD[case]

    with pytest.raises(CorruptError, match=text):
        read(tmp_path / "x", raw)


def test_a_gap_between_members_is_refused(tmp_path: Path) -> None:
    slots = lay_out([("a/one", 8), ("a/two", 8)])
    raw = bytearray(slots[-1].end)
    for slot in slots:
        raw[slot.header : slot.header + len(slot.local)] = slot.local
    whole = bytes(raw) + directory(slots, [0, 0])
    assert list(read(tmp_path / "x", whole).members) == ["a/one", "a/two"]

    holed = [slots[0], slots[1].__class__(*_moved(slots[1], 4))]
    raw = bytearray(holed[1].end)
    for slot in holed:
        raw[slot.header : slot.header + len(slot.local)] = slot.local

    with pytest.raises(CorruptError, match="follows foreign bytes"):
        read(tmp_path / "x", bytes(raw) + directory(holed, [0, 0]))


def _moved(slot: object, by: int) -> tuple[object, ...]:
    return slot.name, slot.header + by, slot.local, slot.offset + by, slot.size  # type: ignore[attr-defined]


def test_encrypted_members_are_unsupported(tmp_path: Path) -> None:
    raw = bytearray(RAW)
    raw[6] |= 1
    raw[CENTRAL + 8] |= 1

    with pytest.raises(UnsupportedError, match="encrypted"):
        read(tmp_path / "x", bytes(raw))


def flagged(local: int, central: int) -> bytes:
    raw = bytearray(RAW)
    raw[6:8], raw[CENTRAL + 8 : CENTRAL + 10] = struct.pack("<H", local), struct.pack("<H", central)
    return bytes(raw)


@pytest.mark.parametrize("bit", [0, 6, 13])
def test_each_kind_of_encryption_is_unsupported(bit: int, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="encrypted"):
        read(tmp_path / "x", flagged(1 << bit, 1 << bit))


@pytest.mark.parametrize("bit", [4, 5, 7, 12, 15])
def test_flags_that_nobody_should_use_are_corrupt(bit: int, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="unknown flags"):
        read(tmp_path / "x", flagged(1 << bit, 1 << bit))


@pytest.mark.parametrize(("local", "central"), [(0, 8), (8, 0), (1, 0)])
def test_flags_must_agree(local: int, central: int, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=r"flags|record that follows"):
        read(tmp_path / "x", flagged(local, central))


def test_a_folder_with_content_is_corrupt(tmp_path: Path) -> None:
    raw = bytearray(RAW)
    raw[CENTRAL + 38] |= 0x10

    with pytest.raises(CorruptError, match="marked as a folder"):
        read(tmp_path / "x", bytes(raw))


NAMES = {
    "a/./one": "another one",
    "a//one": "another one",
    "a\\one": "another one",
    "a/o\x01e": "another one",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_some_read_as_another_are_corrupt(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=NAMES[name]):
        read(tmp_path / "x", pack([(name, b"x")]))


def test_names_that_differ_only_in_case_are_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="in two spellings"):
        read(tmp_path / "x", pack([("a/data.pkl", b"x"), ("a/DATA.pkl", b"y")]))


def test_all_faults_of_a_directory_are_collected(tmp_path: Path) -> None:
    raw = RAW.replace(b"a/one", b"../no").replace(b"a/two", b"/root")

    with pytest.raises(CorruptError) as caught:
        read(tmp_path / "x", raw)

    assert len(caught.value.faults) == 2


def test_members_beyond_4_gb_use_zip64(tmp_path: Path) -> None:
    """A sparse file: 5 GB long, a few kB on disk; Python's zipfile is the second opinion."""
    path, size = tmp_path / "x", 5 << 30
    slots = lay_out([("a/big", size), ("a/after", 3)])
    with path.open("wb") as file:
        for slot in slots:
            file.seek(slot.header)
            file.write(slot.local)
        file.write(b"end")
        file.write(directory(slots, [0, 0]))

    with Source(path) as source:
        members = ZipReader(source).members
    source.close()

    assert members["a/big"].size == size
    assert members["a/after"].offset > size
    with zipfile.ZipFile(path) as archive:
        assert [i.file_size for i in archive.infolist()] == [size, 3]
        assert archive.infolist()[1].header_offset == members["a/after"].header


def test_more_members_than_16_bits_use_zip64(tmp_path: Path) -> None:
    names = [f"a/{i}" for i in range(66_000)]
    slots = lay_out([(name, 0) for name in names])
    raw = b"".join(slot.local for slot in slots) + directory(slots, [0] * len(slots))

    assert list(read(tmp_path / "x", raw).members) == names
