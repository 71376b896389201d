"""What every format promises; a new one is tested by existing."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memcard.core.checkpoint import Checkpoint, Extent, Format, Sink
from memcard.core.tensors import DTYPES, QUANTIZED, Spec, Specs
from memcard.errors import DiskError, MismatchError, NotFoundError, UnsupportedError
from memcard.formats import FORMATS, create, format_for_suffix, open_file, sniff_file

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


def is_written(form: Format) -> bool:
    try:
        form.create(target(form, Path()))
    except UnsupportedError:
        return False
    return True


def target(form: Format, folder: Path) -> Path:
    return folder / f"out{form.suffixes[0] if form.suffixes else ''}"


WRITTEN = {name: form for name, form in FORMATS.items() if is_written(form)}
every_format = pytest.mark.parametrize("form", WRITTEN.values(), ids=WRITTEN)


def name_in(form: Format, name: str) -> str:
    """A folder has names that begin with a component."""
    return name if form.suffixes else f"unet.{name}"


def specs_in(form: Format) -> dict[str, Spec]:
    return {name_in(form, name): spec for name, spec in SPECS.items()}


def content(name: str) -> bytes:
    name = name.removeprefix("unet.")
    size = SPECS[name].nbytes
    return bytes((i * 37 + len(name)) % 251 for i in range(size))


def contents_in(form: Format) -> dict[str, bytes]:
    return {name: content(name) for name in specs_in(form)}


def files_below(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write_all_but(form: Format, sink: Sink, left_out: str = "") -> None:
    for name in reversed(SPECS):
        if name != left_out:
            sink.write(name_in(form, name), memoryview(content(name)))


def write_with_a_gap(form: Format, path: Path) -> None:
    with create(path, overwrite=True) as sink:
        sink.begin(specs_in(form), METADATA)
        write_all_but(form, sink, "z.last")
        last = name_in(form, "z.last")
        sink.write(last, memoryview(bytes(4)))
        sink.write(last, memoryview(bytes(52)), 8)


def write_too_far(form: Format, path: Path) -> None:
    with form.create(path) as sink:
        sink.begin(specs_in(form), {})
        sink.write(name_in(form, "bytes"), memoryview(bytes(3)), 3)


def written(form: Format, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = target(form, folder)
    with form.create(path) as sink:
        sink.begin(specs_in(form), METADATA)
        write_all_but(form, sink)
    assert sink.result == path
    assert sink.size == sum(map(len, files_below(folder).values()))
    return path


@every_format
def test_what_was_written_is_read_back_in_order(form: Format, tmp_path: Path) -> None:
    checkpoint = form.open(written(form, tmp_path))

    assert isinstance(checkpoint, Checkpoint)
    assert isinstance(form, Format)
    assert list(checkpoint.specs.items()) == list(specs_in(form).items())
    assert list(checkpoint.metadata.items()) == list(METADATA.items())
    assert [n for n in checkpoint.notes if "no model_index.json" not in n] == []
    assert {n: bytes(checkpoint.read(n)) for n in checkpoint.specs} == contents_in(form)


@every_format
@pytest.mark.parametrize("mode", ["pread", "mmap"])
def test_parts_and_extents_are_the_same_bytes(
    form: Format, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_IO", mode)
    checkpoint = open_file(written(form, tmp_path))
    part = bytearray(4)

    checkpoint.readinto(name_in(form, "a.half"), memoryview(part), 3)
    place = checkpoint.extent(name_in(form, "z.last"))

    assert part == content("a.half")[3:7]
    assert checkpoint.read(name_in(form, "a.half")).readonly
    assert place is not None
    assert place.path.read_bytes()[place.offset :][: place.size] == content("z.last")


@every_format
def test_the_same_input_gives_the_same_bytes(form: Format, tmp_path: Path) -> None:
    written(form, tmp_path / "a")
    written(form, tmp_path / "b")

    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


@every_format
def test_threads_and_parts_do_not_matter(form: Format, tmp_path: Path) -> None:
    written(form, tmp_path / "a")
    (tmp_path / "b").mkdir()
    parts = [
        (n, raw[i : i + 3], i)
        for n, raw in contents_in(form).items()
        for i in range(0, len(raw), 3)
    ]

    with form.create(target(form, tmp_path / "b")) as sink, ThreadPoolExecutor(4) as pool:
        sink.begin(specs_in(form), METADATA)
        list(pool.map(lambda p: sink.write(p[0], memoryview(p[1]), p[2]), reversed(parts)))

    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


@every_format
@pytest.mark.parametrize("kernel", [True, False])
def test_copy_takes_bytes_from_another_file(
    form: Format, kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*args: object) -> int:
        raise OSError(errno.EXDEV, "cross-device")

    if not kernel:
        monkeypatch.setattr(os, "copy_file_range", refuses, raising=False)
    source, path = tmp_path / "source.bin", target(form, tmp_path)
    source.write_bytes(b"12345" + content("z.last") + b"67890")
    name = name_in(form, "z.last")

    with form.create(path) as sink:
        sink.begin({name: SPECS["z.last"]}, {})
        sink.copy(name, Extent(source, 5, SPECS["z.last"].nbytes))

    assert open_file(path).read(name) == content("z.last")


@every_format
def test_systems_without_offset_calls_give_the_same_file(
    form: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has no pread and pwrite, macOS no fallocate and copy_file_range."""
    written(form, tmp_path / "a")
    for call in ("preadv", "pwrite", "posix_fallocate", "copy_file_range"):
        monkeypatch.delattr(os, call, raising=False)

    checkpoint = form.open(written(form, tmp_path / "b"))

    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")
    assert {n: bytes(checkpoint.read(n)) for n in checkpoint.specs} == contents_in(form)


@every_format
def test_a_missing_byte_leaves_nothing(form: Format, tmp_path: Path) -> None:
    path = target(form, tmp_path)
    if not form.suffixes:
        path.mkdir()
        path /= "inside"
    path.write_bytes(b"old")

    with pytest.raises(MismatchError, match=r"'z\.last' is complete up to byte 4 of 60"):
        write_with_a_gap(form, target(form, tmp_path))

    assert files_below(tmp_path) == {path.relative_to(tmp_path).as_posix(): b"old"}
    assert list(tmp_path.iterdir()) == [target(form, tmp_path)]


@every_format
def test_an_error_inside_leaves_nothing(form: Format, tmp_path: Path) -> None:
    path = target(form, tmp_path)

    with pytest.raises(KeyboardInterrupt), form.create(path) as sink:  # noqa: PT012
        sink.begin(specs_in(form), METADATA)
        raise KeyboardInterrupt

    assert list(tmp_path.iterdir()) == []


@every_format
def test_a_full_disk_shows_before_the_first_tensor(
    form: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = {name_in(form, "w"): Spec(DTYPES["U8"], (1 << 50,))}

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
        checkpoint.readinto(name_in(form, "bytes"), memoryview(bytearray(4)), 2)


@every_format
def test_a_dtype_it_lacks_is_refused_by_name(form: Format, tmp_path: Path) -> None:
    lacking = "F6_E2M3" if ".ckpt" in form.suffixes else "C128"
    name = name_in(form, "w")

    with (
        pytest.raises(UnsupportedError, match=f"w' is {lacking}"),
        form.create(target(form, tmp_path)) as sink,
    ):
        sink.begin({name: Spec(DTYPES[lacking], (4,))}, {})

    assert list(tmp_path.iterdir()) == []


@every_format
def test_quantised_blocks_are_refused_with_the_remedy(form: Format, tmp_path: Path) -> None:
    with (
        pytest.raises(UnsupportedError, match=r"w' is Q4_K \[256\].*--dtype fp16 dequantises"),
        form.create(target(form, tmp_path)) as sink,
    ):
        sink.begin({name_in(form, "w"): Spec(QUANTIZED["Q4_K"], (256,))}, {})

    assert list(tmp_path.iterdir()) == []


@every_format
@pytest.mark.parametrize("where", ["name", "metadata"])
def test_text_that_utf8_cannot_hold_is_refused(form: Format, where: str, tmp_path: Path) -> None:
    half, one = "\ud800", Spec(DTYPES["U8"], (1,))
    specs = {name_in(form, half if where == "name" else "w"): one}
    metadata = {} if where == "name" else {"title": half}

    with (
        pytest.raises(UnsupportedError, match=r"\\ud800|title"),
        form.create(target(form, tmp_path)) as sink,
    ):
        sink.begin(specs, metadata)

    assert list(tmp_path.iterdir()) == []


@every_format
def test_only_one_format_recognises_it(form: Format, tmp_path: Path) -> None:
    path = written(form, tmp_path)
    found = [name for name, other in FORMATS.items() if recognises(other, path)]

    assert [FORMATS[name] for name in found] == [form]
    assert [sniff_file(path)] == found
    assert format_for_suffix(path) is form


def recognises(form: Format, path: Path) -> bool:
    if path.is_dir():
        return form.sniff_folder(frozenset(os.listdir(path)))  # noqa: PTH208
    return form.sniff(path.read_bytes()[:4096])


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in WRITTEN])
def test_a_format_that_is_only_read_says_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="safetensors"):
        FORMATS[name].create(target(FORMATS[name], tmp_path))


@every_format
def test_a_sink_without_tensors_announced_is_an_error(form: Format, tmp_path: Path) -> None:
    with (
        pytest.raises(MismatchError, match="no tensors were announced"),
        form.create(target(form, tmp_path)),
    ):
        pass

    assert list(tmp_path.iterdir()) == []
