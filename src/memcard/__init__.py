"""Make, keep, change, share and run the checkpoints of image and video generators.

Every public name is loaded on first use, so that ``import memcard`` costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memcard._version import __version__

if TYPE_CHECKING:
    from memcard import errors
    from memcard.jobs.bake import bake
    from memcard.jobs.checkpointer import Checkpointer
    from memcard.jobs.compare import compare
    from memcard.jobs.convert import convert
    from memcard.jobs.diff import diff
    from memcard.jobs.finetune import finetune
    from memcard.jobs.generate import generate
    from memcard.jobs.generator import Generator
    from memcard.jobs.inspect import inspect
    from memcard.jobs.library import Library
    from memcard.jobs.load import load
    from memcard.jobs.merge import merge
    from memcard.jobs.open import open  # noqa: A004  # the contract's name
    from memcard.training.data import ExactSampler, exact
    from memcard.training.ema import EMA
    from memcard.training.keep import Keep

__all__ = [
    "EMA",
    "Checkpointer",
    "ExactSampler",
    "Generator",
    "Keep",
    "Library",
    "__version__",
    "bake",
    "compare",
    "convert",
    "diff",
    "errors",
    "exact",
    "finetune",
    "generate",
    "inspect",
    "load",
    "merge",
    "open",
]

_ELSEWHERE = {  # names that are no job
    "EMA": "memcard.training.ema",
    "ExactSampler": "memcard.training.data",
    "Keep": "memcard.training.keep",
    "exact": "memcard.training.data",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'memcard' has no attribute {name!r}")
    if name == "errors":
        return import_module("memcard.errors")
    where = _ELSEWHERE.get(name, f"memcard.jobs.{name.lower()}")
    value = getattr(import_module(where), name)
    globals()[name] = value  # the submodule of the same name must not shadow the function
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
