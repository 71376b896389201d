"""What every format promises; a new one is tested by existing."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memcard.core.checkpoint import Checkpoint, Extent, Format, Sink
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.errors import DiskError, MismatchError, NotFoundError, UnsupportedError
from memcard.formats import FORMATS, format_for_suffix, open_file, sniff_file

SPECS: Specs = {
    "z.last": Spec(DTYPES["F32"], (3, 5)),
    "a.half": Spec(DTYPES["F16"], (7,)),
    "scalar": Spec(DTYPES["I64"], ()),
    "empty": Spec(DTYPES["F32"], (0, 4)),
    "bytes": Spec(DTYPES["U8"], (5,)),
    "fp8": Spec(DTYPES["F8_E4M3"], (2, 2)),
    "ünïcode.キー": Spec(DTYPES["BF16"], (2,)),
}
METADATA = {"zeta": "1", "alpha": "two\nlines", "ü": "✓"}
every_format = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)


def content(name: str) -> bytes:
    size = SPECS[name].nbytes
    return bytes((i * 37 + len(name)) % 251 for i in range(size))


def target(form: Format, folder: Path) -> Path:
    return folder / f"out{form.suffixes[0]}"


def write_all_but(sink: Sink, left_out: str = "") -> None:
    for name in reversed(SPECS):
        if name != left_out:
            sink.write(name, memoryview(content(name)))


def write_with_a_gap(form: Format, path: Path) -> None:
    with form.create(path) as sink:
        sink.begin(SPECS, METADATA)
        write_all_but(sink, "z.last")
        sink.write("z.last", memoryview(bytes(4)))
        sink.write("z.last", memoryview(bytes(52)), 8)


def write_too_far(form: Format, path: Path) -> None:
    with form.create(path) as sink:
        sink.begin(SPECS, {})
        sink.write("bytes", memoryview(bytes(3)), 3)


def written(form: Format, folder: Path) -> Path:
    path = target(form, folder)
    with form.create(path) as sink:
        sink.begin(SPECS, METADATA)
        write_all_but(sink)
    return path


@every_format
def test_what_was_written_is_read_back_in_order(form: Format, tmp_path: Path) -> None:
    checkpoint = form.open(written(form, tmp_path))

    assert isinstance(checkpoint, Checkpoint)
    assert isinstance(form, Format)
    assert list(checkpoint.specs.items()) == list(SPECS.items())
    assert list(checkpoint.metadata.items()) == list(METADATA.items())
    assert checkpoint.notes == ()
    assert {n: bytes(checkpoint.read(n)) for n in SPECS} == {n: content(n) for n in SPECS}


@every_format
@pytest.mark.parametrize("mode", ["pread", "mmap"])
def test_parts_and_extents_are_the_same_bytes(
    form: Format, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_IO", mode)
    checkpoint = open_file(written(form, tmp_path))
    part = bytearray(4)

    checkpoint.readinto("a.half", memoryview(part), 3)
    place = checkpoint.extent("z.last")

    assert part == content("a.half")[3:7]
    assert checkpoint.read("a.half").readonly
    assert place is not None
    assert place.path.read_bytes()[place.offset :][: place.size] == content("z.last")


@every_format
def test_the_same_input_gives_the_same_bytes(form: Format, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()

    first, second = written(form, tmp_path), written(form, tmp_path / "b")

    assert first.read_bytes() == second.read_bytes()


@every_format
def test_threads_and_parts_do_not_matter(form: Format, tmp_path: Path) -> None:
    whole = written(form, tmp_path).read_bytes()
    path = tmp_path / f"threads{form.suffixes[0]}"
    parts = [(n, content(n)[i : i + 3], i) for n in SPECS for i in range(0, SPECS[n].nbytes, 3)]

    with form.create(path) as sink, ThreadPoolExecutor(4) as pool:
        sink.begin(SPECS, METADATA)
        list(pool.map(lambda p: sink.write(p[0], memoryview(p[1]), p[2]), reversed(parts)))

    assert path.read_bytes() == whole


@every_format
@pytest.mark.parametrize("kernel", [True, False])
def test_copy_takes_bytes_from_another_file(
    form: Format, kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*args: object) -> int:
        raise OSError(errno.EXDEV, "cross-device")

    if not kernel:
        monkeypatch.setattr(os, "copy_file_range", refuses, raising=False)
    source, path = tmp_path / "source.bin", tmp_path / f"copied{form.suffixes[0]}"
    source.write_bytes(b"12345" + content("z.last") + b"67890")

    with form.create(path) as sink:
        sink.begin({"z.last": SPECS["z.last"]}, {})
        sink.copy("z.last", Extent(source, 5, SPECS["z.last"].nbytes))

    assert open_file(path).read("z.last") == content("z.last")


@every_format
def test_systems_without_offset_calls_give_the_same_file(
    form: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has no pread and pwrite, macOS no fallocate and copy_file_range."""
    (tmp_path / "b").mkdir()
    first = written(form, tmp_path)
    for call in ("preadv", "pwrite", "posix_fallocate", "copy_file_range"):
        monkeypatch.delattr(os, call, raising=False)

    second = written(form, tmp_path / "b")
    checkpoint = form.open(second)

    assert first.read_bytes() == second.read_bytes()
    assert {n: bytes(checkpoint.read(n)) for n in SPECS} == {n: content(n) for n in SPECS}


@every_format
def test_a_missing_byte_leaves_nothing(form: Format, tmp_path: Path) -> None:
    path = target(form, tmp_path)
    path.write_bytes(b"old")

    with pytest.raises(MismatchError, match=r"'z\.last' is complete up to byte 4 of 60"):
        write_with_a_gap(form, path)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@every_format
def test_an_error_inside_leaves_nothing(form: Format, tmp_path: Path) -> None:
    path = target(form, tmp_path)

    with pytest.raises(KeyboardInterrupt), form.create(path) as sink:  # noqa: PT012
        sink.begin(SPECS, METADATA)
        raise KeyboardInterrupt

    assert list(tmp_path.iterdir()) == []


@every_format
def test_a_full_disk_shows_before_the_first_tensor(
    form: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = {"w": Spec(DTYPES["U8"], (1 << 50,))}

    with pytest.raises(DiskError, match="out"), form.create(target(form, tmp_path)) as sink:
        sink.begin(huge, {})

    assert list(tmp_path.iterdir()) == []


@every_format
def test_writing_outside_of_a_tensor_is_refused(form: Format, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'bytes' has 5 bytes"):
        write_too_far(form, target(form, tmp_path))

    assert list(tmp_path.iterdir()) == []


@every_format
def test_unknown_names_and_ranges_are_refused(form: Format, tmp_path: Path) -> None:
    checkpoint = form.open(written(form, tmp_path))

    with pytest.raises(NotFoundError, match="no tensor 'nope'"):
        checkpoint.read("nope")
    with pytest.raises(ValueError, match="'bytes' has 5 bytes"):
        checkpoint.readinto("bytes", memoryview(bytearray(4)), 2)


@every_format
def test_a_dtype_it_lacks_is_refused_by_name(form: Format, tmp_path: Path) -> None:
    lacking = {"safetensors": "C128"}.get(sniff_name(form, tmp_path), "F6_E2M3")

    with (
        pytest.raises(UnsupportedError, match=f"'w' is {lacking}"),
        form.create(tmp_path / f"no{form.suffixes[0]}") as sink,
    ):
        sink.begin({"w": Spec(DTYPES[lacking], (4,))}, {})


@every_format
@pytest.mark.parametrize("where", ["name", "metadata"])
def test_text_that_utf8_cannot_hold_is_refused(form: Format, where: str, tmp_path: Path) -> None:
    half, one = "\ud800", Spec(DTYPES["U8"], (1,))
    specs, metadata = ({half: one}, {}) if where == "name" else ({"w": one}, {"title": half})

    with (
        pytest.raises(UnsupportedError, match=r"\\ud800|title"),
        form.create(target(form, tmp_path)) as sink,
    ):
        sink.begin(specs, metadata)

    assert list(tmp_path.iterdir()) == []


@every_format
def test_only_one_format_recognises_it(form: Format, tmp_path: Path) -> None:
    head = written(form, tmp_path).read_bytes()[:4096]

    assert [f for f in FORMATS.values() if f.sniff(head)] == [form]
    assert format_for_suffix(target(form, tmp_path)) is form


def sniff_name(form: Format, folder: Path) -> str:
    return sniff_file(written(form, folder)) or ""
