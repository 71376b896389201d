"""Saves wait for an update of the weights, but not for ever."""

import pytest
import torch

from memcard.training import _updates
from memcard.training._updates import Updates


@pytest.fixture
def optimizer():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    return torch.optim.SGD([parameter], lr=0.1)


def test_only_a_step_of_an_optimizer_counts(optimizer):
    updates = Updates([optimizer], pytest.fail)
    assert not updates.happened()
    optimizer.step()
    assert updates.happened()
    assert not updates.happened()  # since the last look


def test_without_gradients_there_is_nothing_to_lose(optimizer):
    updates = Updates({"all": [optimizer]}, pytest.fail)
    assert not updates.happened()
    optimizer.zero_grad()
    assert updates.happened()


def test_a_step_of_any_of_several_counts(optimizer):
    other = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    updates = Updates([optimizer, other], pytest.fail)
    other.step()
    assert updates.happened()


def test_a_step_that_the_scaler_leaves_out_does_not_count(optimizer):
    scaler = torch.amp.GradScaler("cpu")
    updates = Updates([optimizer], pytest.fail)
    (parameter,) = optimizer.param_groups[0]["params"]
    parameter.grad = None
    scaler.scale(parameter.sum() * float("inf")).backward()
    scaler.step(optimizer)
    assert not updates.happened()


def test_what_is_no_optimizer_of_torch_is_not_waited_for():
    assert Updates(None, pytest.fail).happened()
    assert Updates([object()], pytest.fail).happened()


def test_an_optimizer_that_never_steps_is_given_up_and_that_is_said(optimizer, monkeypatch):
    monkeypatch.setattr(_updates, "GIVE_UP", 3)
    said = []
    updates = Updates([optimizer], said.append)
    assert [updates.happened() for _ in range(5)] == [False, False, True, True, True]
    assert len(said) == 1
    assert "accumulated" in said[0]


def test_nothing_is_watched_after_the_end(optimizer):
    updates = Updates([optimizer], pytest.fail)
    updates.end()
    optimizer.step()
    assert updates.happened()
