"""Hypothesis for all tests: the same examples in every run, so that a red run means a change.

``MEMCARD_HYPOTHESIS=wide pytest`` looks for new ones, five times as many. No test uses or fills the library
or the cache of digests of whoever runs it.
"""

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

SLOW_MACHINE = [HealthCheck.too_slow]
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=SLOW_MACHINE
)
settings.register_profile(
    "wide", deadline=None, max_examples=500, suppress_health_check=SLOW_MACHINE
)
settings.load_profile(os.environ.get("MEMCARD_HYPOTHESIS", "steady"))

os.environ["MEMCARD_CACHE"] = ""
os.environ["MEMCARD_HOME"] = str(Path(tempfile.gettempdir(), f"memcard-tests-{os.getpid()}"))
