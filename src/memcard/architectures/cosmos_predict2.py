"""Cosmos-Predict2 (pictures and video) and 2.5. Anima has the same blocks behind an adapter.

In diffusers' layout the adapter is a file of its own, so Anima's transformer is this one.

Source: nvidia-cosmos cosmos-predict2; diffusers ``convert_cosmos_to_diffusers.py``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, count, has, lacks, width
from memcard.core.architecture import Defaults

_FIRST = ("x_embedder.proj.1.weight", "patch_embed.proj.weight")
_BLOCKS = ("blocks.{}.self_attn.q_proj.weight", "transformer_blocks.{}.attn1.to_q.weight")
_PREDICT25 = ("crossattn_proj.0.weight",)

PLUGIN = Family(
    title="Cosmos-Predict2",
    source="https://github.com/nvidia-cosmos/cosmos-predict2",
    original=(
        has("blocks.0.mlp.layer1.weight"),
        has("blocks.0.adaln_modulation_self_attn.1.weight"),
        has("x_embedder.proj.1.weight"),
        lacks("llm_adapter.", says="no adapter: no Anima"),
    ),
    diffusers=(
        has("time_embed.t_embedder.linear_1.weight"),
        has("transformer_blocks.0.norm1.linear_1.weight"),
        has("patch_embed.proj.weight"),
        lacks(
            "learnable_pos_embed.", says="no learned places: Predict2; Anima's has the same tensors"
        ),
    ),
    variants=(
        Variant("2.5", (has(*_PREDICT25, says="Predict2.5"),), text_encoders=("Qwen2.5-VL-7B",)),
        Variant("text to image", (width(_FIRST, 1, 68, says="latents and a mask"),),
                modality="image"),
        Variant("video to world", (width(_FIRST, 1, 72, says="latents and two masks"),)),
        Variant("2B", (count(_BLOCKS, 28, says="2B"),)),
        Variant("14B", (count(_BLOCKS, 36, says="14B"),)),
    ),
    text_encoders=("T5-11B",),
    vae="Wan 2.1, 16 channels",
    tokenizers=("t5",),
    prediction="flow",
    modality="video",
    defaults=Defaults(
        steps=35, cfg=7.0, sampler="euler", width=1280, height=704, multiple=16,
        prediction_type="flow", extra={"frames": 93},
    ),
)  # fmt: skip
