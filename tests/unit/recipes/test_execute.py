"""A recipe behaves like any checkpoint: lazy, readable in pieces, cheap where nothing is computed."""

import os

import numpy as np
import pytest

from fixtures import small
from memcard.core.checkpoint import Checkpoint
from memcard.errors import MemcardError, MismatchError, NotFoundError, UsageError
from memcard.formats import open_file
from memcard.ops import OPS
from memcard.recipes import execute
from memcard.recipes.nodes import Apply, Params, Source, Step


def resolve(source):
    return open_file(source.ref)


@pytest.fixture
def pair(tmp_path):
    a = small.save(tmp_path / "a.safetensors", small.weights(1))
    b = small.save(tmp_path / "b.safetensors", small.weights(2))
    return Source(str(a)), Source(str(b))


def mixed(pair, **params):
    return Apply("weighted_average", pair, Params(params))


def test_a_recipe_is_a_checkpoint(pair):
    result = execute.evaluate(mixed(pair), resolve, OPS, metadata={"title": "x"})

    assert isinstance(result, Checkpoint)
    assert result.format == "recipe"
    assert list(result.specs) == list(small.weights(1))
    assert result.metadata == {"title": "x"}
    result.close()


def test_nothing_is_read_until_asked(pair, monkeypatch):
    result = execute.evaluate(mixed(pair), resolve, OPS)
    monkeypatch.setattr(os, "preadv", None)
    monkeypatch.setattr(os, "pread", None)

    assert result.specs["a.weight"].shape == (60_000,)
    result.close()


def test_any_range_of_bytes_equals_that_part_of_the_whole(pair, monkeypatch):
    monkeypatch.setattr(execute, "CHUNK", 4096)
    result = execute.evaluate(mixed(pair, weights=[0.7, 0.3]), resolve, OPS)
    whole = bytes(result.read("a.weight"))

    for offset, size in [(0, 1), (1, 2), (3, 10_001), (119_999, 1), (4096, 8192), (7, 0)]:
        part = bytearray(size)
        result.readinto("a.weight", memoryview(part), offset)
        assert part == whole[offset : offset + size]
    result.close()


class Reversed:
    """Needs whole tensors: the last value first."""

    title, source, params, arity = "Reversed", "here", {}, (1, 1)

    def plan(self, inputs, params):
        return [Step(n, s, ((0, n),), whole=True) for n, s in inputs[0].items()]

    def apply(self, step, parts, params, out, start):
        assert len(parts[0]) == len(out) == step.spec.nbytes
        assert start == 0
        np.frombuffer(out, "<u2")[:] = np.frombuffer(parts[0], "<u2")[::-1]
        return 0


def test_steps_on_whole_tensors_can_be_read_in_pieces(pair):
    ops = {**OPS, "reversed": Reversed()}
    twice = Apply("weighted_average", (Apply("reversed", (pair[0],)), pair[1]))
    node = Apply("reversed", (Apply("reversed", (pair[0],)),))

    result = execute.evaluate(node, resolve, ops)
    mix = execute.evaluate(twice, resolve, ops)

    expected = small.weights(1)["a.weight"]
    part = bytearray(5)
    result.readinto("a.weight", memoryview(part), 11)
    assert part == expected.tobytes()[11:16]
    average = (expected[::-1].astype("f4") + small.weights(2)["a.weight"].astype("f4")) / 2
    assert np.array_equal(small.array_of(mix, "a.weight"), average.astype("f2"))
    result.close()
    mix.close()


def test_copied_tensors_keep_their_place_on_disk(pair):
    result = execute.evaluate(Apply("identity", (pair[0],)), resolve, OPS)
    source = resolve(pair[0])

    assert result.extent("a.weight") == source.extent("a.weight")
    assert result.computed == 0
    source.close()
    result.close()


def test_a_source_named_twice_is_opened_once(pair):
    opened = []

    def counting(source):
        opened.append(source)
        return resolve(source)

    node = mixed((pair[0], Apply("identity", (pair[0],)), pair[1]))
    execute.evaluate(node, counting, OPS).close()

    assert opened == [pair[0], pair[1]]


def test_a_refused_plan_closes_its_sources_and_names_the_operation(pair, tmp_path):
    short = {k: v for k, v in small.weights(3).items() if k != "scale"}
    bad = Source(str(small.save(tmp_path / "c.safetensors", short)))
    opened = []

    def remembering(source):
        opened.append(resolve(source))
        return opened[-1]

    with pytest.raises(MismatchError, match="'scale': in input 1, not in input 2") as caught:
        execute.evaluate(mixed((pair[0], bad)), remembering, OPS)

    assert str(caught.value).startswith("weighted_average: ")
    assert str(caught.value).endswith(f"input 1: {pair[0].ref}\n  input 2: {bad.ref}")
    for checkpoint in opened:
        with pytest.raises(MemcardError, match="is closed"):
            checkpoint.read("a.weight")


def test_an_unknown_tensor_operation_or_parameter_is_refused(pair):
    result = execute.evaluate(mixed(pair), resolve, OPS)

    with pytest.raises(NotFoundError, match="'nope'"):
        result.read("nope")
    with pytest.raises(NotFoundError, match="weighted_average"):
        execute.evaluate(Apply("weighted_averag", pair), resolve, OPS)
    with pytest.raises(UsageError, match="ratio"):
        execute.evaluate(mixed(pair, ratio=1.0), resolve, OPS)
    result.close()


def test_notes_name_the_tensors_they_are_about(tmp_path):
    arrays = {**small.weights(1), "position_ids": np.arange(77)}
    a = Source(str(small.save(tmp_path / "a.safetensors", arrays)))
    b = Source(str(small.save(tmp_path / "b.safetensors", arrays)))

    result = execute.evaluate(mixed((a, b)), resolve, OPS)

    assert [*result.notes] == ["not a weight, taken from the first input as it is (position_ids)"]
    result.close()
