"""A sharded save opens as one checkpoint; see docs/spec/dcp.md. More cases: tests/attacks/sharded_saves.py."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from attacks.sharded_saves import WHOLE, folder_of
from memcard.core.checkpoint import Checkpoint
from memcard.errors import CorruptError, IntegrityError, NotFoundError, UsageError
from memcard.formats import is_checkpoint_folder, open_file, sniff_file
from memcard.jobs.add import add
from memcard.jobs.convert import convert
from memcard.store.layout import Layout

ROWS = [(0, "w@0,0", WHOLE[:3], (0, 0)), (1, "w@3,0", WHOLE[3:], (3, 0))]
COLUMNS = [(0, "w@0,0", WHOLE[:, :4], (0, 0)), (1, "w@0,4", WHOLE[:, 4:], (0, 4))]
ONE = [(0, "w", WHOLE, (0, 0))]


def made(folder: Path, boxes: list = ROWS, **more: object) -> Path:
    return folder_of(folder, {"w": ("F32", (7, 6), boxes)}, **more)


@pytest.mark.parametrize("boxes", [ROWS, COLUMNS, ONE], ids=["rows", "columns", "one"])
def test_any_part_of_a_tensor_can_be_read(boxes: list, tmp_path: Path) -> None:
    checkpoint = open_file(made(tmp_path, boxes))
    raw = WHOLE.tobytes()

    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.read("w") == raw
    assert checkpoint.read("w").readonly
    for begin, end in itertools.combinations((0, 1, 20, 71, 72, 73, 100, 167, 168), 2):
        part = bytearray(end - begin)
        checkpoint.readinto("w", memoryview(part), begin)
        assert part == raw[begin:end]


def test_the_folder_is_known_by_its_content(tmp_path: Path) -> None:
    assert sniff_file(made(tmp_path)) == "dcp_memcard"
    assert is_checkpoint_folder(tmp_path)
    (tmp_path / "index.json").unlink()
    assert sniff_file(tmp_path) is None


def test_a_changed_byte_is_found_where_it_is_read(tmp_path: Path) -> None:
    path = made(tmp_path) / "rank-00001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)

    checkpoint = open_file(tmp_path)
    with pytest.raises(CorruptError, match=r"rank-00001\.safetensors: 'w@3,0': the bytes do not"):
        checkpoint.read("w")
    with pytest.raises(CorruptError, match="'w@3,0'"):
        checkpoint.readinto("w", memoryview(bytearray(4)), 160)


def test_convert_makes_one_file_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    folder.mkdir()
    out = tmp_path / "out.safetensors"

    convert(made(folder, COLUMNS, values={"step": [None, 3], "lr": [None, 0.5]}), out)

    assert open_file(folder).notes == ("Besides tensors it holds 2 plain values.",)
    assert np.array_equal(np.frombuffer(open_file(out).read("w"), "<f4"), WHOLE.reshape(-1))


def test_the_library_keeps_it_in_place(tmp_path: Path) -> None:
    home, folder = Layout(tmp_path / "home"), tmp_path / "step-1.5"
    folder.mkdir()

    (found,) = add(home, [made(folder)])
    assert found.name == "step-1.5"
    with pytest.raises(UsageError, match="is several files"):
        add(home, [folder], how="move")


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    checkpoint = open_file(made(tmp_path))
    checkpoint.check_unchanged()  # type: ignore[attr-defined]

    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(IntegrityError, match=r"index\.json: changed while it was read"):
        checkpoint.check_unchanged()  # type: ignore[attr-defined]


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    checkpoint = open_file(made(tmp_path))

    for ask in (checkpoint.read, checkpoint.extent):
        with pytest.raises(NotFoundError, match="has no tensor 'v'"):
            ask("v")


def test_more_files_than_handles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memcard.formats.dcp_memcard._OPEN", 2)
    boxes = [(n, f"w@{n},0", WHOLE[n : n + 1], (n, 0)) for n in range(7)]

    checkpoint = open_file(made(tmp_path, boxes))

    assert checkpoint.read("w") == WHOLE.tobytes()
    checkpoint.close()
