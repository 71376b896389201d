"""CLIP's text encoder as transformers stores it inside Stable Diffusion files.

transformers 5.6 dropped the ``text_model.`` level of its keys; files have it, or not. Both are read.
``position_ids`` is a counter some old files carry, not a weight: it is left out.

Source: transformers ``modeling_clip.py``; diffusers ``single_file_utils.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memcard.core.tensors import Specs

PREFIXES = (
    "cond_stage_model.transformer.text_model.",
    "cond_stage_model.transformer.",
    "text_model.",
    "",
)

_TOKENS = "embeddings.token_embedding.weight"
_PARTS = ("embeddings.token_embedding.", "embeddings.position_embedding.", "encoder.layers.",
          "final_layer_norm.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """The outline of one CLIP text encoder, from names and shapes."""

    prefix: str
    vocabulary: int
    width: int
    inner: int
    layers: int
    length: int  # most tokens of a prompt, both ends included

    def config(self, *, heads: int) -> Mapping[str, Any]:
        """Return arguments for transformers' CLIPTextConfig."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "max_position_embeddings": self.length,
            "projection_dim": self.width,
            "bos_token_id": self.vocabulary - 2,
            "eos_token_id": self.vocabulary - 1,
            "pad_token_id": self.vocabulary - 1,
        }

    def key(self, name: str) -> str | None:
        """Return the key in transformers' CLIPTextModel, or None if it is no weight of it."""
        if not name.startswith(self.prefix):
            return None
        bare = name[len(self.prefix) :]
        return bare if bare.startswith(_PARTS) else None


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
    tokens, positions, fc1 = shapes
    return TextEncoder(prefix, tokens[0], tokens[1], fc1[0], layers, positions[0])
