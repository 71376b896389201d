"""MiniMax H3: video with sound.

Source: diffusers 0.42 ``transformer_minimax_h3.py`` and
``convert_minimax_h3_transformer_checkpoint_to_diffusers``;
https://huggingface.co/MiniMaxAI/MiniMax-H3.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults, Need

PLUGIN = Family(
    title="MiniMax H3",
    source="https://huggingface.co/MiniMaxAI/MiniMax-H3",
    original=(
        has("video_patch_proj.weight"),
        has("audio_patch_proj.weight", says="makes sound"),
        has("token_refiner.blocks.0.attn.qkv_proj.weight"),
    ),
    diffusers=(
        has("proj_in.weight"),
        has("audio_proj_in.weight", says="makes sound"),
        has("token_refiner.refiner_blocks.0.attn.to_q.weight"),
    ),
    text_encoders=("Qwen3-VL-32B",),
    vae="MiniMax H3, 24 channels",
    also=(Need("VAE", "MiniMax H3 sound"),),
    tokenizers=("qwen",),
    prediction="flow",
    modality="video with sound",
    defaults=Defaults(
        steps=50, cfg=5.0, sampler="euler", width=1280, height=720, multiple=16,
        prediction_type="flow", extra={"frames": 121},
    ),
)  # fmt: skip
