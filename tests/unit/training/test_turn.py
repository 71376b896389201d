"""A save of a loop's body is written when the body ends, as things are then."""

import random

import numpy as np
import pytest
import torch

from memcard.training._turn import Turn, mark
from memcard.training.checkpointer import Checkpointer
from memcard.training.saves import OpenSave, name_of


def test_outside_of_a_loop_there_is_nothing_to_wait_for():
    written = []
    Turn().hold(lambda: written.append(1))
    assert written == [1]


def test_within_a_turn_a_save_is_held():
    turn, written = Turn(), []
    with turn:
        turn.hold(lambda: written.append(1))
    assert written == []
    turn.write()
    turn.write()
    assert written == [1]


def test_a_turn_that_fails_writes_what_was_copied():
    turn, written = Turn(), []

    def fail():
        with turn:
            turn.hold(lambda: written.append(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert written == [1]


def test_what_is_dropped_is_not_written():
    turn = Turn()
    with turn:
        turn.hold(pytest.fail)
        turn.drop()
    turn.write()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.add_(1),
        lambda t: t.data.mul_(2),
        lambda t: t[-1].add_(1),
    ],
    ids=["in place", "through .data", "at the end"],
)
def test_a_changed_tensor_is_noticed(change):
    tensor = torch.full((100,), float("nan"))
    tensor[0] = 1
    before = mark({"step": 1}, {"w": tensor})
    assert mark({"step": 1}, {"w": tensor}) == before
    change(tensor)
    assert mark({"step": 1}, {"w": tensor}) != before


AFTER = {
    "python": random.random,
    "numpy": np.random.rand,
    "torch": lambda: torch.rand(1),
    "scheduler": None,
}


@pytest.mark.parametrize("name", AFTER)
def test_what_comes_after_step_is_in_the_save(tmp_path, name):
    def states(after_step):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        work = AFTER[name] or scheduler.step
        folder = tmp_path / str(after_step)
        with Checkpointer(folder, scheduler=scheduler, every=1, signals=False) as ck:
            for step, _ in ck.loop([1, 2], epochs=1):
                optimizer.step()
                if not after_step:
                    work()
                ck.step(step)
                if after_step:
                    work()
        return [saved(folder / name_of(step)) for step in (1, 2)]

    assert states(after_step=True) == states(after_step=False)


def test_a_loop_left_by_break_keeps_the_save_of_its_last_step(tmp_path):
    with Checkpointer(tmp_path, every=1, signals=False) as ck:
        for step, _ in ck.loop([1, 2, 3]):
            ck.step(step)
            if step == 2:
                break
        random.random()

    assert (tmp_path / name_of(2)).exists()


def test_gradients_that_are_accumulated_delay_a_save(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    done = []
    with Checkpointer(tmp_path, optimizer=optimizer, every=2, signals=False) as ck:
        for step, _ in ck.loop([1] * 9, epochs=1):
            weight.sum().backward()
            if step % 3 == 0:
                optimizer.step()
                optimizer.zero_grad()
            if ck.step(step):
                done.append(step)

    assert done == [3, 6, 9]


def saved(path):
    with OpenSave(path) as found:
        tensors = {name: bytes(found.file.read(name)) for name in found.file.specs}
        return found.tree, tensors
