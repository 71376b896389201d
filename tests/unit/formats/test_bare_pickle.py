import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
import torch

import memcard
from memcard.errors import UnsafeError, UnsupportedError
from memcard.formats import open_file
from memcard.formats._bare_pickle import hostile


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch pwned",)  # noqa: TID251  # named, never called


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_that_asks_to_run_code_is_unsafe(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(pickle.dumps(Payload(), protocol=protocol))

    with pytest.raises(UnsafeError, match="system"):
        open_file(path)
    assert memcard.inspect(path).exit_code == 3


def test_a_call_before_damage_is_still_unsafe(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"cposix\nsystem\n(S'true'\ntR\xff\xff")

    with pytest.raises(UnsafeError, match="system"):
        open_file(path)


def test_one_in_front_of_an_old_torch_file_is_unsafe(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    honest = path.read_bytes()
    assert list(open_file(path).specs) == ["a"]

    path.write_bytes(pickle.dumps(Payload(), protocol=2) + honest)
    with pytest.raises(UnsafeError, match="system"):
        open_file(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.txt", "checkpoint\nfoo\n."),
        ("vocab.bin", "cat\ndog\nbird\n"),
        ("x.pt", "cat\ndog\n"),
    ],
)
def test_text_is_not_taken_for_a_program(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)

    with pytest.raises(UnsupportedError):
        open_file(path)


def old_tar(path: Path, evil: str) -> Path:
    """torch before 0.1.10: three members, each begins with a pickle."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member in ("storages", "tensors", "pickle"):
            raw = pickle.dumps(Payload() if member == evil else 0, protocol=2)
            info = tarfile.TarInfo(member)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


@pytest.mark.parametrize("member", ["storages", "tensors", "pickle"])
def test_each_part_of_the_oldest_torch_format_is_judged(member: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match=rf"\({member}\).*system"):
        open_file(old_tar(tmp_path / "x.pt", member))


def test_the_oldest_torch_format_is_unsupported_with_the_remedy(tmp_path: Path) -> None:
    path = old_tar(tmp_path / "x.pt", "")

    with pytest.raises(UnsupportedError, match=r"before 0\.1\.10.*save its state dict"):
        open_file(path)
    path.write_bytes(path.read_bytes().replace(b"storages", b"pictures"))
    with pytest.raises(UnsupportedError, match="a pack of files"):
        open_file(path)


@pytest.mark.parametrize("length", [b"-0000000777", b"77777777777", b"not a number"])
def test_a_lying_tar_header_ends_the_search(length: bytes, tmp_path: Path) -> None:
    path = old_tar(tmp_path / "x.pt", "")
    raw = path.read_bytes()
    path.write_bytes(raw[:124] + length.ljust(12, b"\0")[:12] + raw[136:])

    with pytest.raises(UnsupportedError):
        open_file(path)


EMPTY = b"\x80\x02}."


@pytest.mark.parametrize(
    ("tail", "unsafe"),
    [
        (pickle.dumps(Payload(), 2), True),
        (pickle.dumps(Payload(), 0), True),
        (pickle.dumps(Payload(), 2)[:-1], True),
        (pickle.dumps(Payload(), 0)[:-3], False),  # random bytes do as much
        (b"\x82\x01\xff\xff", False),
        (b"ca\nb\n", False),
    ],
)
def test_what_follows_a_whole_program_must_look_like_one(tail: bytes, unsafe: bool) -> None:
    assert (hostile(EMPTY + tail, "x") is not None) == unsafe
