"""Z-Image. Base, Turbo and Edit have the same names and shapes.

Source: Tongyi-MAI Z-Image; diffusers' config of ``Z-Image-Turbo``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has, lacks
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Z-Image",
    source="https://github.com/Tongyi-MAI/Z-Image",
    original=(
        has("cap_embedder.1.weight"),
        has("noise_refiner.0.attention.qkv.weight", "noise_refiner.0.attention.to_q.weight"),
        has("layers.0.adaLN_modulation.0.weight", says="Z-Image; Lumina calls it .1"),
        has("x_embedder.weight"),
        lacks("dec_net."),
    ),
    diffusers=(
        has("all_x_embedder.2-1.weight", says="patches of 2 x 2"),
        has("cap_embedder.1.weight"),
        has("noise_refiner.0.attention."),  # SVDQuant fuses what lies below
    ),
    text_encoders=("Qwen3-4B",),
    vae="SD3 or Flux, 16 channels",
    tokenizers=("qwen",),
    prediction="flow",
    defaults=Defaults(
        steps=9, cfg=1.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
