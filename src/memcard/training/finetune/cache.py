"""What need not be computed twice: the latents of pictures and the states of prompts.

One safetensors file each, named by a SHA-256 over everything its values depend on, so nothing in the cache
ever becomes wrong, runs share it, and it may be deleted at any time. ``docs/spec/finetune.md`` is its
specification.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from blake3 import blake3
from torch import Tensor

from memcard.core.atomic import disk_errors
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.errors import FormatError, MemcardError
from memcard.formats._safetensors_header import plan
from memcard.formats.safetensors import PLUGIN as SAFETENSORS
from memcard.maths.torch_bridge import DTYPES as BRIDGE

VERSION: Final = 1
_DIGEST: Final = "memcard.cache"
_NAMES: Final = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def key_of(**facts: Any) -> str:
    """Return the name of an entry: 64 hex digits over the facts its values depend on."""
    text = json.dumps({"memcard_cache": VERSION, **facts}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(key: str, specs: Specs, parts: Iterable[Any]) -> str:
    found = blake3(key.encode())
    for (name, spec), part in zip(specs.items(), parts, strict=True):
        found.update(f"\n{name} {spec}\n".encode())
        found.update(part)
    return found.hexdigest()


class Cache:
    """A folder of small safetensors files; safe for several processes at once.

    A damaged entry counts as missing and is replaced.
    """

    def __init__(self, folder: Path | None) -> None:
        """Use ``folder``, made on first need; None keeps nothing."""
        self.folder = folder
        self.written = 0  # bytes put by this object

    def path(self, key: str) -> Path | None:
        """Return where an entry lies or would lie."""
        return None if self.folder is None else self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors of an entry, on the CPU; None if there is none, or not a sound one."""
        path = self.path(key)
        try:
            opened = None if path is None else SAFETENSORS.open(path)
        except (FormatError, OSError):
            return None
        if opened is None:
            return None
        try:
            tensors = {name: opened.read(name) for name in opened.specs}
            if opened.metadata.get(_DIGEST) != _digest(key, opened.specs, tensors.values()):
                return None
            return {
                name: torch.frombuffer(bytearray(part), dtype=BRIDGE[opened.specs[name].dtype.name])
                .reshape(opened.specs[name].shape)
                for name, part in tensors.items()
            }  # fmt: skip
        except (MemcardError, OSError, ValueError):
            return None
        finally:
            opened.close()

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry.

        It is not forced to the disk, which would take longer than computing it: the digest tells whether it
        got there.

        Raises:
            DiskError: the disk is full or read-only.
        """
        path = self.path(key)
        if path is None:
            return
        plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        specs = {n: Spec(DTYPES[_NAMES[t.dtype]], tuple(t.shape)) for n, t in plain.items()}
        parts: list[memoryview] = [
            t.reshape(-1).view(torch.uint8).numpy().data for t in plain.values()
        ]
        header = plan(specs, {_DIGEST: _digest(key, specs, parts)}, path).fixed
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.stem}.{os.getpid()}.part")
            try:
                with part.open("wb") as file:
                    for _, text in header:
                        file.write(text)
                    for piece in parts:
                        file.write(piece)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        self.written += sum(spec.nbytes for spec in specs.values())

    def size(self) -> int:
        """Return the bytes of all entries, of other runs too."""
        if self.folder is None or not self.folder.is_dir():
            return 0
        return sum(file.stat().st_size for file in self.folder.glob("*/*.safetensors"))


class Remembered:
    """Values by key: in memory as far as ``most`` bytes go, else from the cache, else computed."""

    def __init__(self, cache: Cache, *, most: int = 2 << 30) -> None:
        self._cache, self._most, self._held = cache, most, 0
        self._values: dict[str, dict[str, Tensor]] = {}

    def get(
        self,
        keys: Sequence[str],
        compute: Callable[[Sequence[int]], Sequence[Mapping[str, Tensor]]],
        *,
        keep: bool = True,
    ) -> list[dict[str, Tensor]]:
        """Return the values of ``keys``, in their order.

        Args:
            keys: from ``key_of``.
            compute: given positions in ``keys``, returns their tensors; called once at most.
            keep: put what is computed into the cache.
        """
        found = {key: self._look(key) for key in dict.fromkeys(keys)}
        missing = [key for key, value in found.items() if value is None]
        if missing:
            made = compute([keys.index(key) for key in missing])
            for key, fresh in zip(missing, made, strict=True):
                if keep:
                    self._cache.put(key, fresh)
                found[key] = self._hold(key, {n: t.detach().cpu() for n, t in fresh.items()})
        return [value for key in keys if (value := found[key]) is not None]

    def _look(self, key: str) -> dict[str, Tensor] | None:
        if key in self._values:
            return self._values[key]
        value = self._cache.get(key)
        return None if value is None else self._hold(key, value)

    def _hold(self, key: str, value: dict[str, Tensor]) -> dict[str, Tensor]:
        size = sum(t.nbytes for t in value.values())
        if self._held + size <= self._most:
            self._values[key] = value
            self._held += size
        return value
