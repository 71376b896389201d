"""Make floating-point tensors of GGUF's packed blocks; everything else passes through untouched.

Exact in float32; rounded once to the dtype asked for.

Source: https://github.com/ggml-org/llama.cpp, gguf-py/gguf/quants.py (gguf 0.19).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from memcard.core.extras import require
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.maths.floats import STORED
from memcard.maths.quantized import can_dequantize, dequantize
from memcard.ops._pairs import refuse
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param


class Dequantize:
    """Streams whole blocks; a tensor of many gigabytes takes no more memory than a small one."""

    title = "Dequantise GGUF blocks"
    source = "llama.cpp gguf-py/gguf/quants.py (gguf 0.19)"
    params: ClassVar[Mapping[str, Param]] = {
        "dtype": Param("str", "F16", "dtype of the result", choices=tuple(STORED)),
    }
    arity = (1, 1)

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Give every quantised tensor the dtype.

        Raises:
            MismatchError: a block type has no formula in gguf.
            UsageError: gguf is needed and not installed.
        """
        dtype, specs = DTYPES[str(params["dtype"])], inputs[0]
        quantized = {n: s for n, s in specs.items() if s.dtype.quantized}
        if quantized:
            require("gguf", what="dequantising")
        faults = [
            f"{name!r} is {spec}, which the package gguf cannot dequantise"
            for name, spec in quantized.items()
            if not can_dequantize(spec.dtype)
        ]
        refuse("cannot dequantise", faults, "Use a file with another quantisation.")
        return [_step(name, spec, Spec(dtype, spec.shape)) for name, spec in specs.items()]

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Unpack the blocks of one chunk."""
        return dequantize(parts[0], step.detail, np.frombuffer(out, STORED[step.spec.dtype.name]))


def _step(name: str, spec: Spec, out: Spec) -> Step:
    if not spec.dtype.quantized:
        return Step(name, spec, ((0, name),), copy=True)
    return Step(name, out, ((0, name),), block=spec.dtype.block, detail=spec.dtype)


PLUGIN = Dequantize()
