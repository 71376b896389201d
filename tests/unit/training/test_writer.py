"""A save takes its name when it is durable, replaces nothing, and leaves nothing when it fails."""

import errno
import os
import threading

import pytest
import torch

from fixtures.training import write_save
from memcard.errors import DiskError, UsageError
from memcard.training import _writer
from memcard.training._writer import Job, Writer, part_of, sweep
from memcard.training.saves import OpenSave, digest


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def job(path, memory=b"x" * 10_000):
    raw = memoryview(bytearray(memory))
    seen = {}

    def header(digests):
        seen.update(digests or {})
        return b"h" * 4096

    return Job(path, header, raw, {"a": (0, 4000), "b": (4000, len(memory) - 4000)}), seen


def test_the_file_is_header_and_memory_with_the_digests_of_the_tensors(tmp_path):
    path = tmp_path / "step-000000001.safetensors"
    one, seen = job(path)

    size = _writer.write(one)

    assert path.read_bytes() == b"h" * 4096 + b"x" * 10_000
    assert size == 14_096
    assert seen == {"a": digest(memoryview(b"x" * 4000)), "b": digest(memoryview(b"x" * 6000))}
    assert names(tmp_path) == [path.name]


def test_a_save_that_is_there_is_not_replaced(tmp_path):
    path = write_save(tmp_path, 1)
    before = path.read_bytes()

    with pytest.raises(UsageError, match="never overwritten"):
        _writer.write(job(path)[0])

    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("large", [0, 3 << 20], ids=["cached", "past the cache"])
@pytest.mark.parametrize("call", ["pwrite", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_a_disk_that_fails_leaves_no_trace(tmp_path, monkeypatch, large, call, number):
    def fails(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "step-000000001.safetensors"
    one = job(path, b"x" * (10_000 + large))[0]
    monkeypatch.setattr(os, call, fails)

    with pytest.raises(DiskError, match="step-000000001"):
        _writer.write(one)

    monkeypatch.undo()
    assert names(tmp_path) == []


def test_the_part_of_a_killed_process_is_in_nobodys_way(tmp_path):
    path = tmp_path / "step-000000001.safetensors"
    part_of(path).write_bytes(b"half")
    part_of(tmp_path / "step-000000009.safetensors").write_bytes(b"half")
    (tmp_path / ".other.part").touch()

    _writer.write(job(path)[0])
    assert path.exists()
    sweep(tmp_path)

    assert names(tmp_path) == [".other.part", path.name]


def test_a_small_save_is_there_when_start_returns(tmp_path):
    gate = threading.Event()
    path = tmp_path / "step-000000001.safetensors"
    writer = Writer()

    writer.start(job(path)[0], lambda outcome: gate.wait(10) and None)

    assert path.exists()
    assert writer.busy  # what comes after is still behind the training's back
    gate.set()
    assert writer.take(wait=True).error is None


def test_the_writer_works_behind_the_back_and_tells_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(_writer, "_SMALL", 0)
    gate, done = threading.Event(), []

    def held(digests):
        gate.wait(10)
        return b"h" * 4096

    path = tmp_path / "step-000000001.safetensors"
    raw = memoryview(bytearray(b"x" * 5000))
    writer = Writer()
    writer.start(Job(path, held, raw, {"a": (0, 5000)}), done.append)

    assert writer.busy
    assert writer.take() is None
    with pytest.raises(RuntimeError, match="one save at a time"):
        writer.start(Job(path, held, raw, {}), done.append)
    gate.set()
    outcome = writer.take(wait=True)

    assert (outcome.error, outcome.size, done) == (None, 9096, [outcome])
    assert writer.take(wait=True) is None


def test_an_error_of_the_background_waits_to_be_asked(tmp_path):
    writer = Writer()
    writer.start(job(tmp_path / "nowhere" / "x")[0], lambda outcome: None)

    outcome = writer.take(wait=True)

    assert isinstance(outcome.error, FileNotFoundError)


def test_an_error_while_hashing_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(_writer, "digest", lambda raw: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        _writer.write(job(tmp_path / "step-000000001.safetensors")[0])

    assert names(tmp_path) == []


def test_large_saves_are_whole(tmp_path):
    state = {f"w{i}": torch.randn(700_001) for i in range(3)} | {
        "b": torch.randint(0, 255, (12_345,), dtype=torch.uint8)
    }
    path = write_save(tmp_path, 1, state)

    with OpenSave(path) as found:
        found.verify()
        assert bytes(found.file.read("model.w2")) == bytes(state["w2"].numpy().tobytes())
