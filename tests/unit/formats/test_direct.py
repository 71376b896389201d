"""Writing past the page cache gives the bytes that writing through it gives."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from memcard.core.checkpoint import Extent, Phased, aligned
from memcard.core.tensors import DTYPES, Spec
from memcard.formats import _direct, open_file
from memcard.formats._direct import WORTH, DirectFile
from memcard.formats.safetensors import PLUGIN

SIZE = 9 * (1 << 20) + 4321
BYTES = Random(3).randbytes(SIZE)
SPECS = {
    "odd": Spec(DTYPES["U8"], (3,)),
    "large": Spec(DTYPES["U8"], (SIZE,)),
    "small": Spec(DTYPES["F16"], (WORTH // 4,)),
    "empty": Spec(DTYPES["F32"], (0, 3)),
    "copied": Spec(DTYPES["U8"], (SIZE,)),
}


@pytest.fixture
def direct(tmp_path: Path) -> None:
    """Skip where the disk of the tests cannot do it."""
    (tmp_path / "probe").touch()
    found = DirectFile.of(tmp_path / "probe")
    if found is None:
        pytest.skip("no direct writes on this disk")
    found.__exit__(None, None, None)


def cuts() -> Sequence[tuple[int, int]]:
    """Cut the large tensor at places that are no multiples of anything."""
    random = Random(4)
    places = sorted({0, SIZE, 4096, *(random.randrange(SIZE) for _ in range(12))})
    pieces = list(pairwise(places))
    random.shuffle(pieces)
    return pieces


def write(path: Path, source: Path) -> bytes:
    source.write_bytes(b"head" + BYTES)
    with PLUGIN.create(path) as sink, ThreadPoolExecutor(4) as crew:
        sink.begin(SPECS, {})
        jobs = [crew.submit(sink.write, "large", memoryview(BYTES)[a:b], a) for a, b in cuts()]
        sink.write("odd", memoryview(b"abc"))
        sink.write("small", memoryview(BYTES)[: WORTH // 2])
        sink.copy("copied", Extent(source, 4, SIZE))
        for job in jobs:
            job.result()
    return path.read_bytes()


def check(path: Path) -> None:
    checkpoint = open_file(path)
    assert bytes(checkpoint.read("large")) == BYTES
    assert bytes(checkpoint.read("copied")) == BYTES
    assert bytes(checkpoint.read("odd")) == b"abc"
    assert bytes(checkpoint.read("small")) == BYTES[: WORTH // 2]
    checkpoint.close()


@pytest.mark.usefixtures("direct")
def test_parts_at_odd_places_from_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(tmp_path / "a.safetensors", tmp_path / "source")
    check(tmp_path / "a.safetensors")

    monkeypatch.setenv("MEMCARD_WRITE", "buffered")
    assert write(tmp_path / "b.safetensors", tmp_path / "source") == whole


@pytest.mark.usefixtures("direct")
def test_most_bytes_do_not_pass_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through: list[int] = []
    put = DirectFile._put

    def counted(self: DirectFile, part: memoryview, offset: int) -> bool:
        through.append(len(part))
        return put(self, part, offset)

    monkeypatch.setattr(DirectFile, "_put", counted)
    write(tmp_path / "a.safetensors", tmp_path / "source")

    assert 2 * SIZE * 0.8 < sum(through) <= 2 * SIZE


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("refused", [0, 1, 3])
def test_a_disk_that_refuses_gets_the_rest_the_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    calls = 0

    class Refusing:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def pwrite(self, fd: int, part: memoryview, offset: int) -> int:
            nonlocal calls
            calls += 1
            if calls > refused:
                raise OSError(errno.EINVAL, "blocks are larger here")
            return os.pwrite(fd, part, offset)

    monkeypatch.setattr(_direct, "os", Refusing())
    write(tmp_path / "a.safetensors", tmp_path / "source")

    assert calls > refused
    check(tmp_path / "a.safetensors")


@pytest.mark.usefixtures("direct")
def test_a_write_that_is_cut_short_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def pwrite(self, fd: int, part: memoryview, offset: int) -> int:
            return os.pwrite(fd, part[: max(4096, len(part) // 8192 * 4096)], offset)

    monkeypatch.setattr(_direct, "os", Short())
    write(tmp_path / "a.safetensors", tmp_path / "source")

    check(tmp_path / "a.safetensors")


def test_it_can_be_turned_off_and_is_off_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch()
    monkeypatch.setattr(_direct, "file_system_of", lambda path: "tmpfs")
    assert DirectFile.of(tmp_path / "a") is None

    monkeypatch.setattr(_direct, "file_system_of", lambda path: "ext4")
    monkeypatch.setenv("MEMCARD_WRITE", "buffered")
    assert DirectFile.of(tmp_path / "a") is None


def test_a_file_that_is_gone_is_not_written_this_way(tmp_path: Path) -> None:
    assert DirectFile.of(tmp_path / "nothing") is None


@pytest.mark.usefixtures("direct")
def test_memory_that_lies_well_is_written_without_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_copy(self: DirectFile) -> memoryview:
        raise AssertionError("copied")

    monkeypatch.setattr(DirectFile, "_buffer", no_copy)
    path = tmp_path / "a.safetensors"
    with PLUGIN.create(path) as sink:
        sink.begin({"x": Spec(DTYPES["U8"], (SIZE,))}, {})
        assert isinstance(sink, Phased)
        for at in (0, 1 << 20, (1 << 22) + 77):
            end = {0: 1 << 20, 1 << 20: (1 << 22) + 77}.get(at, SIZE)
            part = aligned(end - at, sink.phase("x", at))
            part[:] = BYTES[at:end]
            sink.write("x", part, at)

    assert path.read_bytes().endswith(BYTES)
