"""A signal becomes a wish; a second one ends at once; forks are left alone."""

import os
import signal
import threading

import pytest

from memcard.training._signals import Signals


@pytest.fixture
def signals():
    said = []
    found = Signals(said.append)
    found.said = said
    found.install()
    yield found
    found.restore()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_is_noted_and_ends_with_the_code_of_a_shell(signals, name):
    number = getattr(signal, name)
    os.kill(os.getpid(), number)

    assert signals.received == number
    assert name in signals.said[0]
    with pytest.raises(SystemExit) as caught:
        signals.end()
    assert caught.value.code == 128 + number


def test_ctrl_c_ends_as_such(signals):
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signals.end()


def test_no_signal_ends_nothing(signals):
    signals.end()


def test_a_second_ctrl_c_ends_at_once(signals):
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    signals = Signals()
    signals.install()
    assert signal.getsignal(signal.SIGTERM) not in before
    signals.restore()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_handlers_that_came_later_stay():
    signals, later = Signals(), lambda *args: None
    before = signal.getsignal(signal.SIGUSR1)
    signals.install()
    signal.signal(signal.SIGUSR1, later)
    try:
        signals.restore()
        assert signal.getsignal(signal.SIGUSR1) is later
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_in_another_thread_it_does_nothing():
    signals = Signals()
    thread = threading.Thread(target=signals.install)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("name", "ends"), [("SIGTERM", True), ("SIGINT", False)])
def test_forks_end_on_sigterm_and_leave_ctrl_c_to_the_trainer(signals, name, ends):
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), getattr(signal, name))
        os._exit(0)
    status = os.waitpid(pid, 0)[1]

    assert os.WIFSIGNALED(status) is ends
    assert signals.received is None
