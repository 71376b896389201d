"""Runs ``script.py`` of a folder as ``python script.py`` does there, in a fork that has imported the trainers."""

import importlib
import os
import runpy
import sys
from pathlib import Path


def prepare(words):
    """Import what takes seconds."""
    for name in ("accelerate", "lightning.pytorch", "transformers.trainer"):
        importlib.import_module(name)


def command(words):
    """Be the script."""
    folder = Path(words[0])
    os.environ |= {"MEMCARD_HOME": str(folder / "home"), "CUDA_VISIBLE_DEVICES": ""}
    os.chdir(folder)
    sys.argv = ["script.py"]
    sys.path.insert(0, str(folder))
    runpy.run_path("script.py", run_name="__main__")
