"""Engines, one file each: how one kind of model turns words and noise into pixels."""

from __future__ import annotations

from memcard.core.registry import Registry
from memcard.generation.engine import Engine

__all__ = ["ENGINES", "engine_of", "runnable"]

ENGINES: Registry[Engine] = Registry("memcard.generation.engines")


def engine_of(family: str) -> Engine | None:
    """Return the engine that runs a family; None if there is none."""
    return next((engine for engine in ENGINES.values() if family in engine.families), None)


def runnable() -> tuple[str, ...]:
    """Return the names of all families that can generate."""
    return tuple(family for engine in ENGINES.values() for family in engine.families)
