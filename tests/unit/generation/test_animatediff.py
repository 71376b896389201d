"""Clips of a motion module are those of diffusers' AnimateDiffPipeline, built by hand from the same weights."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import videos
from fixtures.diffusers_models import family, save
from fixtures.long import mostly_slow
from memcard.architectures import ARCHITECTURES
from memcard.core.checkpoint import Checkpoint
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.generation.denoise import conditions, decode, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.engines.animatediff import PLUGIN
from memcard.generation.latents import generator
from memcard.generation.load import load
from memcard.generation.motion import USUAL, animated
from memcard.generation.parts import assemble
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose
from memcard.generation.tokenizer import _clip
from memcard.generation.words import plain

PROMPT = "a boat on the sea, très calme"
USED = {"width": 64, "height": 64, "steps": 2, "frames": 3, "sampler": "ddim", "cfg": 4.0}
LINEAR = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}  # AnimateDiff's inference.yaml
SCHEDULERS = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler"}


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return {name: value / 4 for name, value in family("sd1")[1].items()}


@pytest.fixture(scope="module")
def still(tensors: dict[str, Tensor], tmp_path_factory: Any) -> Pipeline:
    """Stable Diffusion 1, for pictures."""
    path = save(tmp_path_factory.mktemp("sd1") / "sd1.safetensors", tensors)
    found = load(assemble(open_file(path), "sd1"), device="cpu", dtype="F32", encoder=True)
    for module in found.modules.values():  # aligned memory, as the reference has it
        state = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(state, assign=True)
    return found


@pytest.fixture(scope="module", params=mostly_slow(videos.MOTIONS, "v2"))
def version(request: Any) -> str:
    return str(request.param)


def motion_file(folder: Path, version: str) -> Checkpoint:
    return open_file(save(folder / f"mm_{version}.safetensors", videos.motion_original(version)))


@pytest.fixture(scope="module")
def moving(still: Pipeline, version: str, tmp_path_factory: Any) -> Pipeline:
    found = animated(still, motion_file(tmp_path_factory.mktemp("motion"), version), "mm")
    for value in found.modules["motion_adapter"].parameters():
        value.data = value.data.clone()
    return found


@pytest.fixture(scope="module")
def theirs(tensors: dict[str, Tensor], version: str) -> Any:
    from diffusers import AnimateDiffPipeline, DDIMScheduler
    from diffusers import AutoencoderKL as Autoencoder
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextModel, CLIPTokenizer

    models = family("sd1")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = UNet.from_config(models["unet"].config)
        vae = Autoencoder.from_config(models["vae"].config)
        text = CLIPTextModel(models["text_encoder"].config)
        for name, model in (("unet", unet), ("vae", vae), ("text_encoder", text)):
            own = {
                n.removeprefix(f"{name}."): v
                for n, v in tensors.items()
                if n.startswith(f"{name}.")
            }
            own = {n.removeprefix("text_model."): v for n, v in own.items()}
            model.eval().load_state_dict(own)
        vocabulary, merges = _clip()
        pipe = AnimateDiffPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=CLIPTokenizer(vocab=dict(vocabulary), merges=merges, model_max_length=77),
            unet=unet,
            motion_adapter=videos.motion(version),
            scheduler=DDIMScheduler(**LINEAR),
        )
    # torch sums in another order where a weight could be trained, even without gradients.
    pipe.unet.eval().requires_grad_(requires_grad=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def settings(**said: Any) -> Settings:
    return choose(ARCHITECTURES["sd1"], {}, {**USED, **said})


def clip(pipeline: Pipeline, used: Settings, seed: int = 5) -> Tensor:
    told = conditions(pipeline, PROMPT, used.negative, used)
    return decode(pipeline, denoise(pipeline, told, used, seed), used)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said",
    [{"negative": "blurry"}, {"cfg": 1.0, "frames": 4}, {"sampler": "euler", "width": 96}],
    ids=lambda said: " ".join(f"{k}={v}" for k, v in said.items()),
)
def test_the_clip_is_that_of_diffusers(said: dict[str, Any], moving: Pipeline, theirs: Any) -> None:
    import diffusers

    used = settings(**said)
    theirs.scheduler = getattr(diffusers, SCHEDULERS[used.sampler]).from_config(LINEAR)

    mine = clip(moving, used)
    want = theirs(
        PROMPT,
        negative_prompt=used.negative,
        num_frames=used.frames,
        num_inference_steps=used.steps,
        guidance_scale=used.cfg,
        height=used.height,
        width=used.width,
        decode_chunk_size=1,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="pt",
    ).frames[0].permute(0, 2, 3, 1)  # fmt: skip

    assert mine.shape == want.shape == (used.frames, used.height, used.width, 3)
    assert mine.std() > 0.01
    assert float((mine[0] - mine[1]).abs().max()) > 0.01  # it moves
    assert float((mine - want).abs().max()) == 0.0


def test_no_tensor_of_the_unet_is_held_twice(still: Pipeline, moving: Pipeline) -> None:
    there = {n: v.data_ptr() for n, v in still.denoiser.state_dict().items()}
    module = {n: v.data_ptr() for n, v in moving.modules["motion_adapter"].state_dict().items()}

    found = {n: v.data_ptr() for n, v in moving.denoiser.state_dict().items()}

    assert found == {**there, **module}


def test_the_pipeline_for_pictures_still_makes_them(still: Pipeline, moving: Pipeline) -> None:
    used = settings(frames=1)
    before = clip(still, used)

    clip(moving, settings(frames=2))

    assert torch.equal(clip(still, used), before)
    assert before.shape == (1, 64, 64, 3)
    assert still.configs["scheduler"].get("beta_schedule") == "scaled_linear"


def test_another_motion_module_takes_the_place_of_the_first(
    still: Pipeline, tmp_path: Path
) -> None:
    first = animated(still, motion_file(tmp_path, "v2"), "v2")
    direct = animated(still, motion_file(tmp_path, "v3"), "v3")

    changed = animated(first, motion_file(tmp_path, "v3"), "v3")

    used = settings(cfg=1.0, frames=2)
    assert torch.equal(clip(changed, used), clip(direct, used))


def test_a_folder_of_diffusers_gives_the_same_clip(
    moving: Pipeline, still: Pipeline, version: str, tmp_path: Path
) -> None:
    videos.motion(version).save_pretrained(tmp_path / "adapter")

    found = animated(still, open_file(tmp_path / "adapter"), "adapter")

    assert float((clip(found, settings()) - clip(moving, settings())).abs().max()) <= 1e-5


def test_too_many_frames_are_refused_with_how_many_it_knows(moving: Pipeline, version: str) -> None:
    longest = videos.MOTIONS[version]["motion_max_seq_length"]

    with pytest.raises(UsageError, match=rf"knows {longest} at most.*--frames 16"):
        moving.engine.encode(moving, plain("x"), settings(frames=longest + 1))


def test_a_file_that_is_no_motion_module_is_refused(still: Pipeline, tmp_path: Path) -> None:
    other = open_file(save(tmp_path / "x.safetensors", {"a.weight": torch.zeros(2)}))

    with pytest.raises(MismatchError, match=r"x: is no motion module.*'a\.weight'.*mm_sd_v15_v2"):
        animated(still, other, "x")


def test_a_motion_module_of_another_width_is_refused(still: Pipeline, tmp_path: Path) -> None:
    from diffusers.models.unets.unet_motion_model import MotionAdapter

    wide = MotionAdapter(block_out_channels=(32, 64, 64)).state_dict()

    with pytest.raises(MismatchError, match=r"widths \[32, 64, 64\].*has \[32, 32, 64, 64\]"):
        animated(still, open_file(save(tmp_path / "xl.safetensors", wide)), "xl")


@pytest.mark.parametrize(
    "other", [{"architecture": "sd2"}, {"architecture": "sdxl", "prediction": "edm"}]
)
def test_another_family_is_refused(still: Pipeline, tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(MismatchError, match=r"goes with Stable Diffusion 1\.x or XL.*(sd2|edm)"):
        animated(replace(still, **other), motion_file(tmp_path, "v2"), "mm")


def test_a_picture_becomes_a_clip_that_stands_still(moving: Pipeline) -> None:
    picture = torch.rand(64, 64, 3, generator=generator(0))

    with torch.inference_mode():
        found = moving.engine.encode_pixels(moving, picture, settings(), generator(1))

    assert found.shape == (1, 4, 3, 8, 8)
    assert torch.equal(found[:, :, 0], found[:, :, 2])


def test_a_clip_is_read_frame_by_frame(moving: Pipeline) -> None:
    """So that a second pass paints over what the first one made, not over its first frame."""
    frames = torch.rand(3, 64, 64, 3, generator=generator(0))

    with torch.inference_mode():
        found = moving.engine.encode_pixels(moving, frames, settings(), generator(1))
        alone = moving.engine.encode_pixels(moving, frames[0], settings(), generator(1))

    assert found.shape == (1, 4, 3, 8, 8)
    assert torch.equal(found[:, :, 0], alone[:, :, 0])
    assert not torch.equal(found[:, :, 0], found[:, :, 2])
    assert getattr(moving.engine, "reads_clips", False)


def test_it_is_the_engine_of_no_family_by_itself() -> None:
    assert PLUGIN.families == ()
    assert PLUGIN.components[-1] == "motion_adapter"
    assert settings(**USUAL).frames == 16
    assert settings(**USUAL).fps == 8
