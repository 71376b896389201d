from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.torch_archive import ONE, ONE_DATA, write_archive
from memcard.errors import IntegrityError, NotFoundError, UnsupportedError, UsageError
from memcard.formats import (
    FORMATS,
    create,
    format_for_suffix,
    is_checkpoint_folder,
    open_file,
    sniff_file,
)

UNKNOWN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "zeros": (bytes(5000), "zeros only"),
    "short": (b"abc", "only 3 bytes"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "tar": (b"sys_info".ljust(257, b"\0") + b"ustar\x0000", "tar archive"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.", "bare pickle"),
    "html": (b"\n<!DOCTYPE html><html><title>Sign in", "web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "web page"),
    "json": (b'{"metadata": {"total_size": 1}}', "JSON text"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "picture"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(64), "gzip"),
    "empty_zip": (b"PK\x05\x06" + bytes(18), "empty zip"),
    "noise": (bytes(range(200, 256)), "no format known"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_foreign_content_is_named_whatever_the_suffix(case: str, tmp_path: Path) -> None:
    raw, text = UNKNOWN[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)

    with pytest.raises(UnsupportedError, match=text) as caught:
        open_file(path)

    assert str(path) in str(caught.value)
    assert sniff_file(path) is None


def test_content_decides_and_the_suffix_is_a_note(tmp_path: Path) -> None:
    checkpoint = open_file(write_archive(tmp_path / "x.safetensors", ONE, ONE_DATA))

    assert checkpoint.format == "torch_zip"
    assert "read by content" in checkpoint.notes[0]


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        open_file(tmp_path / "none.ckpt")


def test_a_folder_that_is_no_checkpoint_names_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="No checkpoint lies in it"):
        open_file(tmp_path)
    for name in "abcde":
        write_archive(tmp_path / f"{name}.ckpt", ONE, ONE_DATA)

    with pytest.raises(UnsupportedError, match=r"a\.ckpt, b\.ckpt, c\.ckpt and 2 more"):
        open_file(tmp_path)

    assert sniff_file(tmp_path) is None
    assert not is_checkpoint_folder(tmp_path)


def test_a_device_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="not a regular file"):
        open_file("/dev/zero")


def test_an_unknown_suffix_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"\.safetensors, .*\.ckpt.*or in / for a diffusers"):
        format_for_suffix("x.bin")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("x.safetensors", "safetensors"),
        ("x.v2.SAFETENSORS", "safetensors"),
        ("x.pt", "torch_zip"),
        ("x.safetensors.index.json", "sharded"),
        ("x.gguf", "gguf"),
        ("folder/", "diffusers_folder"),
        ("folder.v2/", "diffusers_folder"),
        ("model", "diffusers_folder"),
    ],
)
def test_the_name_decides_what_is_written(name: str, form: str) -> None:
    assert format_for_suffix(name) is FORMATS[form]


def test_a_folder_that_is_there_is_written_as_one(tmp_path: Path) -> None:
    (tmp_path / "v1.5").mkdir()

    assert format_for_suffix(tmp_path / "v1.5") is FORMATS["diffusers_folder"]


def test_shards_are_of_safetensors_only(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="cannot be cut into shards"):
        create(tmp_path / "x.ckpt", max_shard=1000)
    with pytest.raises(UsageError, match="max_shard is 0 bytes"):
        create(tmp_path / "x.safetensors", max_shard=0)


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "x.ckpt", ONE, ONE_DATA)
    checkpoint = open_file(path)
    checkpoint.check_unchanged()  # type: ignore[attr-defined]

    path.unlink()
    write_archive(path, ONE, ONE_DATA)

    with pytest.raises(IntegrityError, match="changed while it was read"):
        checkpoint.check_unchanged()  # type: ignore[attr-defined]
