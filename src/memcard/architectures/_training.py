"""Saves of trainings: known by what their metadata says, and by nothing that they hold.

The names of a save begin with the section they are of: ``model.``, ``optimizer.``, ``ema.`` and so on. Specification:
``docs/spec/training.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

FACTS: Final = "memcard.training"
CARD: Final = "memcard.card"
SECTIONS: Final = ("model", "optimizer", "scheduler", "ema", "scaler", "data", "extra", "random")


def is_training(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata is that of a training save, whatever lies in it."""
    return FACTS in metadata or _object(metadata.get(CARD, "")).get("kind") == "training"


def section(name: str) -> str:
    """Return which part of a training a tensor is of; ``other`` where its name begins with no section."""
    first = name.partition(".")[0]
    return first if first in SECTIONS else "other"


def told(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a save says of itself, one sentence each."""
    facts = _object(metadata.get(FACTS, ""))
    step, name = facts.get("step"), facts.get("name")
    if not isinstance(step, int):
        return ("its metadata says that it is a training save",)
    return (f"its metadata says that it is a training save, after step {step} of {name}",)


def _object(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
