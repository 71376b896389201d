"""Packages that libraries load when they see them, though the command that runs needs nothing of theirs."""

from __future__ import annotations

import sys
from typing import Final, cast

from memcard.core.collector import OURS

# With them an import of diffusers and transformers loads 800 modules more, which is a second of four:
# diffusers for adapters of its own (ours are recipes), transformers for losses of object detection.
_SPARED: Final = ("peft", "scipy")
_COMMANDS: Final = frozenset(("compare", "demo", "generate", "pick", "tune"))


def leave_out(command: str = "") -> None:
    """Let nothing of this process import what a command does not need; only for a process that is ours.

    Python's own way: a module that is None cannot be imported, and nobody finds it installed.
    """
    if command in _COMMANDS:
        modules = cast("dict[str, object]", sys.modules)
        for name in _SPARED:
            modules.setdefault(name, None)
        OURS.append(True)
