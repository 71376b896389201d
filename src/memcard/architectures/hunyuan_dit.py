"""Hunyuan-DiT 1.0 to 1.2.

Source: Tencent HunyuanDiT, ``hydit/modules/models.py``; diffusers' configs of
``HunyuanDiT-v1.1-Diffusers`` and ``-v1.2-Diffusers``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, lacks
from memcard.core.architecture import Defaults

_STYLE = ("style_embedder.weight", "time_extra_emb.style_embedder.weight")

PLUGIN = Family(
    title="Hunyuan-DiT",
    source="https://github.com/Tencent/HunyuanDiT",
    original=(
        has("mlp_t5.0.weight", says="reads a T5 beside its CLIP"),
        has("extra_embedder.0.weight"),
        has("blocks.0.attn1.Wqkv.weight"),
        has("final_layer.linear.weight"),
    ),
    diffusers=(
        has("time_extra_emb.pooler.positional_embedding", says="pools a T5 beside its CLIP"),
        has("text_embedding_padding"),
        has("blocks.0.attn2.to_k.weight"),
        has("proj_out.weight"),
    ),
    variants=(
        Variant("1.0 or 1.1", (has(*_STYLE, says="told style and size: 1.0 or 1.1"),)),
        Variant("1.2", (lacks(*_STYLE, says="told no style: 1.2"),)),
    ),
    text_encoders=("Chinese CLIP (BERT)", "mT5-XL"),
    vae="SD or SDXL, 4 channels",
    tokenizers=("bert", "mt5"),
    prediction="v_prediction",
    defaults=Defaults(
        steps=50, cfg=5.0, width=1024, height=1024, multiple=16, prediction_type="v_prediction"
    ),
)
