"""Operations that must know a whole tensor before they compute a chunk of it."""

import threading
from itertools import pairwise

import numpy as np
import pytest

from fixtures import small
from memcard.errors import MemcardError
from memcard.formats import open_file
from memcard.formats.safetensors import PLUGIN as SAFETENSORS
from memcard.ops import OPS
from memcard.recipes import execute
from memcard.recipes.bake import _MEASURE, _Crew, bake
from memcard.recipes.nodes import Apply, Source, Step
from memcard.recipes.op import Measuring


class Centred:
    """Subtracts a tensor's largest value, which no chunk knows alone."""

    title, source, params, arity = "Centred", "here", {}, (1, 1)

    def __init__(self):
        self.log, self.threads = [], {}

    def plan(self, inputs, params):
        return [
            Step(n, s, ((0, n),), measure=n != "scale", copy=n == "scale")
            for n, s in inputs[0].items()
        ]

    def measure(self, step, read, params):
        self.log.append(("measure", step.name))
        self.threads[step.name] = threading.current_thread().name
        most = -np.inf
        for start in range(0, step.spec.elements, 1000):
            (part,) = read(start, min(1000, step.spec.elements - start))
            most = max(most, np.frombuffer(part, "<f2").max())
        return most

    def apply(self, step, parts, params, out, start):
        self.log.append(("apply", step.name))
        np.frombuffer(out, "<u2").view("<f2")[:] = np.frombuffer(parts[0], "<f2") - step.stats
        return 0


@pytest.fixture
def source(tmp_path):
    return Source(str(small.save(tmp_path / "a.safetensors", small.weights(1))))


def resolve(source):
    return open_file(source.ref)


def test_a_measuring_operation_is_one_by_its_methods():
    assert isinstance(Centred(), Measuring)
    assert not isinstance(OPS["weighted_average"], Measuring)


def test_each_tensor_is_measured_once_before_its_first_chunk(source, tmp_path):
    op = Centred()
    out = tmp_path / "out.safetensors"

    bake(Apply("c", (source,)), resolve, {"c": op}, SAFETENSORS.create(out), chunk=5000, threads=3)

    measured = [name for kind, name in op.log if kind == "measure"]
    assert sorted(measured) == ["a.weight", "b.bias", "b.weight"]
    for name in measured:
        assert op.log.index(("measure", name)) < op.log.index(("apply", name))
    for name, values in small.load(out).items():
        whole = small.weights(1)[name]
        assert np.array_equal(values, whole if name == "scale" else whole - whole.max())


def test_reading_a_piece_measures_the_whole(source):
    result = execute.evaluate(Apply("c", (source,)), resolve, {"c": Centred()})
    part = bytearray(20)

    result.readinto("a.weight", memoryview(part), 40)

    whole = small.weights(1)["a.weight"]
    assert bytes(part) == (whole - whole.max())[20:30].tobytes()
    assert result.measures("a.weight")
    assert not result.measures("scale")
    result.close()


def test_a_measured_result_can_be_measured_again(source):
    node = Apply("c", (Apply("c", (source,)),))

    result = execute.evaluate(node, resolve, {"c": Centred()})

    whole = small.weights(1)["b.bias"]
    once = whole - whole.max()
    assert np.array_equal(small.array_of(result, "b.bias"), once - once.max())
    result.close()


def test_many_threads_that_ask_at_once_share_one_measurement(source):
    op = Centred()
    result = execute.evaluate(Apply("c", (source,)), resolve, {"c": op})
    found = []
    crew = [
        threading.Thread(target=lambda: found.append(bytes(result.read("a.weight"))))
        for _ in range(4)
    ]

    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()

    assert all(a == b for a, b in pairwise(found))
    assert len(found) == 4
    assert op.log.count(("measure", "a.weight")) == 1
    result.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_tensor_is_measured_as_many_tensors_early_as_there_are_other_threads(source, threads):
    result = execute.evaluate(Apply("c", (source,)), resolve, {"c": Centred()})

    jobs = [(name, offset) for name, offset, _ in _Crew(result, None, 1 << 20)._list(threads)]

    names = ["a.weight", "b.weight", "b.bias"]
    early = names[threads - 1 : threads]
    if early:
        assert jobs.index((early[0], _MEASURE)) < jobs.index(("a.weight", 0))
    assert all(jobs.index((n, _MEASURE)) < jobs.index((n, 0)) for n in names)
    assert len(jobs) == 7
    result.close()


class Fails(Centred):
    def measure(self, step, read, params):
        raise MemcardError("cannot be measured")


def test_a_measurement_that_fails_leaves_no_file(source, tmp_path):
    out = tmp_path / "out.safetensors"

    with pytest.raises(MemcardError, match="cannot be measured"):
        bake(Apply("c", (source,)), resolve, {"c": Fails()}, SAFETENSORS.create(out))

    assert not out.exists()
