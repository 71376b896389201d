"""Flux.3 image. The step-distilled one has a second embedder, of the time each step jumps to.

Source: diffusers 0.42 ``transformer_flux3.py`` and ``convert_flux3_transformer_checkpoint``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Flux.3",
    source="https://huggingface.co/black-forest-labs/flux-3-image-klein-base",
    original=(
        has(
            "early_stream_modulations.image.lin.weight",
            says="each kind of token has its own blocks"
        ),
        has("content_mode_blocks.image.0.q_proj.weight"),
        has("emb_in.image.weight"),
    ),
    diffusers=(
        has(
            "early_stream_modulations.image.linear.weight",
            says="each kind of token has its own blocks"
        ),
        has("mode_blocks.image.0.attn.to_q.weight"),
        has("x_embedders.image.weight"),
    ),
    variants=(
        Variant(
            "step-distilled",
            (has("ref_time_in.in_layer.weight", "target_timestep_embedder.linear_1.weight",
                 says="knows where a step leads: 16 steps without guidance"),),
        ),
    ),
    text_encoders=("Qwen3-VL-4B",),
    vae="Flux.2, 32 channels",
    tokenizers=("qwen",),
    prediction="flow",
    defaults=Defaults(
        steps=28, cfg=4.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
