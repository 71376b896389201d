"""Start the two programs that look at forged files: a careless loader and memcard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EXIT_CODES = {"UnsafeError": 3, "CorruptError": 4, "UnsupportedError": 5}
VERDICTS = {"UnsafeError": "unsafe", "CorruptError": "corrupt", "UnsupportedError": "unsupported"}


def careless(reader: str, *files: Path) -> str:
    """Load files as one should not; return what it complained about."""
    done = subprocess.run(
        [sys.executable, str(HERE / "careless.py"), reader, *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    return done.stderr


def judge(files: Mapping[str, Path], out: Path) -> dict[str, dict[str, Any]]:
    """Ask memcard about files, with 200 MB of memory and 5 s for each question."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(HERE / "judge.py"), str(out)]
        + [str(file) for file in files.values()],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        # One arena: threads that reserve address space would count as memory.
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(files), done.stderr[-3000:]
    return dict(zip(files, lines, strict=True))
