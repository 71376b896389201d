"""Clips of a motion module for SDXL are those of diffusers' AnimateDiffSDXLPipeline, built by hand."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import flow_models, videos
from fixtures.diffusers_models import family, save
from memcard.architectures import ARCHITECTURES
from memcard.errors import MismatchError
from memcard.formats import open_file
from memcard.generation.denoise import conditions, decode, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.load import load
from memcard.generation.motion import animated
from memcard.generation.parts import assemble
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose

PROMPT = "a boat on the sea, très calme"
USED = {"width": 64, "height": 64, "steps": 2, "frames": 3, "sampler": "ddim", "cfg": 4.0}
AUTHORS = {
    "beta_start": 0.00085,
    "beta_end": 0.020,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}  # AnimateDiff, branch sdxl, configs/inference/inference.yaml; the rest is SDXL's own


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return {name: value / 4 for name, value in family("sdxl")[1].items()}


@pytest.fixture(scope="module")
def still(tensors: dict[str, Tensor], tmp_path_factory: Any) -> Pipeline:
    path = save(tmp_path_factory.mktemp("sdxl") / "sdxl.safetensors", tensors)
    found = load(assemble(open_file(path), "sdxl"), device="cpu", dtype="F32")
    for module in found.modules.values():  # aligned memory, as the reference has it
        state = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(state, assign=True)
    return found


@pytest.fixture(scope="module")
def moving(still: Pipeline, tmp_path_factory: Any) -> Pipeline:
    path = tmp_path_factory.mktemp("motion") / "mm_sdxl_v10_beta.safetensors"
    found = animated(still, open_file(save(path, videos.motion_original("xl"))), "mm")
    for value in found.modules["motion_adapter"].parameters():
        value.data = value.data.clone()
    return found


@pytest.fixture(scope="module")
def theirs(tensors: dict[str, Tensor], tmp_path_factory: Any) -> Any:
    from diffusers import AnimateDiffSDXLPipeline, DDIMScheduler
    from diffusers import AutoencoderKL as Autoencoder
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    models = family("sdxl")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = {
            "unet": UNet.from_config(models["unet"].config),
            "vae": Autoencoder.from_config(models["vae"].config),
            "text_encoder": CLIPTextModel(models["text_encoder"].config),
            "text_encoder_2": CLIPTextModelWithProjection(models["text_encoder_2"].config),
        }
        for name, model in made.items():
            wanted = model.state_dict()
            own = {
                n.removeprefix(f"{name}."): v
                for n, v in tensors.items()
                if n.startswith(f"{name}.")
            }
            bare = {n if n in wanted else n.removeprefix("text_model."): v for n, v in own.items()}
            model.eval().load_state_dict(bare)
        words = flow_models.words(tmp_path_factory.mktemp("words"))
        pipe = AnimateDiffSDXLPipeline(
            **made,
            tokenizer=words["clip"],
            tokenizer_2=words["clip_bang"],
            motion_adapter=videos.motion("xl"),
            scheduler=DDIMScheduler(**AUTHORS),
        )
    # diffusers 0.42's from_unet2d leaves these at random numbers; its pictures' pipeline has them.
    pipe.unet.add_embedding.load_state_dict(made["unet"].add_embedding.state_dict())
    pipe.vae.register_to_config(scaling_factor=0.13025)  # SDXL's
    # torch sums in another order where a weight could be trained, even without gradients.
    pipe.unet.eval().requires_grad_(requires_grad=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def settings(**said: Any) -> Settings:
    return choose(ARCHITECTURES["sdxl"], {}, {**USED, **said})


def clip(pipeline: Pipeline, used: Settings) -> tuple[Tensor, Tensor]:
    told = conditions(pipeline, PROMPT, used.negative, used)
    latents = denoise(pipeline, told, used, 5)
    return latents, decode(pipeline, latents, used)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said",
    [{"negative": "blurry"}, {"cfg": 1.0, "frames": 4, "width": 96}],
    ids=lambda said: " ".join(f"{k}={v}" for k, v in said.items()),
)
def test_the_clip_is_that_of_diffusers(said: dict[str, Any], moving: Pipeline, theirs: Any) -> None:
    used = settings(**said)

    def reference(output: str) -> Tensor:
        found: Tensor = theirs(
            PROMPT,
            negative_prompt=used.negative or None,
            num_frames=used.frames,
            num_inference_steps=used.steps,
            guidance_scale=used.cfg,
            height=used.height,
            width=used.width,
            generator=torch.Generator("cpu").manual_seed(5),
            output_type=output,
        ).frames
        return found

    latents, mine = clip(moving, used)
    wanted, want = reference("latent"), reference("pt")[0].permute(0, 2, 3, 1)

    assert mine.shape == want.shape == (used.frames, used.height, used.width, 3)
    assert mine.std() > 0.01
    assert float((mine[0] - mine[1]).abs().max()) > 0.01  # it moves
    assert float((latents - wanted).abs().max()) == 0.0
    # It decodes all frames at once, we one by one: a batch sums in another order.
    assert float((mine - want).abs().max()) <= 1e-5


def test_no_tensor_is_held_twice(still: Pipeline, moving: Pipeline) -> None:
    there = {n: v.data_ptr() for n, v in still.denoiser.state_dict().items()}
    module = {n: v.data_ptr() for n, v in moving.modules["motion_adapter"].state_dict().items()}

    assert {n: v.data_ptr() for n, v in moving.denoiser.state_dict().items()} == {**there, **module}


@pytest.mark.slow
def test_it_moves_in_half_precision(
    tensors: dict[str, Tensor], tmp_path: Path, moving: Pipeline
) -> None:
    path = save(tmp_path / "sdxl.safetensors", tensors)
    file = open_file(save(tmp_path / "mm.safetensors", videos.motion_original("xl")))
    half = animated(load(assemble(open_file(path), "sdxl"), device="cpu", dtype="F16"), file, "mm")

    found, want = clip(half, settings())[1], clip(moving, settings())[1]

    assert {value.dtype for value in half.denoiser.parameters()} == {torch.float16}
    assert float((found - want).abs().mean()) < 0.003


def test_the_noise_is_that_of_the_module(still: Pipeline, moving: Pipeline) -> None:
    ours = moving.engine.scheduler(moving, settings()).config

    assert (ours["beta_schedule"], ours["beta_end"]) == ("scaled_linear", 0.02)
    assert still.configs["scheduler"]["beta_end"] == 0.012


def test_a_module_for_sd1_is_refused(still: Pipeline, tmp_path: Path) -> None:
    file = open_file(save(tmp_path / "mm.safetensors", videos.motion_original("v2")))

    with pytest.raises(MismatchError, match=r"widths \[32, 32, 64, 64\].*has \[64, 64, 128\]"):
        animated(still, file, "mm")
