"""Loaders that Accelerate has prepared are served as it would serve them, and go on where they were."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from memcard.training._feed import Feed
from memcard.training._prepared import undivided
from memcard.training.data import ExactSampler

NUMBERS = torch.arange(10)


def prepared(loader, **options):
    return prepare_data_loader(loader, device=torch.device("cpu"), put_on_device=True, **options)


def served(feed, epochs=2):
    return [(feed.epoch, feed.batch, batch.tolist()) for batch in feed.batches(epochs=epochs)]


@pytest.mark.parametrize("options", [{"shuffle": True}, {"sampler": ExactSampler(10)}])
def test_it_goes_on_where_it_was(options):
    whole = served(Feed(prepared(DataLoader(NUMBERS, 4, **options)), seed=1))
    feed = Feed(prepared(DataLoader(NUMBERS, 4, **options)), seed=1)
    batches = feed.batches()
    for _ in range(4):
        next(batches)

    again = Feed(prepared(DataLoader(NUMBERS, 4, **options)), seed=1)
    again.load_state_dict(feed.state_dict())

    assert served(again) == whole[4:]


def test_the_accelerator_hears_of_the_end_of_an_epoch():
    accelerator = Accelerator(cpu=True)
    feed = Feed(prepared(DataLoader(NUMBERS, 4)), seed=1)

    ends = [accelerator.gradient_state.end_of_dataloader for _ in feed.batches(epochs=2)]

    assert ends == [False, False, True] * 2
    assert not accelerator.gradient_state.in_dataloader


def test_two_processes_share_the_samples_of_an_epoch():
    parts = [
        Feed(
            prepared(DataLoader(NUMBERS, 5, shuffle=True), num_processes=2, process_index=rank),
            seed=1,
        )
        for rank in range(2)
    ]

    both = [number for feed in parts for *_, batch in served(feed, epochs=1) for number in batch]

    assert sorted(both) == NUMBERS.tolist()


@pytest.mark.parametrize("split", [False, True])
def test_an_exact_sampler_is_divided_once(split):
    loaders = [
        prepared(
            DataLoader(NUMBERS, 4 if split else 2, sampler=ExactSampler(10, rank=rank, world=2)),
            num_processes=2,
            process_index=rank,
            split_batches=split,
        )
        for rank in range(2)
    ]
    feeds = [Feed(loader, seed=1) for loader in loaders]

    both = [[batch for *_, batch in served(feed, epochs=1)] for feed in feeds]

    numbers = [number for one in both for batch in one for number in batch]
    assert sorted(numbers) == NUMBERS.tolist()
    assert [len(loader) for loader in loaders] == [3, 3]
    assert [[len(batch) for batch in one] for one in both] == [[2, 2, 1]] * 2
    # iterated without memcard it is divided once, too
    assert {i for loader in loaders for b in loader.batch_sampler for i in b} == set(range(10))


def test_other_batch_samplers_stay_divided():
    batches = BatchSamplerShard(BatchSampler(RandomSampler(NUMBERS), 4, False), 2, 1)

    assert undivided(batches) is batches
    assert batches.num_processes == 2


def test_a_loader_that_rank_0_reads_is_read_again():
    def make():
        return prepared(DataLoader(NUMBERS, 4, shuffle=True), dispatch_batches=True)

    feed = Feed(make(), seed=1)
    whole = served(feed)
    again = Feed(make(), seed=1)
    again.load_state_dict({**feed.state_dict(), "epoch": 1, "batch": 1})

    with pytest.warns(UserWarning, match="1 batches are read again"):
        assert served(again) == whole[4:]


def test_the_feed_covers_the_loader_in_it():
    loader = prepared(DataLoader(NUMBERS, 4, sampler=ExactSampler(10)))

    assert Feed(loader, seed=1).covers(loader)
    assert Feed(loader, seed=1).covers(loader.base_dataloader)
