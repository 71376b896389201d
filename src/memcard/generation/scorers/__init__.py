"""Scorers, one file each: how good a picture is, in one respect."""

from __future__ import annotations

from memcard.core.registry import Registry
from memcard.generation.scorer import Scorer

__all__ = ["SCORERS"]

SCORERS: Registry[Scorer] = Registry("memcard.generation.scorers")
