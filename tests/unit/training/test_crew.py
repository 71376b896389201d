"""Threads that work alone, and meet once."""

import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

from memcard.training import _crew
from memcard.training._crew import together
from memcard.training.ema import EMA


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_torch_uses_one_thread_there_and_as_many_as_before_elsewhere():
    inside, later = [], []

    together([lambda: inside.append(torch.get_num_threads())] * 2)
    other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    other.start()
    other.join()

    assert inside == [1, 1]
    assert later == [2]
    assert torch.get_num_threads() == 2


def test_one_job_is_done_here():
    where = []
    together([lambda: where.append(threading.current_thread())])

    assert where == [threading.current_thread()]


def test_an_error_comes_through():
    with pytest.raises(ZeroDivisionError):
        together([lambda: None, lambda: 1 / 0])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
def test_an_interrupt_waits_until_nobody_writes_any_more():
    done = []

    def slow():
        time.sleep(0.3)
        done.append(1)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            together([slow, slow])
    finally:
        signal.signal(signal.SIGALRM, before)

    assert done == [1, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of every fork
def test_a_forked_process_makes_its_own():
    together([lambda: None] * 2)
    child = os.fork()
    if child == 0:
        os._exit(len(_crew._crews))

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _crew._crews


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(dtype):
    torch.manual_seed(0)
    model = nn.ParameterList(
        [nn.Parameter(torch.randn(s)) for s in [(1100, 1100), (900, 1000), (7,), (600, 33, 3, 3)]]
    ).to(dtype)
    both, alone = EMA(model, [0.9, 0.99]), EMA(model, [0.9, 0.99])
    torch.set_num_threads(1)
    alone.update()
    torch.set_num_threads(2)
    both.update()

    with torch.no_grad():
        for p in model:
            p.mul_(1.5)
    both.update()
    alone.update()

    assert len(both._plan._shares) == 2
    assert len(alone._plan._shares) == 1
    for name in both.names:
        ours, theirs = both.weights(name), alone.weights(name)
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
