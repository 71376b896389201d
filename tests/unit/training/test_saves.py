"""A save is a safetensors file that others read, and that tells of every byte that was changed."""

import json
import math
import os
import pickletools

import pytest
import torch
from safetensors import safe_open

import memcard
from fixtures.training import write_save
from memcard.errors import CorruptError, FormatError, IntegrityError, UnsupportedError
from memcard.training.saves import (
    CHECK,
    FACTS,
    PAGE,
    Broken,
    OpenSave,
    Save,
    listed,
    name_of,
    numbered,
)

STATE = {
    "w": torch.arange(24.0).reshape(4, 6),
    "half": torch.ones(3).bfloat16(),
    "flag": torch.tensor(True),
    "none": torch.empty(0, 3),
    "z": torch.tensor([1 + 2j], dtype=torch.complex128),
}


def test_a_save_says_what_it_is(tmp_path):
    path = write_save(
        tmp_path, 120, STATE, metrics={"loss": 0.25, "norm": math.inf}, world=2, run="ab" * 8
    )

    with OpenSave(path) as found:
        found.verify()
        save = found.save

    assert (save.path, save.step, save.run, save.name, save.world) == (
        path,
        120,
        "ab" * 8,
        "toy",
        2,
    )
    assert save.metrics == {"loss": 0.25, "norm": math.inf}
    assert save.size == path.stat().st_size


def test_other_programs_read_the_weights(tmp_path):
    path = write_save(tmp_path, 1, STATE)

    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("model.w"), STATE["w"])
        assert torch.equal(file.get_tensor("model.half"), STATE["half"])
        assert file.metadata()["format"] == "pt"
    with memcard.open(path) as checkpoint:
        assert "model.w" in checkpoint.specs


def test_tensors_lie_aligned_behind_whole_pages(tmp_path):
    path = write_save(tmp_path, 1, STATE)

    with OpenSave(path) as found:
        places = {n: found.file.extent(n) for n in found.file.specs}

        assert found.file.data_offset % PAGE == 0
        for name, spec in found.file.specs.items():
            assert places[name].offset % spec.dtype.block_bytes == 0


def test_every_flipped_byte_is_found(tmp_path):
    path = write_save(tmp_path, 7)
    good = path.read_bytes()
    text = len(good[8:].split(b"   ")[0]) + 8
    places = [*range(text + 4), *range(text + 4, PAGE, 97), *range(PAGE, len(good))]

    for at in places:
        bad = bytearray(good)
        bad[at] ^= 1
        path.write_bytes(bad)
        with pytest.raises((IntegrityError, FormatError)), OpenSave(path) as found:
            found.verify()


@pytest.mark.parametrize("size", [0, 7, 100, PAGE, -1])
def test_a_file_that_was_cut_off_is_found(tmp_path, size):
    path = write_save(tmp_path, 7)
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)

    with pytest.raises(FormatError):
        OpenSave(path)


def test_all_damaged_tensors_are_named(tmp_path):
    path = write_save(tmp_path, 1, STATE)
    with OpenSave(path) as found:
        places = [found.file.extent(name).offset for name in ("model.w", "model.half")]
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(b"\xff")

    with pytest.raises(IntegrityError, match=r"model\.w.*model\.half"), OpenSave(path) as found:
        found.verify()


def test_a_foreign_file_is_not_taken_for_a_save(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / name_of(3)
    save_file({"w": torch.zeros(2)}, path)

    with pytest.raises(UnsupportedError, match=r"not made by memcard\.Checkpointer"):
        OpenSave(path)


def test_a_newer_version_is_refused_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.setattr("memcard.training.saves.VERSION", 2)
    path = write_save(tmp_path, 3)
    monkeypatch.undo()

    with pytest.raises(UnsupportedError, match="version 2"):
        OpenSave(path)


def test_a_record_that_lacks_something_is_corrupt(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "memcard.training.saves._text", lambda v: json.dumps(v).replace('"world"', '"word"')
    )
    path = write_save(tmp_path, 3)

    with pytest.raises(CorruptError, match="world"):
        OpenSave(path)


def test_text_that_looks_like_the_check_does_not_confuse_it(tmp_path):
    path = write_save(
        tmp_path, 3, {f'x","{CHECK}":"{"1" * 64}': torch.ones(1), FACTS: torch.ones(2)}
    )

    with OpenSave(path) as found:
        found.verify()


def test_saves_are_listed_by_step_and_the_broken_ones_told(tmp_path):
    for step in (20, 3, 1_000_000_000):
        write_save(tmp_path, step)
    write_save(tmp_path, 5).write_bytes(b"nothing")
    write_save(tmp_path, 8).rename(tmp_path / name_of(9))
    for name in (".step-000000004.safetensors.part", "step-4.safetensors", "notes.txt"):
        (tmp_path / name).touch()

    found = list(listed(tmp_path))

    assert [one.step for one in found] == [3, 5, 9, 20, 1_000_000_000]
    assert [type(one) for one in found] == [Save, Broken, Broken, Save, Save]
    assert numbered(tmp_path / "nowhere") == []


def test_nothing_in_a_save_is_a_pickle(tmp_path):
    raw = write_save(tmp_path, 1, STATE).read_bytes()

    assert b"\x80\x02" not in raw.replace(b"\0", b"")[:2]
    with pytest.raises((ValueError, IndexError)):
        list(pickletools.genops(raw))


def test_the_same_state_makes_the_same_bytes(tmp_path):
    one, two = tmp_path / "a", tmp_path / "b"
    one.mkdir()
    two.mkdir()

    assert write_save(one, 1, STATE).read_bytes() == write_save(two, 1, STATE).read_bytes()
