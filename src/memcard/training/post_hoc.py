"""Snapshots of power-function averages, from which an EMA of any width is made after the training.

    ema = EMA(model, POST_HOC)
    snapshots = Snapshots(ema, "runs/a/ema", every=1000)
    for step, batch in ...:
        ...; optimizer.step(); ema.update(); snapshots.step()

and afterwards ``memcard ema posthoc runs/a --sigma-rel 0.15 --out ema.safetensors``.

A snapshot is a checkpoint like any other: safetensors with the model's own keys, and beside them
``memcard.ema.step``, ``.sigma_rel``, ``.gamma`` and ``.run`` in its metadata (docs/spec/ema.md).

Source: Karras et al. 2023, arXiv:2312.02696, section 3.2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from memcard.core.tensors import DTYPES, Spec
from memcard.errors import UnsupportedError, UsageError
from memcard.formats.safetensors import PLUGIN as SAFETENSORS
from memcard.maths.torch_bridge import DTYPES as TORCH
from memcard.training.decays import Power
from memcard.training.ema import EMA

VERSION: Final = "1"
# torch counts packed dtypes in pairs; no weights that are averaged come in them.
_NAMES: Final = {kind: name for name, kind in TORCH.items() if DTYPES[name].block == 1}
_BLOCK: Final = 8 << 20  # bytes on their way from a device to the file


class Snapshots:
    """Saves the power-function averages of an EMA now and then.

    The files lie in one folder as ``ema-000002048-0.100.safetensors`` and are never removed; after a resume
    those of later steps are written again. Each takes as much space as the model, per width.
    """

    def __init__(
        self,
        ema: EMA,
        folder: str | Path,
        *,
        every: int,
        dtype: torch.dtype | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Check that there is something to save.

        Args:
            ema: with at least one ``Power`` among its decays; two (``POST_HOC``) give good fits.
            folder: made when the first snapshot is.
            every: steps from one to the next, a multiple of the EMA's own interval. 50 to 200 snapshots
                per training are plenty.
            dtype: of floats in the files; None: as they are averaged. ``torch.float16`` halves them, as in
                the paper.
            metadata: what else the files say about themselves.

        Raises:
            UsageError: no power-function average, one that does not begin at step 1, or an odd interval.
        """
        self._widths = {n: d for n, d in ema.decays.items() if isinstance(d, Power)}
        if not self._widths:
            raise UsageError(
                "snapshots are of power-function averages, and this EMA keeps none. "
                "Make it with decay=memcard.training.decays.POST_HOC."
            )
        if ema.start:
            raise UsageError(
                f"this EMA starts after step {ema.start}; averages to combine later begin at step 1."
            )
        if every < 1 or every % ema.every:
            raise UsageError(f"every is {every}; it must be a multiple of {ema.every}, the EMA's.")
        self._ema, self._folder, self._every = ema, Path(folder).expanduser(), every
        self._dtype, self._metadata = dtype, dict(metadata or {})

    def step(self) -> list[Path]:
        """Save if it is time to; call it after every ``ema.update()``.

        Returns:
            The files written: none, or one per width.

        Raises:
            DiskError: the disk is full or failing; nothing half-written stays.
        """
        return self.save() if self._ema.steps and self._ema.steps % self._every == 0 else []

    def save(self) -> list[Path]:
        """Save now; the last step of a training must be saved, or no average can end there.

        In a distributed training only rank 0 writes.

        Raises:
            DiskError: the disk is full or failing; nothing half-written stays.
            UsageError: there was no update yet.
        """
        if not self._ema.steps:
            raise UsageError("there is no average yet: no step was done.")
        if self._ema.steps % self._ema.every:
            raise UsageError(
                f"step {self._ema.steps} is not averaged: the EMA takes in every {self._ema.every}th. "
                "Save at a multiple of that."
            )
        if _rank():
            return []
        self._folder.mkdir(parents=True, exist_ok=True)
        return [self._written(name, rule) for name, rule in self._widths.items()]

    def _written(self, name: str, rule: Power) -> Path:
        sigma = rule.sigma_rel
        width = f"{sigma:.3f}" if round(sigma, 3) == sigma else f"{sigma:.6f}"
        path = self._folder / f"ema-{self._ema.steps:09d}-{width}.safetensors"
        tensors = _once(self._ema.weights(name))
        specs = {key: self._spec(key, tensor) for key, tensor in tensors.items()}
        with SAFETENSORS.create(path) as sink:
            sink.begin(specs, {**self._metadata, **self._facts(rule)})
            for key, tensor in tensors.items():
                offset = 0
                for part in _blocks(tensor, self._kept_dtype(tensor)):
                    sink.write(key, part, offset)
                    offset += part.nbytes
        return path

    def _facts(self, rule: Power) -> dict[str, str]:
        steps, sigma = self._ema.steps, rule.sigma_rel
        card = {"kind": "ema", "title": f"EMA of step {steps}, sigma_rel {sigma:g}"}
        return {
            "format": "pt",
            "memcard.ema.version": VERSION,
            "memcard.ema.step": str(steps),
            "memcard.ema.sigma_rel": repr(sigma),
            "memcard.ema.gamma": repr(rule.gamma),
            "memcard.ema.run": self._ema.run,
            "memcard.card": json.dumps(card, sort_keys=True),
        }

    def _kept_dtype(self, tensor: Tensor) -> torch.dtype:
        return self._dtype if self._dtype and tensor.is_floating_point() else tensor.dtype

    def _spec(self, key: str, tensor: Tensor) -> Spec:
        dtype = self._kept_dtype(tensor)
        if dtype not in _NAMES:
            raise UnsupportedError(f"{key!r} is {dtype}, which safetensors has no name for.")
        return Spec(DTYPES[_NAMES[dtype]], tuple(tensor.shape))


def _once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the second name of tied tensors, as safetensors wants it."""
    seen: dict[tuple[int, torch.Size], str] = {}
    found = {}
    for key, tensor in tensors.items():
        place = tensor.data_ptr(), tensor.shape
        if not tensor.numel() or seen.setdefault(place, key) == key:
            found[key] = tensor
    return found


def _blocks(tensor: Tensor, dtype: torch.dtype) -> Iterator[memoryview]:
    """Yield the bytes of a tensor, a few megabytes at a time where its layout allows that."""
    flat = tensor.reshape(-1)
    count = max(1, _BLOCK // dtype.itemsize)
    for start in range(0, flat.numel(), count):
        part = flat[start : start + count].to(device="cpu", dtype=dtype).contiguous()
        yield part.view(torch.uint8).numpy().data


def _rank() -> int:
    from torch import distributed

    return (
        distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    )
