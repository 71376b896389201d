"""ERNIE-Image. Base and Turbo have the same names and shapes; diffusers kept the names.

Source: diffusers 0.42 ``transformer_ernie_image.py``; https://huggingface.co/baidu/ERNIE-Image.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="ERNIE-Image",
    source="https://huggingface.co/baidu/ERNIE-Image",
    diffusers=(
        has("layers.0.mlp.linear_fc2.weight"),
        has("layers.0.adaLN_sa_ln.weight", says="one modulation for all layers"),
        has("x_embedder.proj.weight"),
        has("final_linear.weight"),
    ),
    text_encoders=("Ministral-3-3B",),
    vae="Flux.2, 32 channels",
    tokenizers=("mistral",),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=4.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
