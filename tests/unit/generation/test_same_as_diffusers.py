"""Our picture is the picture of a diffusers pipeline built by hand from the same file.

The reference shares nothing with us but the file: its configs are written down here or shipped with
the starter, its weights go through diffusers' converters, its loop is StableDiffusionPipeline's.
"""

import json
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.small import array_of
from memcard.architectures import ARCHITECTURES
from memcard.core.checkpoint import Checkpoint
from memcard.generation.denoise import conditions, decode, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.settings import resolve as choose
from memcard.generation.tokenizer import _clip
from memcard.jobs.resolve import starter_folder

SD1_SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
    "prediction_type": "epsilon",
}  # stable-diffusion-v1-5/scheduler/scheduler_config.json
TWIN = {  # stable-diffusion-v1-5's configs, made narrow
    "unet": {
        "sample_size": 64,
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        "block_out_channels": [32, 32, 64, 64],
    },
    "vae": {
        "block_out_channels": [32, 32, 64, 64],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "sample_size": 512,
    },
    "text_encoder": {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_attention_heads": 1,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "hidden_act": "quick_gelu",
    },
}
SCHEDULERS = {
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "ddim": "DDIMScheduler",
}


def reference(checkpoint: Checkpoint, configs: dict[str, Any], tokenizer: Any) -> Any:
    """Build StableDiffusionPipeline by hand."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet
    from diffusers.loaders import single_file_utils as files
    from transformers import CLIPTextConfig, CLIPTextModel

    state = {n: torch.from_numpy(array_of(checkpoint, n).copy()).float() for n in checkpoint.specs}
    unet, vae = UNet.from_config(configs["unet"]), AutoencoderKL.from_config(configs["vae"])
    text = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    unet.load_state_dict(files.convert_ldm_unet_checkpoint(dict(state), unet.config))
    vae.load_state_dict(files.convert_ldm_vae_checkpoint(dict(state), vae.config))
    words = files.convert_ldm_clip_checkpoint(dict(state))
    text.load_state_dict({name.removeprefix("text_model."): v for name, v in words.items()})
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=DDIMScheduler(**SD1_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def starter_reference(starter: Checkpoint) -> Any:
    folder = starter_folder() / "config"
    configs = {
        part: json.loads((folder / part / "config.json").read_text("utf-8"))
        for part in ("unet", "vae", "text_encoder")
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import CLIPTokenizer

        return reference(starter, configs, CLIPTokenizer.from_pretrained(str(folder / "tokenizer")))


@pytest.fixture(scope="module")
def twin_reference(twin: Checkpoint) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import CLIPTokenizer

        vocabulary, merges = _clip()
        words = CLIPTokenizer(vocab=dict(vocabulary), merges=merges, model_max_length=77)
        return reference(twin, TWIN, words)


def picture_of(pipe: Any, config: dict[str, Any], prompt: str, seed: int, used: Any) -> Tensor:
    import diffusers

    karras = {"use_karras_sigmas": True} if used.schedule == "karras" else {}
    pipe.scheduler = getattr(diffusers, SCHEDULERS[used.sampler]).from_config(config, **karras)
    found: Tensor = pipe(
        prompt,
        negative_prompt=used.negative,
        num_inference_steps=used.steps,
        guidance_scale=used.cfg,
        height=used.height,
        width=used.width,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="pt",
    ).images[0]
    return found.permute(1, 2, 0)


def ours(pipeline: Pipeline, used: Any, prompt: str, seed: int) -> Tensor:
    told = conditions(pipeline, prompt, used.negative, used)
    return decode(pipeline, denoise(pipeline, told, used, seed), used)[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"steps": 6, "schedule": "karras", "negative": "a blue rocket"},
        {"steps": 6, "sampler": "euler_a", "schedule": "normal"},
        {"steps": 6, "sampler": "ddim", "schedule": "normal"},
        {"steps": 6, "sampler": "euler", "schedule": "karras"},
        {"steps": 4, "cfg": 1.0},
        {"steps": 2, "width": 96, "height": 64},
    ],
    ids=lambda said: " ".join(f"{k}={v}" for k, v in said.items()) or "as the card says",
)
def test_the_starter_gives_the_same_bits(
    said: dict[str, Any], starter: Checkpoint, starter_pipeline: Pipeline, starter_reference: Any
) -> None:
    path = starter_folder() / "config" / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text("utf-8"))
    used = choose(ARCHITECTURES["starter"], starter.metadata, said)
    prompt = "3d render of a red apple, sky blue background"

    with starter_pipeline.running():
        mine = ours(starter_pipeline, used, prompt, 7)
        want = picture_of(starter_reference, config, prompt, 7, used)

    assert mine.shape == want.shape == (used.height, used.width, 3)
    assert mine.std() > 0.01  # a picture, not one colour
    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said",
    [
        {"steps": 3, "negative": "blurry"},
        {"steps": 3, "sampler": "euler_a"},
        {"steps": 2, "sampler": "euler", "cfg": 1.0},
        {"steps": 2, "sampler": "ddim", "height": 128},
    ],
    ids=lambda said: " ".join(f"{k}={v}" for k, v in said.items()),
)
def test_the_sd1_twin_gives_the_same_bits(
    said: dict[str, Any], twin_pipeline: Pipeline, twin_reference: Any
) -> None:
    used = choose(ARCHITECTURES["sd1"], {}, {"width": 64, "height": 64, **said})

    prompt = "a photo of a cat, 35mm; très beau"

    with twin_pipeline.running():
        mine = ours(twin_pipeline, used, prompt, 3)
        want = picture_of(twin_reference, SD1_SCHEDULER, prompt, 3, used)

    assert mine.std() > 0.01
    assert torch.isfinite(mine).all()
    assert float((mine - want).abs().max()) == 0.0
