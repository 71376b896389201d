"""The miniature Stable Diffusion that ships with memcard: 64 x 64 pixels, emoji of four styles.

Source: ``docs/starter.md`` and ``docs/spec/starter.md``.
"""

from __future__ import annotations

from memcard.architectures._family import count, has, lacks, width
from memcard.architectures._latent_diffusion import LatentDiffusion
from memcard.core.architecture import Defaults

PLUGIN = LatentDiffusion(
    title="memcard starter",
    source="docs/spec/starter.md",
    denoiser="unet",
    dialect="ldm",
    original=(
        width("input_blocks.0.0.weight", 1, 16),
        count("output_blocks.{}.0.in_layers.0.weight", 6),
        count("input_blocks.{}.0.op.weight", 2, says="three resolutions, one resnet each"),
        lacks("input_blocks.1.1.", says="attention at the two coarser resolutions"),
        has("input_blocks.5.1.proj_in.weight"),
        width(
            "input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
            *(1, 128),
            says="the starter's own text encoder",
        ),
        lacks("label_emb."),
    ),
    text_encoders=("the starter's own",),
    vae="the starter's own, 16 channels",
    tokenizers=("starter",),
    prediction="v_prediction",
    defaults=Defaults(
        steps=20,
        cfg=3.0,
        sampler="dpmpp_2m",
        width=64,
        height=64,
        multiple=8,
        prediction_type="v_prediction",
        extra={
            "tokenizer": "starter",
            "scheduler": {
                "num_train_timesteps": 1000,
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "beta_schedule": "scaled_linear",
                "clip_sample": False,
                "set_alpha_to_one": False,
                "steps_offset": 1,
                "timestep_spacing": "trailing",
            },
        },
    ),
)
