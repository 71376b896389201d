"""Batches go on where they were, bit for bit, for any loader; and fetching disturbs no generator."""

import json
import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from fixtures.long import mostly_slow
from memcard.errors import MismatchError, UsageError
from memcard.training._feed import Feed, is_feed_state
from memcard.training.data import ExactSampler, exact

# torchdata 0.11 calls what torch 2.13 lets go
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")

SIZE = 14  # 4 batches of 4, the last of 2


class Noisy(Dataset):
    def __init__(self, size=SIZE):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()])


def share():
    """The samples of this worker."""
    worker = get_worker_info()
    return range(worker.id, SIZE, worker.num_workers) if worker else range(SIZE)


class Stream(IterableDataset):
    """Knows no position."""

    def __iter__(self):
        for index in share():
            yield Noisy()[index]


class Tape(Stream):
    """Knows its position."""

    def __init__(self):
        self.at, self.resumed = 0, False

    def __iter__(self):
        self.at = self.at if self.resumed else 0
        self.resumed = False
        for index in share()[self.at :]:
            self.at += 1
            yield Noisy()[index]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at, self.resumed = state["at"], True


class CountsItself(Sampler):
    """Seeds itself with a count of epochs that no save has."""

    def __init__(self):
        self.epochs = 0

    def __len__(self):
        return SIZE

    def __iter__(self):
        self.epochs += 1
        yield from torch.randperm(
            SIZE, generator=torch.Generator().manual_seed(self.epochs)
        ).tolist()


class Names(Dataset):
    """Its keys are no integers."""

    def __getitem__(self, key):
        name, size = key
        return torch.rand(size), name


class Sizes(Sampler):
    def __iter__(self):
        for _ in range(4):
            yield [("a", 2), (random.choice("xyz"), 2)]


def noisy_collate(samples):
    return torch.stack(samples) + torch.rand(()) + random.random()


def deaf(loader_class, dataset, *arguments, **options):
    return lambda: loader_class(dataset(), *arguments, **options)


LOADERS = {
    "in order": deaf(DataLoader, Noisy, 4),
    "shuffle": deaf(DataLoader, Noisy, 4, shuffle=True),
    "one by one": deaf(DataLoader, Noisy, batch_size=None, shuffle=True),
    "collate": deaf(DataLoader, Noisy, 4, shuffle=True, collate_fn=noisy_collate),
    "drop last": deaf(DataLoader, Noisy, 4, shuffle=True, drop_last=True),
    "own generator": lambda: DataLoader(Noisy(), 4, shuffle=True, generator=torch.Generator()),
    "replacement": lambda: DataLoader(Noisy(), 4, sampler=RandomSampler(Noisy(), True, 40)),
    "weighted": lambda: DataLoader(Noisy(), 4, sampler=WeightedRandomSampler([1.0] * SIZE, SIZE)),
    "subset sampler": lambda: DataLoader(Noisy(), 4, sampler=SubsetRandomSampler(range(3, 12))),
    "distributed": lambda: DataLoader(
        Noisy(), 4, sampler=DistributedSampler(Noisy(), num_replicas=2, rank=1)
    ),
    "subset": lambda: DataLoader(Subset(Noisy(), range(3, 12)), 4, shuffle=True),
    "counts itself": lambda: DataLoader(Noisy(), 4, sampler=CountsItself()),
    "batch sampler": lambda: DataLoader(
        Noisy(), batch_sampler=sorted(BatchSampler(ExactSampler(SIZE), 4, False))
    ),
    "stock batch sampler": lambda: DataLoader(
        Noisy(), batch_sampler=BatchSampler(RandomSampler(Noisy()), 4, False)
    ),
    "stock batch sampler, exact": lambda: DataLoader(
        Noisy(), batch_sampler=BatchSampler(ExactSampler(SIZE), 4, True)
    ),
    "own batches": lambda: DataLoader(Noisy(), batch_sampler=Pairs(ExactSampler(SIZE))),
    "names": lambda: DataLoader(Names(), batch_sampler=Sizes()),
    "exact": lambda: DataLoader(exact(Noisy()), 4, sampler=ExactSampler(SIZE)),
    "exact, drop last": lambda: DataLoader(
        Noisy(), 4, sampler=ExactSampler(SIZE), drop_last=True
    ),
    "stateful": deaf(StatefulDataLoader, Noisy, 4, shuffle=True),
    "tape": deaf(DataLoader, Tape, 4),
    "stateful tape": deaf(StatefulDataLoader, Tape, 4),
    "list": lambda: list(torch.arange(12).view(4, 3)),
    # with workers
    "workers": deaf(DataLoader, Noisy, 4, shuffle=True, num_workers=2, collate_fn=noisy_collate),
    "persistent": lambda: DataLoader(
        exact(Noisy()), 4, sampler=ExactSampler(SIZE), num_workers=2, persistent_workers=True
    ),
    "stateful tape, workers": deaf(StatefulDataLoader, Tape, 4, num_workers=2),
}  # fmt: skip
# Processes of their own take seconds; one such is enough to see at once that it works.
QUICK = [name for name in LOADERS if name not in ("persistent", "stateful tape, workers")]
AGAIN = {  # what can only be read again, which is said
    "stream": deaf(DataLoader, Stream, 4),
    "stream, workers": deaf(DataLoader, Stream, 4, num_workers=2),
    "tape, workers": deaf(DataLoader, Tape, 4, num_workers=2),
}


class Pairs(Sampler):
    """Makes batches of its own from an ExactSampler, far from its order."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        indices = list(self.sampler)
        for a, b in zip(indices[::2], indices[:1:-2], strict=False):
            yield [a, b]


def train(make, *, stop=None, state=None, epochs=3):
    """Return what a training sees of each batch up to one at which it is interrupted, and the state then."""
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    feed = Feed(make())
    if state is not None:
        feed.load_state_dict(json.loads(json.dumps(state)))
    seen = []
    for batch in feed.batches(epochs=epochs):
        seen.append((feed.epoch, feed.batch, feed.ends_epoch, flat(batch)))
        torch.rand(len(seen))  # the training draws too
        if len(seen) == stop:
            break
    return seen, feed.state_dict()


def flat(batch):
    if isinstance(batch, torch.Tensor):
        return batch.tolist()
    return [flat(part) for part in batch] if isinstance(batch, (list, tuple)) else batch


def check(make):
    whole, _ = train(make)
    assert len({str(batch) for *_, batch in whole}) > 2
    per_epoch = sum(epoch == 0 for epoch, *_ in whole)
    for stop in (1, per_epoch, per_epoch + 2):  # in the first epoch, at its end, in the second
        first, state = train(make, stop=stop)
        rest, _ = train(make, state=state)
        assert first + rest == whole


@pytest.mark.parametrize("name", mostly_slow(LOADERS, *QUICK))
def test_a_resumed_feed_goes_on_where_it_was(name):
    check(LOADERS[name])


@pytest.mark.parametrize("name", mostly_slow(AGAIN, "stream"))
@pytest.mark.filterwarnings("ignore:.*are read again")
def test_what_knows_no_position_is_read_again(name):
    check(AGAIN[name])


@pytest.mark.parametrize("name", ["shuffle", "collate", "tape", "list", "stateful tape"])
def test_fetching_disturbs_no_generator(name):
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    deque = list(Feed(LOADERS[name]()).batches(epochs=2))

    assert len(deque) == 8
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before


def test_a_generator_that_the_user_shares_with_the_loader_is_not_disturbed():
    shared = torch.Generator().manual_seed(3)
    before = shared.get_state()
    list(Feed(DataLoader(Noisy(), 4, shuffle=True, generator=shared)).batches(epochs=1))
    assert torch.equal(shared.get_state(), before)


def test_the_seed_of_the_script_governs_order_and_samples_and_the_save_keeps_it():
    def first(seed, state=None):
        torch.manual_seed(seed)
        feed = Feed(LOADERS["shuffle"]())
        if state:
            feed.load_state_dict(state)
        return next(feed.batches()).tolist(), feed.state_dict()

    one, _ = first(1)
    assert one == first(1)[0] != first(2)[0]
    state = Feed(LOADERS["shuffle"](), seed=1).state_dict()
    assert first(2, state)[0] == one


def test_the_weights_of_samples_are_still_followed():
    weights = [0.0] * 7 + [1.0] * 7
    loader = DataLoader(Noisy(), 4, sampler=WeightedRandomSampler(weights, SIZE))
    drawn = torch.cat(list(Feed(loader).batches(epochs=3)))
    assert (drawn[:, 0] >= 7).all()
    # samples that are drawn twice in an epoch are augmented differently
    assert len(set(drawn[:, 1].tolist())) == len(drawn)


def test_a_batch_sampler_keeps_the_order_of_its_sampler():
    batches = BatchSampler(RandomSampler(range(100)), 50, False)
    feed = Feed(DataLoader(range(100), batch_sampler=batches), seed=1)

    order = [i for batch in feed.batches(epochs=1) for i in batch.tolist()]

    assert sorted(order) == list(range(100)) != order


def test_each_sample_comes_once_per_epoch_in_an_order_of_that_epoch():
    feed = Feed(DataLoader(Noisy(), 4, shuffle=True))
    orders = [torch.cat(list(feed.batches(epochs=e)))[:, 0].tolist() for e in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(SIZE))
    assert orders[0] != orders[1]


def test_another_batch_size_goes_on_at_the_same_sample():
    _, state = train(LOADERS["shuffle"], stop=2, epochs=1)
    rest, _ = train(deaf(DataLoader, Noisy, 3, shuffle=True), state=state, epochs=1)
    whole, _ = train(LOADERS["shuffle"], epochs=1)

    def order(seen):
        return [sample[0] for *_, batch in seen for sample in batch]

    assert order(rest) == order(whole)[8:]


def test_data_that_changed_is_said():
    _, state = train(LOADERS["shuffle"], stop=2)
    with pytest.warns(UserWarning, match="does not give the order of before"):
        train(deaf(DataLoader, lambda: Noisy(SIZE + 1), 4, shuffle=True), state=state)


def test_reading_again_is_said():
    _, state = train(AGAIN["stream"], stop=2)
    with pytest.warns(UserWarning, match="2 batches are read again"):
        train(AGAIN["stream"], state=state)


def test_a_loader_of_another_kind_is_refused():
    _, state = train(LOADERS["shuffle"], stop=2)
    with pytest.raises(MismatchError, match=r"'replay stock'.*'sampler'"):
        train(LOADERS["exact"], state=state)


def test_another_number_of_workers_of_a_stream_is_refused():
    _, state = train(LOADERS["tape"], stop=2)
    with pytest.raises(MismatchError, match="num_workers=0, now it is 2"):
        train(LOADERS["stateful tape, workers"], state=state)


def test_another_number_of_ranks_is_refused_for_a_foreign_sampler():
    _, state = train(LOADERS["shuffle"], stop=2)
    state["source"]["world"] = 2
    with pytest.raises(MismatchError, match=r"2 ranks and there are 1 now.*ExactSampler"):
        train(LOADERS["shuffle"], state=state)


def test_batches_out_of_order_are_said_and_served_in_order():
    with pytest.warns(UserWarning, match="in_order=False"):
        Feed(DataLoader(Noisy(), 4, num_workers=2, in_order=False))


@pytest.mark.parametrize(
    "loader", [[], DataLoader(Noisy(3), 4, drop_last=True)], ids=["[]", "drop"]
)
def test_an_epoch_without_a_batch_is_refused(loader):
    with pytest.raises(UsageError, match="Epoch 0 has no batch"):
        next(Feed(loader).batches())


def test_an_iterator_is_served_once():
    assert list(Feed(iter([1, 2])).batches()) == [1, 2]


def test_what_knows_its_own_position_is_asked_for_it():
    class Own:
        at = 0

        def __iter__(self):
            while self.at < 5:
                self.at += 1
                yield self.at
            self.at = 0

        def state_dict(self):
            return {"at": self.at}

        def load_state_dict(self, state):
            self.at = state["at"]

    check(Own)


def test_the_feed_covers_loader_sampler_and_data_set():
    sampler, images = ExactSampler(SIZE), exact(Noisy())
    loader = DataLoader(images, 4, sampler=sampler)
    feed = Feed(loader)
    covered = (loader, sampler, loader.batch_sampler, images, images.dataset)
    assert all(map(feed.covers, covered))
    assert not feed.covers(ExactSampler(SIZE))
    assert not feed.covers(None)
    assert is_feed_state(feed.state_dict())
    assert not is_feed_state(sampler.state_dict())


def test_the_users_loader_is_not_changed():
    loader = DataLoader(Noisy(), 4, shuffle=True)
    before = dict(vars(loader))
    list(Feed(loader).batches(epochs=1))
    assert vars(loader) == before
