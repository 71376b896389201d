"""SIGTERM, SIGINT and SIGUSR1 become a wish to save and end; a second one ends at once.

A handler only notes the signal: the state of a training is whole between two steps, not wherever a signal
arrives. Data workers are forks and inherit handlers; in those, Ctrl-C is left to the trainer, and everything
else does what it would have done.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

_NAMES: Final = ("SIGTERM", "SIGINT", "SIGUSR1")


class Signals:
    """Handlers for as long as a run lasts."""

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self.received: int | None = None
        self._say = say
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()

    @property
    def why(self) -> dict[str, str]:
        """What a log says of a training that ends now: the signal, if one came."""
        return {} if self.received is None else {"signal": signal.Signals(self.received).name}

    def install(self) -> None:
        """Take the signals; does nothing outside of the main thread, where Python allows no handlers."""
        if threading.current_thread() is not threading.main_thread() or self._before:
            return
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None:
                before = signal.signal(number, self._note)
                self._before[number] = signal.SIG_DFL if before is None else before

    def restore(self) -> None:
        """Put back the handlers there were."""
        if threading.current_thread() is not threading.main_thread() or os.getpid() != self._pid:
            return
        for number, before in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, before)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            if number != signal.SIGINT:
                self._default(number)
            return
        if self.received is not None:
            self.restore()
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            self._default(number)
            return
        self.received = int(number)
        self._say(
            f"{signal.Signals(number).name}: saving after this step, then ending; once more ends at once."
        )

    @staticmethod
    def _default(number: int) -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def end(self) -> None:
        """Raise what ends the process with the code a shell gives to this signal."""
        number, self.received = self.received, None
        if number is None:
            return
        self.restore()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)
