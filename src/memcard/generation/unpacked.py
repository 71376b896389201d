"""Weights that were packed to be smaller, as the numbers they stand for: GGUF blocks and scaled fp8.

A view: nothing is unpacked before it is read, tensor by tensor, exactly in float32; who reads it rounds
once. Plain fp8 without scales is left as it is, torch widens it itself. The formats behind the other ways of
packing (NF4, NVFP4, SVDQuant, GPTQ) are refused with the remedy.

Source: https://github.com/ggml-org/llama.cpp, gguf-py/gguf/quants.py (blocks); ComfyUI's ``scaled_fp8`` files
(``scale_weight``; ``weight_scale`` in newer ones): the stored weight times its scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from memcard.architectures._quantization import quantization
from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.extras import require
from memcard.core.identity import Place, derived, identity
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.core.views import View
from memcard.errors import NotFoundError, UnsupportedError
from memcard.maths.floats import STORED
from memcard.maths.quantized import can_dequantize, dequantize

_F32: Final = DTYPES["F32"]
_SCALES: Final = ("scale_weight", "weight_scale")  # beside ``weight``, in the same module
# What else lies beside scaled weights: markers, and scales for arithmetic in fp8, which is not done here.
_MARKERS: Final = ("scaled_fp8", "comfy_quant", "scale_input", "input_scale")
_REFUSED: Final = ("bitsandbytes", "SVDQuant", "GPTQ", "NVFP4", "quanto", "MX block", "F4", "F6")
_SHOWN: Final = 4


def unpacked(checkpoint: Checkpoint, label: str) -> Checkpoint:
    """Return a checkpoint whose weights can be computed with; the same one if they can be as they are.

    Args:
        checkpoint: of any format; keep it open.
        label: what to call it in errors.

    Raises:
        UnsupportedError: it is packed in a way that is not known here.
        UsageError: it has GGUF blocks, and the package gguf is not installed.
    """
    how = quantization(checkpoint.specs)
    if how is None:
        return checkpoint
    odd = [kind for kind in _REFUSED if kind in how]
    if odd:
        raise UnsupportedError(
            f"{label}: its weights are packed as {how}, which memcard cannot unpack. Use the same model "
            "as F16, BF16, fp8 or GGUF."
        )
    plan = _plan(checkpoint.specs, label)
    return Unpacked(checkpoint, plan) if plan.packed or plan.left_out else checkpoint


@dataclass(frozen=True, slots=True)
class _Plan:
    """What becomes of each tensor."""

    packed: Mapping[str, str | None]  # to unpack: the name of the scale; None for GGUF blocks
    left_out: frozenset[str]


def _plan(specs: Specs, label: str) -> _Plan:
    packed: dict[str, str | None] = {}
    left_out, faults = set[str](), list[str]()
    for name, spec in specs.items():
        if spec.dtype.quantized:
            packed[name] = None
            if not can_dequantize(spec.dtype):
                faults.append(f"{name!r} is {spec}, whose blocks have no formula in gguf")
        elif name.rpartition(".")[2] in _MARKERS:
            left_out.add(name)
        elif (scale := _scale(name, specs)) is not None:
            packed[name] = scale
            left_out.add(scale)
            if not _can_scale(spec, specs[scale]):
                faults.append(f"{name!r} is {spec} with a scale {specs[scale]}")
    if any(scale is None for scale in packed.values()):
        require("gguf", what="reading the values of GGUF blocks")
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise UnsupportedError(
            f"{label}: cannot unpack {'; '.join(faults[:_SHOWN])}{more}. Use the same model as F16 or BF16.",
            faults=faults,
        )
    return _Plan(packed, frozenset(left_out))


def _scale(name: str, specs: Specs) -> str | None:
    stem, _, leaf = name.rpartition(".")
    if leaf != "weight" or not specs[name].dtype.name.startswith("F8_"):
        return None
    names = (f"{stem}.{scale}" for scale in _SCALES)
    return next((scale for scale in names if scale in specs), None)


def _can_scale(spec: Spec, scale: Spec) -> bool:
    """Whether there is one scale for all, or one for each row."""
    rows = spec.shape[0] if spec.shape else 1
    known = spec.dtype.name in STORED and scale.dtype.name in STORED
    return known and (scale.elements == 1 or scale.shape in ((rows,), (rows, 1)))


class Unpacked(View):
    """A checkpoint with the values of its packed tensors, in float32."""

    def __init__(self, whole: Checkpoint, plan: _Plan) -> None:
        super().__init__(whole)
        self._packed = plan.packed
        self._specs: Specs = {
            name: Spec(_F32, spec.shape) if name in plan.packed else spec
            for name, spec in whole.specs.items()
            if name not in plan.left_out
        }

    @property
    def specs(self) -> Specs:
        """Name to dtype and shape, in file order, without scales and markers."""
        return self._specs

    def extent(self, name: str) -> Extent | None:
        """Where the bytes lie as they are; None for what is unpacked."""
        return None if name in self._packed else self._whole.extent(name)

    def identity_of(self, name: str, place: Place) -> str | None:
        """Return what a tensor is; what is unpacked is made of its blocks, or of values and scale."""
        if name not in self._packed:
            return identity(self._whole, name, place)
        scale = self._packed[name]
        parts = [identity(self._whole, n, place) for n in (name, scale) if n is not None]
        known = [part for part in parts if part is not None]
        how = f"unpacked {self._whole.specs[name]}"
        return derived(how, *known) if len(known) == len(parts) else None

    def read(self, name: str) -> memoryview:
        """Return one tensor: little-endian, row-major, read-only bytes."""
        if name not in self._packed:
            return self._whole.read(name)
        into = memoryview(bytearray(self._specs[name].nbytes))
        self.readinto(name, into)
        return into.toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor that start at ``offset``."""
        if name not in self._specs:
            raise NotFoundError(f"the checkpoint has no tensor {name!r}.")
        if name not in self._packed:
            self._whole.readinto(name, into, offset)
            return
        first, skip = divmod(offset, 4)
        count = -(-(skip + len(into)) // 4)
        scale = self._packed[name]
        make = (
            self._blocks(name, first, count)
            if scale is None
            else self._scaled(name, scale, first, count)
        )
        into[:] = memoryview(make).cast("B")[skip : skip + len(into)]  # fmt: skip

    def _blocks(self, name: str, first: int, count: int) -> Any:
        """Return values ``first``, …, of a tensor of GGUF blocks."""
        dtype = self._whole.specs[name].dtype
        start, end = first // dtype.block, -(-(first + count) // dtype.block)
        raw = bytearray((end - start) * dtype.block_bytes)
        self._whole.readinto(name, memoryview(raw), start * dtype.block_bytes)
        values = np.empty((end - start) * dtype.block, np.float32)
        dequantize(memoryview(raw), dtype, values)
        at = first - start * dtype.block
        return values[at : at + count]

    def _scaled(self, name: str, scale: str, first: int, count: int) -> Any:
        """Return values ``first``, …, of a tensor with scales."""
        spec, by = self._whole.specs[name], self._whole.specs[scale]
        raw = bytearray(count * spec.dtype.block_bytes)
        self._whole.readinto(name, memoryview(raw), first * spec.dtype.block_bytes)
        values = np.frombuffer(raw, STORED[spec.dtype.name]).astype(np.float32)
        scales = np.frombuffer(self._whole.read(scale), STORED[by.dtype.name]).astype(np.float32)
        if len(scales) == 1:
            return values * scales[0]
        width = spec.elements // spec.shape[0]
        return values * scales[np.arange(first, first + count) // width]
