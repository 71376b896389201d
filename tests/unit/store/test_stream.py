"""Files are written piece by piece past the page cache, and hold exactly what was given."""

from __future__ import annotations

import errno
import io
import os
import random
from pathlib import Path

import pytest
from blake3 import blake3

from memcard.errors import DiskError
from memcard.store import _stream
from memcard.store._stream import PIECE, Stream, read_back

SIZES = [0, 1, 4095, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 12345]


def bytes_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def written(path: Path, raw: bytes, step: int, heard: object = len) -> Stream:
    with path.open("w+b", buffering=0) as file:
        stream = Stream(file, path, heard)  # type: ignore[arg-type]
        for at in range(0, len(raw), step):
            stream.write(raw[at : at + step])
        stream.finish()
    return stream


@pytest.mark.parametrize("way", ["direct", "buffered"])
@pytest.mark.parametrize("size", SIZES)
def test_a_file_holds_what_was_given_and_is_read_back(
    way: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_WRITE", way)
    raw, whole = bytes_of(size), blake3()

    stream = written(tmp_path / "f", raw, 77_777, whole.update)

    assert (tmp_path / "f").read_bytes() == raw
    assert (stream.size, whole.digest()) == (size, blake3(raw).digest())
    assert b"".join(bytes(part) for part in read_back(tmp_path / "f")) == raw


def test_one_large_part_is_cut_into_pieces(tmp_path: Path) -> None:
    raw, heard = bytes_of(3 * PIECE + 5), []

    written(tmp_path / "f", raw, len(raw), lambda part: heard.append(len(part)))

    assert (tmp_path / "f").read_bytes() == raw
    assert heard == [PIECE, PIECE, PIECE, 5]


class Hesitant(io.FileIO):
    """Takes a part of what it is given, and refuses the page cache's absence now and then."""

    refused = 0

    def write(self, part: object) -> int:  # type: ignore[override]
        view = memoryview(part)  # type: ignore[arg-type]
        if len(view) == PIECE and self.refused < 1:
            self.refused += 1
            raise OSError(errno.EINVAL, "unaligned")
        done: int = super().write(view[: max(1, len(view) // 3)])
        return done


def test_a_disk_that_takes_less_or_other_blocks_gets_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def noted(file: object, path: Path, *, on: bool) -> bool:
        asked.append(on)
        return True

    monkeypatch.setattr(_stream, "_set_direct", noted)
    raw = bytes_of(2 * PIECE + 99)
    with Hesitant(tmp_path / "f", "w+") as file:
        stream = Stream(file, tmp_path / "f")  # type: ignore[arg-type]
        stream.write(raw)
        stream.finish()

    assert (tmp_path / "f").read_bytes() == raw
    assert asked == [True, False]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, part: object) -> int:  # type: ignore[override]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Full(tmp_path / "f", "w+") as file:
        stream = Stream(file, tmp_path / "f")  # type: ignore[arg-type]
        with pytest.raises(DiskError, match="free space"):
            stream.write(bytes(2 * PIECE))


def test_other_disks_are_written_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream, "file_system_of", lambda path: "nfs4")
    raw = bytes_of(2 * PIECE + 1)

    written(tmp_path / "f", raw, len(raw))

    assert (tmp_path / "f").read_bytes() == raw
    assert b"".join(bytes(part) for part in read_back(tmp_path / "f")) == raw
