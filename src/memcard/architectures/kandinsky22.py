"""Kandinsky 2.2: a UNet that paints what a picture embedding says. 2.1 also takes the text.

The embedding comes from a second model, the prior: see ``unclip_prior``.

Source: ai-forever Kandinsky-2; diffusers' configs of ``kandinsky-2-2-decoder``,
``-decoder-inpaint`` and ``-controlnet-depth``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, lacks, width
from memcard.core.architecture import Defaults, Need

_FIRST = "conv_in.weight"

PLUGIN = Family(
    title="Kandinsky 2.2",
    source="https://github.com/ai-forever/Kandinsky-2",
    denoiser="unet",
    diffusers=(
        has("encoder_hid_proj.image_embeds.weight", says="takes a picture embedding"),
        has("add_embedding.image_norm.weight"),
        has("down_blocks.1.attentions.0.add_k_proj.weight"),
        lacks("encoder_hid_proj.text_proj."),
    ),
    variants=(
        Variant("inpainting", (width(_FIRST, 1, 9, says="picture, mask and masked picture"),)),
        Variant("depth", (width(_FIRST, 1, 8, says="a depth map beside the noise"),)),
    ),
    vae="MoVQ, 4 channels",
    also=(Need("base model", "Kandinsky 2.2 prior"), Need("text encoder", "CLIP-G")),
    tokenizers=("clip",),
    prediction="epsilon",
    defaults=Defaults(steps=50, cfg=4.0, width=512, height=512, multiple=64),
)
