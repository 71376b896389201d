"""How the process that trains was started, so that the same can be started again."""

from __future__ import annotations

import os
import platform
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


def command() -> dict[str, Any]:
    """Return ``argv``, ``cwd``, ``pid``, ``host`` and ``at`` of this process, as JSON values.

    ``argv`` begins with the interpreter. It is left out where there is nothing to start again: in a notebook,
    or at a prompt. Of one process of several, ``launcher`` is what started them, where that can be known.
    """
    found: dict[str, Any] = {"pid": os.getpid(), "host": platform.node(), "at": time.time()}
    with suppress(OSError):  # the folder may be gone
        found["cwd"] = str(Path.cwd())
    if not _is_prompt():
        found["argv"] = [sys.executable, *sys.orig_argv[1:]]
    if int(os.environ.get("WORLD_SIZE") or 1) > 1 and (parent := _of_parent()):
        found["launcher"] = parent
    return found


def _is_prompt() -> bool:
    return bool(getattr(sys, "ps1", None)) or "ipykernel" in sys.modules or len(sys.orig_argv) < 2


def _of_parent() -> list[str]:
    """Return the arguments of the parent: torchrun, accelerate; [] where the system does not tell."""
    try:
        raw = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode("utf-8", "surrogateescape") for part in raw.split(b"\0")[:-1]]
