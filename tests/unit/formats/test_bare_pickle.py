import os
import pickle
from pathlib import Path

import pytest
import torch

import memcard
from memcard.errors import UnsafeError, UnsupportedError
from memcard.formats import open_file


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
    with pytest.raises(UnsupportedError, match=r"before 1\.6"):
        open_file(path)

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
