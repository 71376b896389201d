"""CogVideoX 1.0 and 1.5, 2B and 5B, text and image to video; ConsisID.

Source: zai-org CogVideo, ``sat/dit_video_concat.py``; diffusers
``convert_cogvideox_to_diffusers.py`` and the configs of ``CogVideoX-2b``, ``-5b``, ``-5b-I2V``,
``CogVideoX1.5-5B``, ``-5B-I2V``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, any_of, has, rank, width
from memcard.core.architecture import Defaults

_FIRST = ("patch_embed.proj.weight", "mixins.patch_embed.proj.weight")
_WIDE = ("patch_embed.text_proj.bias", "mixins.patch_embed.text_proj.bias")

PLUGIN = Family(
    title="CogVideoX",
    source="https://github.com/zai-org/CogVideo",
    original=(
        has("mixins.patch_embed.text_proj.weight"),
        has("mixins.adaln_layer.adaLN_modulations.0.1.weight", says="experts for text and picture"),
        has("transformer.layers.0.attention.query_key_value.weight"),
    ),
    diffusers=(
        has("patch_embed.text_proj.weight"),
        has(
            "transformer_blocks.0.norm1.linear.weight", "blocks.0.norm1.linear.weight",
            says="experts for text and picture",
        ),
        has("transformer_blocks.0.norm2.linear.weight", "blocks.0.norm2.linear.weight"),
        has("time_embedding.linear_1.weight", "time_embedding_linear_1.weight"),  # or ComfyUI's
        has("norm_final.weight"),
    ),
    variants=(
        Variant("ConsisID", (has("local_facial_extractor."),)),
        Variant("1.0", (rank(_FIRST, 4, says="patches of one frame: 1.0"),)),
        Variant("1.5", (rank(_FIRST, 2, says="patches of two frames: 1.5"),)),
        Variant("2B", (width(_WIDE, 0, 1920, says="2B"),)),
        Variant("5B", (width(_WIDE, 0, 3072, says="5B"),)),
        Variant(
            "image to video",
            (any_of(rank(_FIRST, 4), rank(_FIRST, 2)),
             width(_FIRST, 1, 32, 256, says="a picture beside the noise")),
        ),
    ),
    text_encoders=("T5-XXL",),
    vae="CogVideoX, 16 channels",
    tokenizers=("t5",),
    prediction="v_prediction",
    modality="video",
    defaults=Defaults(
        steps=50, cfg=6.0, sampler="ddim", width=720, height=480, multiple=16,
        prediction_type="v_prediction", extra={"frames": 49},
    ),
)  # fmt: skip
