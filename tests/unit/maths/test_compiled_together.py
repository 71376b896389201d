"""Threads that need the compiled loops at the same moment get the same ones."""

import subprocess
import sys

import pytest

CHANGE = """
import numpy as np
from threading import Barrier, Thread
from memcard.maths import _delta_kernels as loops
wrong, barrier = [], Barrier(8)
half, base = np.arange(4096, dtype=np.float16) % 7, np.ones(4096)
def work():
    out = np.empty(4096)
    barrier.wait()
    for _ in range(200):
        loops.change(half, base, out)
    wrong.append(int((out != half.astype(float) - 1).sum()))
"""
NARROW = """
import numpy as np
from threading import Barrier, Thread
from memcard.maths import _kernels as loops
wrong, barrier = [], Barrier(8)
wide = np.arange(4096, dtype=np.float32)
def work():
    out = np.empty(4096, np.float16)
    barrier.wait()
    for _ in range(200):
        loops.narrow(wide, out, (23, 127), (10, 15, 0x7C00, 0x7E00))
    wrong.append(int((out != wide.astype(np.float16)).sum()))
"""
START = """
crew = [Thread(target=work) for _ in range(8)]
[t.start() for t in crew], [t.join() for t in crew]
print(wrong)
"""


@pytest.mark.parametrize("code", [CHANGE, NARROW], ids=["change", "narrow"])
def test_the_first_call_may_come_from_many_threads(code: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", code + START], capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split("\n")[-2] == str([0] * 8)
