"""Hypothesis for all tests: the same examples in every run, so that a red run means a change.

By default 50 of each, in CI 100 (``MEMCARD_HYPOTHESIS=steady``); ``MEMCARD_HYPOTHESIS=wide pytest`` looks for
500 new ones. No test uses or fills the library
or the cache of digests of whoever runs it.
"""

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

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
