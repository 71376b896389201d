"""All damaged files. Several right verdicts are written ``corrupt|unsupported``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from attacks import damaged_folders, damaged_plain, damaged_torch, sharded_saves


@dataclass(frozen=True)
class Damaged:
    """A file that cannot be read.

    Attributes:
        make: takes an empty folder, returns what to open.
        verdicts: those that are right.
        says: what the message has to name.
    """

    make: Callable[[Path], Path]
    verdicts: tuple[str, ...]
    says: str


def _files(
    suffix: str, cases: Mapping[str, tuple[str, str, Callable[[], bytes]]]
) -> dict[str, Damaged]:
    def writer(content: Callable[[], bytes]) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            file = folder / f"x{suffix}"
            file.write_bytes(content())
            return file

        return make

    return {n: Damaged(writer(c), tuple(v.split("|")), s) for n, (v, s, c) in cases.items()}


def _folders(cases: Mapping[str, tuple[str, str, Callable[[Path], Path]]]) -> dict[str, Damaged]:
    return {n: Damaged(make, tuple(v.split("|")), s) for n, (v, s, make) in cases.items()}


DAMAGED: dict[str, Damaged] = {
    **_files(".ckpt", damaged_torch.CONTAINER),
    **_files(".ckpt", damaged_torch.CONTENT),
    **_files(".pt", damaged_torch.LEGACY),
    **_files(".safetensors", damaged_plain.SAFETENSORS),
    **_files(".gguf", damaged_plain.GGUF),
    **_folders(damaged_folders.SHARDED),
    **_folders(damaged_folders.DIFFUSERS),
    **_folders(sharded_saves.DAMAGED),
}
