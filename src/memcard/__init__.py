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
    from memcard.jobs.convert import convert
    from memcard.jobs.diff import diff
    from memcard.jobs.generate import generate
    from memcard.jobs.inspect import inspect
    from memcard.jobs.library import Library
    from memcard.jobs.load import load
    from memcard.jobs.merge import merge
    from memcard.jobs.open import open  # noqa: A004  # the contract's name

__all__ = [
    "Library",
    "__version__",
    "bake",
    "convert",
    "diff",
    "errors",
    "generate",
    "inspect",
    "load",
    "merge",
    "open",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'memcard' has no attribute {name!r}")
    if name == "errors":
        return import_module("memcard.errors")
    value = getattr(import_module(f"memcard.jobs.{name.lower()}"), name)
    globals()[name] = value  # the submodule of the same name must not shadow the function
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
