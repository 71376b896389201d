"""GLM-Image: a transformer that follows the picture tokens of a language model.

Source: zai-org GLM-Image; diffusers 0.42 ``transformer_glm_image.py``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults, Need

PLUGIN = Family(
    title="GLM-Image",
    source="https://huggingface.co/zai-org/GLM-Image",
    diffusers=(
        has("prior_token_embedding.weight", says="follows picture tokens"),
        has("glyph_projector.net.0.proj.weight", says="reads glyphs"),
        has("image_projector.proj.weight"),
        has("transformer_blocks.0.norm1.linear.weight"),
    ),
    text_encoders=("ByT5-small",),
    vae="GLM-Image, 16 channels",
    also=(Need("base model", "GLM-Image's language model"),),
    tokenizers=("byt5", "glm"),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=1.5, sampler="euler", width=1024, height=1024, multiple=32,
        prediction_type="flow",
    ),
)  # fmt: skip
