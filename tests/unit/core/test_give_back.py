"""What a compiler leaves in memory goes, and it still works afterwards."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memcard.core.compiled import address, assemble
from memcard.core.give_back import _clean, give_back, leave

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
ADD = "define i64 @add(i64 %x) {\n  %y = add i64 %x, NUMBER\n  ret i64 %y\n}\n"

RESIDENT = """
from memcard.core.compiled import assemble
assemble({source!r})
found, mine = 0, False
for line in open("/proc/self/smaps"):
    words = line.split()
    if not words[0].endswith(":"):
        mine = "libllvmlite" in line
    elif mine and words[0] == "Rss:":
        found += int(words[1])
print(found)
"""


def compiled(number: int) -> int:
    engine = assemble(ADD.replace("NUMBER", str(number)))
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(engine.get_function_address("add"))
    return int(call(1))


@linux
def test_the_compiler_takes_little_memory_once_it_is_done() -> None:
    script = RESIDENT.format(source=ADD.replace("NUMBER", "1"))

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)

    assert int(ran.stdout) < 20_000  # kB; 75,000 where nothing is given back


def test_the_compiler_works_again_after_its_pages_went() -> None:
    assert compiled(41) == 42
    leave("libllvmlite")
    assert compiled(1) == 2


@linux
def test_pages_that_were_changed_stay() -> None:
    """A mapping of a library that holds what the loader wrote into it must not be read from the disk again."""
    places = _clean("libllvmlite")
    lines = Path("/proc/self/maps").read_text().splitlines()
    writable = [line for line in lines if "libllvmlite" in line and "w" in line.split()[1]]

    begins = {begin for begin, _ in places}

    assert places
    assert writable
    assert not begins & {int(line.split("-")[0], 16) for line in writable}


def test_other_libraries_and_free_memory_may_go_at_any_time() -> None:
    values = np.arange(1 << 16)

    leave("no such library")
    give_back()

    assert values.sum() == (1 << 16) * ((1 << 16) - 1) // 2
    assert address(values) == values.ctypes.data
