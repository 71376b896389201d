"""Kandinsky 5.0: Video Lite and Pro, Image Lite and its editor. diffusers kept the names.

Source: kandinskylab kandinsky-5; diffusers' configs of ``Kandinsky-5.0-T2V-Lite-sft-5s``,
``-T2V-Pro-sft-5s``, ``-T2I-Lite-sft``, ``-I2I-Lite-sft``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, lacks, width
from memcard.core.architecture import Defaults

_WIDE = "visual_embeddings.in_layer.bias"
_TAKES = "visual_embeddings.in_layer.weight"
_FLUX = "SD3 or Flux, 16 channels"

PLUGIN = Family(
    title="Kandinsky 5",
    source="https://github.com/kandinskylab/kandinsky-5",
    diffusers=(
        has("visual_embeddings.in_layer.weight"),
        has("text_transformer_blocks.0.self_attention.to_query.weight"),
        has("visual_transformer_blocks.0.cross_attention.key_norm.weight"),
        lacks("audio_embeddings."),
    ),
    variants=(
        Variant("video lite", (width(_WIDE, 0, 1792, says="video lite, 2B"),)),
        Variant("video pro", (width(_WIDE, 0, 4096, says="video pro, 19B"),)),
        Variant("image lite", (width(_WIDE, 0, 2560, says="image lite, 6B"), width(_TAKES, 1, 64)),
                vae=_FLUX, modality="image"),
        Variant("image editor lite", (width(_WIDE, 0, 2560, says="image lite, 6B"),
                                      width(_TAKES, 1, 132, says="a picture beside the noise")),
                vae=_FLUX, modality="image"),
    ),
    text_encoders=("Qwen2.5-VL-7B", "CLIP-L"),
    vae="HunyuanVideo, 16 channels",
    tokenizers=("qwen", "clip"),
    prediction="flow",
    modality="video",
    defaults=Defaults(
        steps=50, cfg=5.0, sampler="euler", width=768, height=512, multiple=16,
        prediction_type="flow", extra={"frames": 121},
    ),
)  # fmt: skip
