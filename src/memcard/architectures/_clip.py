"""CLIP's text encoder as transformers stores it inside Stable Diffusion files.

transformers 5.6 dropped the ``text_model.`` level of its keys; files have it, or not. Both are read.

Source: transformers ``modeling_clip.py``; diffusers ``single_file_utils.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from memcard.core.tensors import Specs

PREFIXES = (
    "cond_stage_model.transformer.text_model.",
    "cond_stage_model.transformer.",
    "text_model.",
    "",
)

_TOKENS = "embeddings.token_embedding.weight"


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """The outline of one CLIP text encoder, from names and shapes."""

    prefix: str
    width: int
    layers: int


def outline(specs: Specs) -> TextEncoder | None:
    """Read the outline of the text encoder in a file; None if there is none."""
    for prefix in PREFIXES:
        if f"{prefix}{_TOKENS}" in specs:
            return _read(prefix, specs)
    return None


def _read(prefix: str, specs: Specs) -> TextEncoder | None:
    names = (_TOKENS, "embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight")
    shapes = [specs[prefix + n].shape for n in names if prefix + n in specs]
    if [len(s) for s in shapes] != [2, 2, 2]:
        return None
    layers = 0
    while f"{prefix}encoder.layers.{layers}.mlp.fc1.weight" in specs:
        layers += 1
    return TextEncoder(prefix, shapes[0][1], layers)
