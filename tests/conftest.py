"""Hypothesis for all tests: the same examples in every run, so that a red run means a change.

By default 50 of each, in CI 100 (``MEMCARD_HYPOTHESIS=steady``); ``MEMCARD_HYPOTHESIS=wide pytest`` looks for
500 new ones. No test uses or fills the library
or the cache of digests of whoever runs it.

PyTorch and BLAS have one thread each, here and in the processes that tests start: there is a worker for each
processor already, and two threads of both would wait for each other. Tests of threads ask for theirs.
"""

import gc
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch and numpy are imported: not yet

SLOW_MACHINE = [HealthCheck.too_slow]
settings.register_profile(
    "brief", deadline=None, derandomize=True, max_examples=50, suppress_health_check=SLOW_MACHINE
)
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=SLOW_MACHINE
)
settings.register_profile(
    "wide", deadline=None, max_examples=500, suppress_health_check=SLOW_MACHINE
)
settings.load_profile(os.environ.get("MEMCARD_HYPOTHESIS", "brief"))

os.environ["MEMCARD_CACHE"] = ""
os.environ["MEMCARD_HOME"] = str(Path(tempfile.gettempdir(), f"memcard-tests-{os.getpid()}"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Import the tests and what they test without looking for garbage: a third of the time, and none is found."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()  # nor is all that looked through while the tests run
        gc.enable()
