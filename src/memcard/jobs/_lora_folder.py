"""PEFT's folders: where the weights of an adapter lie in them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from memcard.errors import MismatchError
from memcard.jobs.resolve import locate

WEIGHTS: Final = "adapter_model"


def lora_files(ref: str | Path) -> dict[str, Path]:
    """Return component to file; a file that holds all of them is under ``""``.

    Args:
        ref: path or name of a file, a folder PEFT wrote, or a folder of such folders, one for each
            component.

    Raises:
        MismatchError: there is no adapter in the folder.
        NotFoundError: nothing has this name.
    """
    path = locate(ref)
    if not path.is_dir():
        return {"": path}
    name = f"{WEIGHTS}.safetensors"
    if (path / name).is_file():
        return {"": path / name}
    found = {p.parent.name: p for p in sorted(path.glob(f"*/{name}"))}
    if not found:
        raise MismatchError(f"{path}: no {name} in this folder. Name the LoRA's file.")
    return found


def lora_file(ref: str | Path) -> str | Path:
    """Return what stands for a LoRA: the name as it is, or the one file in a folder of PEFT's.

    Raises:
        MismatchError: the folder has none, or one for each of several components.
    """
    if not locate(ref).is_dir():
        return ref
    files = lora_files(ref)
    if len(files) > 1:
        raise MismatchError(
            f"{ref}: holds {len(files)} adapters. Name each of them: "
            f"{', '.join(str(path) for path in files.values())}."
        )
    return next(iter(files.values()))
