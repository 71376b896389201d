"""Krea 2. Raw and Turbo have the same names and shapes.

Source: krea-ai krea-2, ``mmdit.py``; diffusers' config of ``Krea-2-Raw``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Krea 2",
    source="https://github.com/krea-ai/krea-2",
    original=(
        has("txtfusion.projector.weight", says="weighs twelve layers of its text encoder"),
        has("first.weight"),
        has("blocks.0.attn.wq.weight"),
    ),
    diffusers=(
        has("text_fusion.projector.weight", says="weighs twelve layers of its text encoder"),
        has("time_mod_proj.weight"),
        has("transformer_blocks.0.attn.to_gate.weight"),
    ),
    text_encoders=("Qwen3-VL-4B",),
    vae="Wan 2.1, 16 channels",
    tokenizers=("qwen",),
    prediction="flow",
    defaults=Defaults(
        steps=52, cfg=3.5, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
