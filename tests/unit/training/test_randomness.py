"""All generators come back as they were, without pickle, from JSON and bytes."""

import json
import random
import sys

import numpy as np
import pytest
import torch

from memcard.errors import CorruptError, UsageError
from memcard.training import randomness
from memcard.training.randomness import Randomness, RandomState, gather, undisturbed


def draw():
    """One number of each kind, and one that the generators keep half of for the next call."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        torch.rand(3).tolist(),
        torch.randn(3).tolist(),
    ]


def stored(state):
    """The state after it went through JSON text and bytes, as in a file."""
    plain, tensors = state.to_json_and_tensors()
    assert all(t.dtype == torch.uint8 and t.ndim == 1 for t in tensors.values())
    copies = {
        name: torch.tensor(tensor.tolist(), dtype=torch.uint8) for name, tensor in tensors.items()
    }
    return RandomState.from_json_and_tensors(json.loads(json.dumps(plain)), copies)


def test_put_brings_back_the_numbers_that_came_after_take():
    draw()  # numpy and python now hold the second half of a pair of normal numbers
    state = stored(RandomState.take())

    expected = [draw() for _ in range(3)]

    assert state.put() == ()
    assert [draw() for _ in range(3)] == expected


def test_one_flat_tensor_holds_the_whole_state():
    state = RandomState.take()
    flat = state.to_tensor()
    padded = torch.cat([flat, torch.zeros(99, dtype=torch.uint8)])

    expected = draw()
    RandomState.from_tensor(padded).put()

    assert draw() == expected


def test_numpy_with_another_bit_generator_comes_back():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(5))
    try:
        state = stored(RandomState.take())
        expected = draw()
        state.put()
        assert draw() == expected
    finally:
        np.random.set_bit_generator(before)


def test_a_program_without_numpy_needs_none(monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy.random")

    state = stored(RandomState.take())

    assert state.numpy is None
    assert state.put() == ()


def test_every_accelerator_in_use_is_taken_and_put(monkeypatch):
    cuda = FakeDevices(2)
    mps = FakeDevices(1)
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch, "mps", mps)

    state = RandomState.take()
    assert set(state.devices) == {"cuda:0", "cuda:1", "mps"}
    expected = [cuda.states[1].tolist(), mps.states[0].tolist()]
    cuda.states[1] += 1
    mps.states[0] += 1

    assert stored(state).put() == ()
    assert [cuda.states[1].tolist(), mps.states[0].tolist()] == expected


def test_a_device_that_was_never_used_is_not_started(monkeypatch):
    monkeypatch.setattr(torch, "cuda", FakeDevices(1, used=False))

    assert RandomState.take().devices == {}


def test_a_device_that_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(torch, "cuda", FakeDevices(2))
    state = RandomState.take()
    monkeypatch.setattr(torch, "cuda", FakeDevices(1))

    (note,) = state.put()

    assert "cuda:1" in note


def test_a_damaged_state_names_what_is_missing():
    plain, tensors = RandomState.take().to_json_and_tensors()
    del tensors["python.1"]

    with pytest.raises(CorruptError, match=r"python\.1"):
        RandomState.from_json_and_tensors(plain, tensors)


def test_undisturbed_leaves_everything_as_it_was_even_after_an_error():
    state = RandomState.take()
    expected = draw()
    state.put()

    with pytest.raises(ZeroDivisionError), undisturbed():
        draw()[0] / 0

    assert draw() == expected


def test_gather_alone_is_the_state_of_this_process():
    state = RandomState.take()
    assert gather(state) == [state]


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (lambda: torch.Generator().manual_seed(3), lambda g: torch.rand(2, generator=g).tolist()),
        (lambda: np.random.default_rng(3), lambda g: g.normal()),
        (lambda: np.random.Generator(np.random.Philox(3)), lambda g: g.integers(1000, dtype="u4")),
        (lambda: np.random.Generator(np.random.SFC64(3)), lambda g: g.normal()),
        (lambda: np.random.RandomState(3), lambda g: g.randn()),
        (lambda: random.Random(3), lambda g: g.gauss(0, 1)),
    ],
    ids=["torch", "numpy", "philox", "sfc64", "legacy", "python"],
)
def test_a_generator_of_the_users_own_goes_on_where_it_was(make, number):
    generator = make()
    number(generator)
    state = Randomness(generator).state_dict()
    tensors = state.pop("tensors")
    expected = [number(generator) for _ in range(3)]

    again = make()
    Randomness(again).load_state_dict({**json.loads(json.dumps(state)), "tensors": tensors})

    assert [number(again) for _ in range(3)] == expected


def test_the_state_of_another_kind_of_generator_is_refused():
    state = Randomness(random.Random(1)).state_dict()
    with pytest.raises(CorruptError, match=r"random\.Random.*torch\.Generator"):
        Randomness(torch.Generator()).load_state_dict(state)


@pytest.mark.parametrize("thing", [random.SystemRandom(), 7], ids=["SystemRandom", "int"])
def test_what_has_no_state_is_refused(thing):
    with pytest.raises(UsageError, match="Randomness keeps"):
        Randomness(thing)


def test_no_source_of_torch_is_forgotten():
    """A new back end of torch with generators of its own has to be added to ACCELERATORS."""
    with_states = {
        name for name in ("cuda", "xpu", "mps", "mtia", "cpu")
        if hasattr(getattr(torch, name, None), "get_rng_state")
    }  # fmt: skip
    assert with_states - {"mtia"} <= set(randomness.ACCELERATORS)


class FakeDevices:
    """There is no accelerator here: the few calls that we make, on tensors of the CPU."""

    def __init__(self, count, *, used=True):
        self.states = [torch.arange(16, dtype=torch.uint8) + i for i in range(count)]
        self.used = used

    def is_available(self):
        return True

    def is_initialized(self):
        return self.used

    def device_count(self):
        return len(self.states)

    def get_rng_state(self, index=0):
        return self.states[index].clone()

    def set_rng_state(self, state, index=0):
        self.states[index] = state
