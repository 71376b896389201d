"""What a data set draws for a sample depends on the sample's place, in any process and in any order."""

import functools
import os
import random
import time
import warnings
from copy import copy  # as pickle does on the way to a worker

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from memcard.errors import UsageError
from memcard.training._exact import exact, same
from memcard.training._seeding import Keyed, Place, derive, generators_of
from memcard.training.data import ExactSampler

at_module_level = np.random.default_rng(1)


class Noisy(Dataset):
    """Draws from everything that a data set is likely to draw from."""

    def __init__(self):
        self.mine = np.random.default_rng(0)
        self.transforms = [functools.partial(jitter, random.Random(4))]

    def __len__(self):
        return 12

    def __getitem__(self, index):
        drawn = [random.random(), np.random.rand(), torch.rand(()).item(), self.mine.random()]
        return torch.tensor([index, *drawn, at_module_level.random(), self.transforms[0](1.0)])


def jitter(source, value):
    return value + source.random()


def place(index, epoch=0, position=None, seed=0):
    return Place(index, seed, epoch, index if position is None else position)


def test_seeds_are_frozen():
    """Resumed runs draw with them: these numbers may never change."""
    assert derive(7, 1, 2)[0] == 16057356185368040566


def test_a_sample_is_the_same_whatever_was_computed_before():
    images = exact(Noisy())
    expected = images[place(5)]

    for index in (3, 9, 1):
        images[place(index)]
    random.seed(99)

    assert torch.equal(images[place(5)], expected)
    assert torch.equal(exact(Noisy())[place(5)], expected)


@pytest.mark.parametrize(
    "other",
    [place(5, epoch=1), place(5, position=6), place(5, seed=1)],
    ids=["epoch", "position", "seed"],
)
def test_every_number_changes_with_epoch_position_and_seed(other):
    images = exact(Noisy())
    one, two = images[place(5)], images[other]
    assert one[0] == two[0] == 5
    assert (one[1:] != two[1:]).all()


def test_the_main_process_keeps_its_generators():
    images = exact(Noisy())
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    images.__getitems__([place(1), place(2)])
    assert before == (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}], ids=["new", "persistent"])
def test_workers_compute_what_the_main_process_computes(options):
    def epochs(workers, **options):
        sampler = ExactSampler(12, seed=4)
        batches = DataLoader(exact(Noisy()), 4, sampler=sampler, num_workers=workers, **options)
        found = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            found += list(batches)
        return torch.cat(found)

    assert torch.equal(epochs(2, **options), epochs(0))


def test_getitem_is_given_a_generator_if_it_takes_one():
    class Pure(Dataset):
        def __getitem__(self, index, generator=None):
            return torch.rand(2, generator=generator)

    one, two = exact(Pure())[place(3)], exact(Pure())[place(3)]

    assert torch.equal(one, two)
    assert not torch.equal(one, exact(Pure())[place(4)])


def test_a_generator_that_is_made_while_loading_is_found():
    class Late(Dataset):
        rng = None

        def __getitem__(self, index):
            if self.rng is None:
                self.rng = np.random.default_rng()  # seeded by the clock
            return self.rng.random()

    assert exact(Late())[place(3)] == exact(Late())[place(3)]


def test_a_source_that_cannot_be_seeded_is_said():
    class Clock(Dataset):
        def __getitem__(self, index):
            return {"noise": [os.urandom(8)]}

    with pytest.warns(UserWarning, match=r"Clock gives different values.*os\.urandom"):
        exact(Clock())[place(3)]


def test_plain_indices_are_the_plain_data_set():
    assert exact([10, 11, 12])[1] == 11
    assert exact(["a"]).__getitems__([0]) == ["a"]


def test_plain_indices_in_a_worker_are_refused():
    batches = DataLoader(exact([1, 2, 3]), num_workers=1)
    with pytest.raises(UsageError, match="plain index 0 in a data worker"):
        list(batches)


def test_exact_within_exact_follows_the_outer_one():
    outer = exact(Subset(exact(Noisy()), [5, 6]))
    one = outer.__getitems__([place(0)])[0]
    two = outer.__getitems__([place(0, epoch=1)])[0]
    assert one[0] == two[0] == 5
    assert not torch.equal(one, two)


def test_exact_is_idempotent_and_shows_the_data_set():
    images = exact(Noisy())
    assert exact(images) is images
    assert len(images) == 12
    assert images.transforms
    with pytest.raises(AttributeError, match="nothing"):
        images.nothing  # noqa: B018
    assert len(copy(exact([1, 2]))) == 2  # to spawned workers


def test_keys_that_are_no_integers_keep_their_place():
    images = exact({"cat": 1})
    assert images[Keyed("cat", 0, 0, 0)] == 1
    keyed = copy(Keyed(("cat", 3), 1, 2, 3))
    assert (keyed.key, keyed.seed, keyed.epoch, keyed.position) == (("cat", 3), 1, 2, 3)
    placed = copy(place(4, epoch=2))
    assert (placed, placed.epoch, placed.position) == (4, 2, 4)


def test_the_search_for_generators_ends():
    class Knot:
        pass

    knot = Knot()
    knot.me, knot.names, knot.rng = knot, ["x"] * 10**6, random.Random(1)
    assert generators_of(knot) == [knot.rng]


def test_a_stream_draws_by_the_count_of_its_worker():
    class Numbers(IterableDataset):
        def __iter__(self):
            for _ in range(6):
                yield random.random() + torch.rand(()).item()

    def served(workers, epoch=0):
        stream = exact(Numbers())
        stream.set_epoch(epoch)
        return torch.cat(list(DataLoader(stream, 2, num_workers=workers))).tolist()

    before = random.getstate()
    assert served(0) == served(0)
    assert random.getstate() == before
    assert served(2) == served(2)
    assert served(0)[0] != served(0, epoch=1)[0]
    assert len(set(served(2))) == 12  # no two workers draw the same


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), False),
        ({"a": [1, "x"]}, {"a": [1, "x"]}, True),
        ({"a": [1, "x"]}, {"a": [1, "y"]}, False),
        (np.zeros(2), np.ones(2), False),
        (float("nan"), float("nan"), True),
        (1, 1.0, False),
        (object(), object(), True),
    ],
)
def test_samples_are_compared_by_their_bits(one, other, equal):
    assert same(one, other) is equal


def test_samples_that_hold_themselves_can_be_compared():
    one, two = [], []
    one.append(one)
    two.append(two)
    assert same(one, two)


def test_a_sample_costs_microseconds():
    images = exact(list(range(1000)))
    places = [place(i) for i in range(1000)]
    images.__getitems__(places[:1])
    start = time.process_time()
    images.__getitems__(places)
    seconds = (time.process_time() - start) / 1000
    if seconds > 100e-6:
        warnings.warn(f"{seconds * 1e6:.0f} us per sample", stacklevel=1)
