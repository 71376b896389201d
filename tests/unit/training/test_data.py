"""The order of samples: a function of (seed, epoch), entered at any position, divided among ranks."""

import json
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from memcard.errors import MismatchError, UsageError
from memcard.training.data import ExactSampler, loader, samples_in


def stored(state):
    return json.loads(json.dumps(state))


def test_the_order_is_frozen():
    """Saves of earlier releases are resumed with it: these numbers may never change."""
    sampler = ExactSampler(10, seed=7)
    assert list(sampler) == [3, 2, 9, 7, 5, 6, 0, 4, 1, 8]
    sampler.set_epoch(1)
    assert list(sampler) == [9, 7, 5, 0, 6, 1, 3, 8, 4, 2]


def test_each_epoch_serves_every_sample_once_in_another_order():
    sampler = ExactSampler(100, seed=1)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))

    assert all(sorted(order) == list(range(100)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != list(ExactSampler(100, seed=2))


def test_without_shuffle_the_order_is_that_of_the_data_set():
    assert list(ExactSampler("abcd", shuffle=False)) == [0, 1, 2, 3]


def test_drawing_an_order_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    list(ExactSampler(100))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_sampler_serves_what_was_not_consumed():
    whole = list(ExactSampler(20, seed=3))
    first = ExactSampler(20, seed=3)
    fetched = iter(first)
    for _ in range(13):  # fetched ahead; only 8 were consumed
        next(fetched)
    first.advance(4)
    first.advance(torch.zeros(4, 3))

    again = ExactSampler(20, seed=99)  # a save brings its seed
    again.load_state_dict(stored(first.state_dict()))

    assert list(again) == whole[8:]
    assert len(again) == 20  # of a whole epoch: schedulers count with it


def test_the_end_of_an_epoch_is_the_start_of_the_next():
    sampler = ExactSampler(10)
    sampler.advance(7)
    sampler.advance(3)
    assert (sampler.epoch, sampler.consumed) == (1, 0)


def test_set_epoch_stays_within_an_epoch_that_was_interrupted():
    sampler = ExactSampler(10)
    sampler.advance(4)

    sampler.set_epoch(0)
    assert sampler.consumed == 4
    sampler.set_epoch(1)
    assert sampler.consumed == 0


def test_a_loop_that_never_advances_is_told_so():
    sampler = ExactSampler(4)
    list(sampler)
    with pytest.raises(UsageError, match=r"advance.*set_epoch"):
        list(sampler)


@given(
    n=st.integers(1, 50),
    world=st.integers(1, 5),
    after=st.integers(1, 5),
    drop_last=st.booleans(),
    data=st.data(),
)
def test_ranks_share_the_order_and_another_number_of_ranks_goes_on_in_it(
    n, world, after, drop_last, data
):
    if drop_last:
        world, after = min(world, n), min(after, n)
    order = list(ExactSampler(n, seed=5))

    def part(count, consumed):
        parts = []
        for rank in range(count):
            sampler = ExactSampler(n, 5, rank=rank, world=count, drop_last=drop_last)
            sampler.consumed = consumed
            parts.append(list(sampler.rest()))
        return parts

    parts = part(world, 0)
    consumed = data.draw(st.integers(0, len(parts[0]) - 1)) * world
    rests = part(after, consumed)

    assert len({len(p) for p in parts}) == 1  # equally many, or DDP waits for ever
    assert len({len(p) for p in rests}) == 1
    served = [rank[i] for i in range(len(rests[0])) for rank in rests]
    expected = order[consumed:]
    if drop_last:
        assert served == expected[: len(expected) // after * after]
    else:
        fill = -len(expected) % after
        assert served == expected + [order[i % n] for i in range(fill)]


def test_places_know_epoch_and_position_over_all_ranks():
    sampler = ExactSampler(7, seed=5, rank=1, world=2)
    sampler.set_epoch(3)
    places = list(sampler)
    assert [p.position for p in places] == [1, 3, 5, 7]
    assert {(p.seed, p.epoch) for p in places} == {(5, 3)}


def test_skipping_in_ten_million_samples_costs_nothing_beyond_the_permutation():
    sampler = ExactSampler(10_000_000, seed=1)
    sampler._order()  # the permutation
    sampler.consumed = 9_000_000

    start = time.process_time()
    next(iter(sampler))

    assert time.process_time() - start < 0.010


def test_another_size_of_the_data_set_is_refused():
    state = ExactSampler(10).state_dict()
    with pytest.raises(MismatchError, match=r"10 samples .* there are 11"):
        ExactSampler(11).load_state_dict(state)


def test_another_way_of_shuffling_is_said():
    state = ExactSampler(10).state_dict()
    state["probes"] = state["probes"][::-1]
    with pytest.warns(UserWarning, match="shuffles in another order"):
        ExactSampler(10).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least one sample"),
        ({"n": 5, "rank": 2, "world": 2}, "Rank 2 does not exist"),
        ({"n": 1, "rank": 0, "world": 2, "drop_last": True}, "Leave drop_last off"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        ExactSampler(**arguments)


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (torch.zeros(3, 2), 3),
        ({"image": torch.zeros(3, 2), "text": ["a", "b", "c"]}, 3),
        ([torch.zeros(3), torch.zeros(3, 1)], 3),
        ((["a", "b"], torch.zeros(2)), 2),
        (["a", "b", "c"], 3),
        (torch.zeros(5).numpy(), 5),
    ],
)
def test_the_samples_of_a_batch_are_counted(batch, count):
    assert samples_in(batch) == count


@pytest.mark.parametrize("batch", [{}, "abc", torch.tensor(1.0), object()])
def test_a_batch_that_cannot_be_counted_asks_for_the_number(batch):
    with pytest.raises(UsageError, match="Give the number"):
        samples_in(batch)


def test_a_loop_by_hand_is_exact_and_leaves_the_global_generators_alone():
    images = TensorDataset(torch.arange(10))
    before = torch.get_rng_state()
    sampler = ExactSampler(images, seed=2)
    served = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for (batch,) in loader(images, sampler, batch_size=4):
            served.append(batch.tolist())
            sampler.advance(batch)

    again = ExactSampler(images, seed=2)
    again.load_state_dict({**again.state_dict(), "epoch": 1, "consumed": 4, "probes": _probes(1)})
    rest = [batch.tolist() for (batch,) in loader(images, again, batch_size=4)]

    assert rest == served[4:]
    assert torch.equal(torch.get_rng_state(), before)


def _probes(epoch):
    sampler = ExactSampler(10, seed=2)
    sampler.set_epoch(epoch)
    return sampler.state_dict()["probes"]
