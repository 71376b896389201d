"""Threads for long lists of small tensor operations on the processor.

torch splits every single operation over its threads and waits for all of them at the end of each. With
hundreds of operations, and another program on one of the processors, nearly all time goes into that waiting:
an EMA of 100 M parameters took 2200 ms in place of 35 (measured with two threads at a load of 14 on two
processors). Here each thread takes a share of the list and works alone; they meet once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier
from typing import Final

import torch

_crews: Final[dict[int, ThreadPoolExecutor]] = {}


def together(jobs: Sequence[Callable[[], None]]) -> None:
    """Do all jobs at the same time, each in a thread with which torch uses no others.

    An interrupt is let through when all are done, so that nothing is written to afterwards.
    """
    if len(jobs) == 1:
        jobs[0]()
        return
    waiting = [_crew(len(jobs)).submit(job) for job in jobs]
    held: BaseException | None = None
    while not all(future.done() for future in waiting):
        try:
            wait(waiting)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            held = interrupt
    for future in waiting:
        future.result()
    if held is not None:
        raise held


def _crew(count: int) -> ThreadPoolExecutor:
    if count not in _crews:
        threads, ready = torch.get_num_threads(), Barrier(count)
        crew = ThreadPoolExecutor(count, thread_name_prefix="memcard-ema")
        for future in [crew.submit(_alone, ready) for _ in range(count)]:
            future.result()
        # In a thread it is set for that thread, and for all that are born later: those get the old number.
        torch.set_num_threads(threads)
        _crews[count] = crew
    return _crews[count]


def _alone(ready: Barrier) -> None:
    torch.get_num_threads()  # the first question sets it, so that comes before
    torch.set_num_threads(1)
    ready.wait()  # or one quick thread would take all of these


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_crews.clear)  # the child has none of the threads
