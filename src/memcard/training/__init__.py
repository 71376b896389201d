"""Save files of trainings, exact resuming, averages of weights, and fine-tuning.

The names below are loaded on first use. ``memcard.Checkpointer`` is the saver; what it stands on is here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memcard.training.data import ExactSampler, exact, loader
    from memcard.training.ema import EMA
    from memcard.training.keep import Keep
    from memcard.training.randomness import Randomness, RandomState

__all__ = ["EMA", "ExactSampler", "Keep", "RandomState", "Randomness", "exact", "loader"]

_WHERE = {
    "EMA": "ema",
    "ExactSampler": "data",
    "Keep": "keep",
    "RandomState": "randomness",
    "Randomness": "randomness",
    "exact": "data",
    "loader": "data",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'memcard.training' has no attribute {name!r}")
    value = getattr(import_module(f"memcard.training.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
