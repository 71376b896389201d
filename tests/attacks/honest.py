"""All honest odd files. Each comes with the bytes its tensors must have, from arrays, not from a reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attacks import honest_plain, honest_torch, honest_trainers, sharded_saves
from attacks.honest_plain import Made


@dataclass(frozen=True)
class Honest:
    """A file that must be read.

    Attributes:
        make: takes an empty folder; returns what to open, and tensor name to bytes or array.
        format: of the content.
        note: what a note has to name, if one is due.
        more: whether the file may show further tensors (states of trainers).
    """

    make: Callable[[Path], Made]
    format: str
    note: str = ""
    more: bool = False

    @property
    def training(self) -> bool:
        """Whether convert leaves something out: states of the training."""
        return self.more or "training" in self.note


def raw(value: bytes | np.ndarray[Any, Any]) -> bytes:
    return value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes()


def _all(cases: Mapping[str, tuple[Any, ...]]) -> dict[str, Honest]:
    return {name: Honest(make, *rest) for name, (make, *rest) in cases.items()}


HONEST: dict[str, Honest] = {
    **_all(honest_torch.ZIP),
    **_all(honest_torch.LEGACY),
    **_all(honest_trainers.CASES),
    **_all(honest_plain.SAFETENSORS),
    **_all(honest_plain.GGUF),
    **_all(honest_plain.FOLDERS),
    **_all(sharded_saves.HONEST),
}
