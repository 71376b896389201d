"""LTX-2: video with sound. Distilled files have the same names and shapes.

Source: Lightricks LTX-2; diffusers' config of ``LTX-2``, ``transformer_ltx2.py``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has
from memcard.core.architecture import Defaults, Need

PLUGIN = Family(
    title="LTX-2",
    source="https://github.com/Lightricks/LTX-2",
    original=(
        has("audio_patchify_proj.weight", says="makes sound"),
        has("audio_adaln_single.linear.weight"),
        has("patchify_proj.weight"),
        has("transformer_blocks.0.audio_attn1.to_k.weight"),
    ),
    diffusers=(
        has("audio_proj_in.weight", says="makes sound"),
        has("audio_time_embed.linear.weight"),
        has("proj_in.weight"),
        has("transformer_blocks.0.audio_attn1.to_k.weight"),
    ),
    variants=(
        Variant("2.3",
                (has("transformer_blocks.0.attn1.to_gate_logits.weight", says="gates: 2.3"),)),
    ),
    text_encoders=("Gemma-3-12B",),
    vae="LTX, 128 channels",
    also=(Need("VAE", "LTX-2 sound"),),
    tokenizers=("gemma",),
    prediction="flow",
    modality="video with sound",
    defaults=Defaults(
        steps=30, cfg=3.0, sampler="euler", width=768, height=512, multiple=32,
        prediction_type="flow", extra={"frames": 121},
    ),
)  # fmt: skip
