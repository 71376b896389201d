"""LTX-Video 0.9: 2B and 13B. Versions differ in the VAE; distilled ones have the same tensors.

Source: Lightricks LTX-Video, ``transformer3d.py``; diffusers' configs of ``LTX-Video`` and
``LTX-Video-0.9.7-dev``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, count, has, lacks
from memcard.core.architecture import Defaults

_BLOCKS = "transformer_blocks.{}.scale_shift_table"

PLUGIN = Family(
    title="LTX-Video",
    source="https://github.com/Lightricks/LTX-Video",
    original=(
        has("patchify_proj.weight"),
        has(
            "adaln_single.emb.timestep_embedder.linear_1.weight",
            says="one modulation for all blocks"
        ),
        has("transformer_blocks.0.scale_shift_table"),
        lacks("audio_patchify_proj.", "audio_adaln_single.", says="no sound: no LTX-2"),
    ),
    diffusers=(
        has("proj_in.weight"),
        has(
            "time_embed.emb.timestep_embedder.linear_1.weight", says="one modulation for all blocks"
        ),
        has("transformer_blocks.0.scale_shift_table"),
        has("caption_projection.linear_1.weight"),
        lacks("audio_proj_in.", says="no sound: no LTX-2"),
    ),
    variants=(
        Variant("2B", (count(_BLOCKS, 28, says="2B"),)),
        Variant("13B", (count(_BLOCKS, 48, says="13B"),)),
    ),
    text_encoders=("T5-XXL",),
    vae="LTX, 128 channels",
    tokenizers=("t5",),
    prediction="flow",
    modality="video",
    defaults=Defaults(
        steps=50, cfg=3.0, sampler="euler", width=704, height=512, multiple=32,
        prediction_type="flow", extra={"frames": 161, "settings": {"frames": 161, "fps": 25}},
    ),
)  # fmt: skip
