"""Baking: same bits on any number of threads, whole files or none."""

import threading

import numpy as np
import pytest

from fixtures import small
from memcard.core.progress import Progress
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.formats.safetensors import PLUGIN as SAFETENSORS
from memcard.ops import OPS
from memcard.recipes.bake import bake
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source


def resolve(source):
    return open_file(source.ref)


@pytest.fixture
def node(tmp_path):
    (tmp_path / "in").mkdir()
    paths = [small.save(tmp_path / "in" / f"{i}.safetensors", small.weights(i)) for i in range(3)]
    return Apply(
        "weighted_average",
        tuple(Source(str(p)) for p in paths),
        Params({"weights": [0.5, 0.3, 0.2]}),
    )


def test_threads_and_chunks_never_change_a_bit(node, tmp_path):
    files = []
    for threads, chunk in [(1, 4 << 20), (2, 4096), (4, 10_001), (3, 777)]:
        out = tmp_path / f"{threads}-{chunk}.safetensors"
        bake(node, resolve, OPS, SAFETENSORS.create(out), threads=threads, chunk=chunk)
        files.append(out.read_bytes())

    assert files.count(files[0]) == 4


def test_the_virtual_checkpoint_holds_the_bytes_of_the_baked_file(node, tmp_path):
    out = tmp_path / "out.safetensors"
    report = bake(node, resolve, OPS, SAFETENSORS.create(out), metadata={"k": "v"})
    virtual, baked = evaluate(node, resolve, OPS), open_file(out)

    assert {n: bytes(virtual.read(n)) for n in virtual.specs} == {
        n: bytes(baked.read(n)) for n in baked.specs
    }
    assert baked.metadata == {"k": "v"}
    assert (report.tensors, report.copied, report.nonfinite) == (4, 0, {})
    virtual.close()
    baked.close()


def test_copied_tensors_never_pass_through_memory(node, tmp_path, monkeypatch):
    out = tmp_path / "out.safetensors"
    source = node.inputs[0]
    monkeypatch.setattr(type(resolve(source)), "readinto", None)

    report = bake(Apply("identity", (source,)), resolve, OPS, SAFETENSORS.create(out))

    assert report.copied == 4
    assert {k: v.tobytes() for k, v in small.load(out).items()} == {
        k: v.tobytes() for k, v in small.weights(0).items()
    }


class StopsAt:
    """An input that is interrupted or fails when a certain tensor is read."""

    def __init__(self, checkpoint, name, error):
        self._checkpoint, self._name, self._error = checkpoint, name, error

    def __getattr__(self, name):
        return getattr(self._checkpoint, name)

    def readinto(self, name, into, offset=0):
        if name == self._name:
            raise self._error
        self._checkpoint.readinto(name, into, offset)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "I/O error"), MemoryError()])
def test_a_failure_on_the_way_leaves_the_old_file_and_nothing_else(node, tmp_path, error):
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "out.safetensors"
    out.write_bytes(b"old")

    with pytest.raises(type(error)):
        bake(
            node,
            lambda s: StopsAt(resolve(s), "b.weight", error),
            OPS,
            SAFETENSORS.create(out),
            chunk=4096,
        )

    assert out.read_bytes() == b"old"
    assert list(folder.iterdir()) == [out]


def test_ctrl_c_in_the_main_thread_stops_the_crew_and_leaves_no_trace(node, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()

    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bake(node, resolve, OPS, SAFETENSORS.create(folder / "out.safetensors"), progress=interrupt)

    assert list(folder.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("bake-")]


def test_a_refusal_leaves_no_file(node, tmp_path):
    odd = small.save(tmp_path / "odd.safetensors", {"other": np.zeros(3, np.float32)})
    out = tmp_path / "out.safetensors"

    with pytest.raises(MismatchError):
        bake(
            Apply("weighted_average", (node.inputs[0], Source(str(odd)))),
            resolve,
            OPS,
            SAFETENSORS.create(out),
        )

    assert not out.exists()


def test_values_that_are_not_finite_are_counted_and_told(tmp_path):
    arrays = small.weights(1)
    arrays["a.weight"][[3, 5]] = np.inf, np.nan
    a = Source(str(small.save(tmp_path / "a.safetensors", arrays)))
    b = Source(str(small.save(tmp_path / "b.safetensors", small.weights(2))))

    report = bake(
        Apply("weighted_average", (a, b)),
        resolve,
        OPS,
        SAFETENSORS.create(tmp_path / "o.safetensors"),
        chunk=4096,
    )

    assert report.nonfinite == {"a.weight": 2}
    assert "2 computed values are NaN or infinite" in report.notes[-1]


def test_progress_ends_at_the_total(node, tmp_path):
    events = []

    report = bake(
        node, resolve, OPS, SAFETENSORS.create(tmp_path / "o.safetensors"), progress=events.append
    )

    assert events[-1] == Progress("bake", report.nbytes, report.nbytes)


@pytest.mark.parametrize(("threads", "chunk"), [(0, 4096), (1, 0)])
def test_impossible_settings_are_refused(node, tmp_path, threads, chunk):
    sink = SAFETENSORS.create(tmp_path / "o.safetensors")

    with pytest.raises(UsageError):
        bake(node, resolve, OPS, sink, threads=threads, chunk=chunk)
