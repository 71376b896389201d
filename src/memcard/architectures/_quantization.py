"""How weights were made smaller, told by dtypes and by the tensors that lie beside them.

Source: ComfyUI (``scaled_fp8``, ``comfy_quant``, NVFP4), bitsandbytes (``quant_state``, ``SCB``),
nunchaku (SVDQuant), GPTQ and AWQ; GGUF's types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from memcard.core.tensors import Specs

_ENDS: Final[Mapping[str, str]] = {
    ".quant_state.bitsandbytes__nf4": "bitsandbytes NF4",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes FP4",
    ".SCB": "bitsandbytes int8",
    ".smooth_factor": "SVDQuant int4",
    ".smooth_orig": "SVDQuant int4",
    ".qzeros": "GPTQ or AWQ",
    ".g_idx": "GPTQ or AWQ",
    ".weight_scale_2": "NVFP4",
    "._scale": "quanto",
}
_FLOAT8: Final[Mapping[str, str]] = {"F8_E4M3": "fp8 e4m3", "F8_E5M2": "fp8 e5m2"}
_SCALES: Final = (".scale_weight", ".weight_scale", ".weight_scale_inv")


def quantization(specs: Specs) -> str | None:
    """Name the way weights are packed; None if they are plain."""
    found = dict.fromkeys(
        what for name in specs for end, what in _ENDS.items() if name.endswith(end)
    )
    gguf = sorted({spec.dtype.name for spec in specs.values() if spec.dtype.quantized})
    if gguf:
        found[f"GGUF {', '.join(gguf)}"] = None
    for dtype in dict.fromkeys(spec.dtype.name for spec in specs.values()):
        if dtype in _FLOAT8 and not any("NVFP4" in what for what in found):
            scaled = "scaled_fp8" in specs or any(n.endswith(_SCALES) for n in specs)
            found[("scaled " if scaled else "") + _FLOAT8[dtype]] = None
        elif dtype in ("F4", "F6_E2M3", "F6_E3M2"):
            found[dtype] = None
    mx = any(n.endswith(".weight_scale") and s.dtype.name == "F8_E8M0" for n, s in specs.items())
    if mx:
        found["MX block scales"] = None
    return ", ".join(found) or None
