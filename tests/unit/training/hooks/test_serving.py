"""What the hooks share."""

import inspect

import pytest
import torch
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter
from torch.utils.data import DataLoader, IterableDataset

from memcard.core.registry import Registry
from memcard.errors import UnsupportedError, UsageError
from memcard.training.checkpointer import Checkpointer
from memcard.training.hooks._serving import Reported, Serving, extras, few


class Endless(IterableDataset):
    def __iter__(self):
        yield from range(3)


class Listener:
    def __init__(self):
        self.heard = []

    def step(self, step, metrics):
        self.heard.append((step, metrics))


@pytest.fixture
def checkpointer(tmp_path):
    with Checkpointer(tmp_path, model=torch.nn.Linear(1, 1), signals=False) as ck:
        yield ck


def test_every_iteration_goes_on_where_the_last_one_was_left(checkpointer):
    serving = Serving(DataLoader(torch.arange(4), 1), lambda: None)
    serving.begin(checkpointer)

    first = [int(batch) for batch, _ in zip(serving, range(3), strict=False)]
    # zip has taken one more, which was lost to it
    second = [int(batch) for batch, _ in zip(serving, range(2), strict=False)]

    assert (first, second) == ([0, 1, 2], [0, 1])
    assert len(serving) == 4


def test_steps_are_reported_before_the_next_batch_is_fetched(checkpointer):
    events = []
    serving = Serving(DataLoader(torch.arange(2), 1), lambda: events.append("report"))
    serving.begin(checkpointer)

    for batch in serving:
        events.append(int(batch))
        if len(events) == 4:
            break

    assert events == ["report", 0, "report", 1]


def test_making_an_iterator_fetches_nothing(checkpointer):
    serving = Serving(DataLoader(torch.arange(2), 1), lambda: None)
    serving.begin(checkpointer)

    for _ in range(3):
        iter(serving)

    assert int(next(iter(serving))) == 0


def test_a_loader_without_a_length_is_refused():
    with pytest.raises(UnsupportedError, match=r"DataLoader over Endless.*no length"):
        Serving(DataLoader(Endless()), lambda: None)


def test_each_step_is_reported_once_with_the_metrics_since_the_last():
    listener = Listener()
    reported = Reported(listener, 2)
    reported.measured({"loss": torch.tensor(0.5), "name": "a", "all": torch.ones(2)})

    for step in (2, 3, 3, 4):
        reported.step(step)

    assert listener.heard == [(3, {"loss": 0.5}), (4, {})]


@pytest.mark.parametrize(
    ("given", "names"),
    [(None, ["x"]), ({"a": 1}, ["a", "x"]), ([1, 2], ["0", "1", "x"]), (object(), ["own", "x"])],
)
def test_what_the_user_keeps_stays_beside_what_a_hook_keeps(given, names):
    assert sorted(extras(given, "x", 0)) == names


def test_a_name_of_the_hook_is_refused():
    with pytest.raises(UsageError, match="'x'"):
        extras({"x": 1}, "x", 0)


def test_few_leaves_no_list_of_one():
    assert (few([]), few([1]), few([1, 2])) == (None, 1, [1, 2])


HOOKS = Registry("memcard.training.hooks")


def test_the_shelf_knows_its_hooks():
    assert {"accelerate", "dcp", "hf_trainer", "lightning"} <= set(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_of_the_shelf_is_made_for_a_checkpointer_or_is_storage(name):
    """Each is loaded; so a file without its entry is found here, not by a user."""
    hook = HOOKS[name]
    if name == "dcp":
        assert issubclass(hook.writer, StorageWriter)
        assert issubclass(hook.reader, StorageReader)
        return
    first, *others = inspect.signature(hook).parameters.values()
    assert "Checkpointer" in str(first.annotation)
    assert "folder" in [each.name for each in others]
    assert others[-1].kind is others[-1].VAR_KEYWORD
