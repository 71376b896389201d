"""Stable Diffusion 1.x and its fine-tunes and merges, as single files.

Known by the skeleton of the UNet; small twins for tests are found too, unknown widths are not.

Source: CompVis stable-diffusion, ``configs/stable-diffusion/v1-inference.yaml``; diffusers'
``stable-diffusion-v1-5`` configs for betas and ``steps_offset``.
"""

from __future__ import annotations

from memcard.architectures._family import Variant, has, lacks, rank, width
from memcard.architectures._latent_diffusion import LatentDiffusion
from memcard.architectures._unet_signs import CONSISTENCY, FIRST, depth, diffusers, ldm, text
from memcard.core.architecture import Defaults

_KERNELS = "1x1 convolutions around attention: not SD 2"
_FUSER = (
    "input_blocks.1.1.transformer_blocks.0.fuser.",
    "down_blocks.0.attentions.0.transformer_blocks.0.fuser.",
)

PLUGIN = LatentDiffusion(
    title="Stable Diffusion 1.x",
    source="https://github.com/CompVis/stable-diffusion",
    denoiser="unet",
    dialect="ldm",
    original=(
        *ldm(4),
        text("input_blocks.1.1", 768, "CLIP-L"),
        depth("input_blocks.1.1", 1),
        rank("input_blocks.1.1.proj_in.weight", 4, says=_KERNELS),
        lacks("label_emb.", says="not SDXL"),
        lacks("input_blocks.10.1."),
    ),
    diffusers=(
        *diffusers(4),
        text("down_blocks.0.attentions.0", 768, "CLIP-L"),
        depth("down_blocks.0.attentions.0", 1),
        rank("down_blocks.0.attentions.0.proj_in.weight", 4, says=_KERNELS),
        lacks("add_embedding.", "class_embedding.", "encoder_hid_proj.", says="not SDXL"),
        lacks("down_blocks.3.attentions."),
    ),
    variants=(
        Variant("inpainting", (width(FIRST, 1, 9, says="picture, mask and masked picture"),)),
        Variant("instruct-pix2pix", (width(FIRST, 1, 8, says="a picture beside the noise"),)),
        Variant("latent consistency", (has(*CONSISTENCY, says="is told the guidance scale"),)),
        Variant("GLIGEN", (has(*_FUSER, says="boxes beside the prompt"),)),
        Variant(
            "AnimateDiff inside",
            (has("down_blocks.0.motion_modules.", says="moves"),),
            modality="video",
        ),
    ),
    text_encoders=("CLIP-L",),
    vae="SD or SDXL, 4 channels",
    tokenizers=("clip",),
    prediction="epsilon",
    defaults=Defaults(
        steps=20,
        cfg=7.0,
        sampler="dpmpp_2m",
        width=512,
        height=512,
        multiple=8,
        prediction_type="epsilon",
        extra={
            "tokenizer": "clip",
            "scheduler": {
                "num_train_timesteps": 1000,
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "beta_schedule": "scaled_linear",
                "steps_offset": 1,
                "clip_sample": False,
                "set_alpha_to_one": False,
                # no timestep_spacing, as in the family's own config: each sampler keeps its usual one
            },
        },
    ),
)
