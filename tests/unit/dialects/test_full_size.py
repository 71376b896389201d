"""At full size: published key lists become exactly the models that our configs describe."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import sd_mecha
import torch
import transformers
import yaml

from fixtures.long import mostly_slow
from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.dialects import DIALECTS, Facts, configs, translate
from memcard.jobs.resolve import starter_folder

LISTS = Path(sd_mecha.__file__).parent / "extensions" / "builtin" / "model_configs"
FAMILIES = {"sd1": "sd1-ldm", "sdxl": "sdxl-sgm", "sd3": "sd3-comfyui", "flux": "flux-flux"}
COMPONENTS = {
    "sd1": ("unet", "vae", "text_encoder"),
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2"),
    "sd3": ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"),
    "flux": ("transformer", "vae", "text_encoder", "text_encoder_2"),
}
TRANSFORMERS = {
    "CLIPTextModel": transformers.CLIPTextConfig,
    "CLIPTextModelWithProjection": transformers.CLIPTextConfig,
    "T5EncoderModel": transformers.T5Config,
}


def published(name: str) -> Specs:
    text = (LISTS / f"{name}.yaml").read_text()
    parts = yaml.load(text, Loader=yaml.CSafeLoader)["components"]
    half = DTYPES["F16"]
    return {k: Spec(half, tuple(v["shape"])) for part in parts.values() for k, v in part.items()}


def model_of(config: dict[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        if "_class_name" in config:
            return getattr(diffusers, config["_class_name"]).from_config(config)
        (name,) = config["architectures"]
        return getattr(transformers, name)(TRANSFORMERS[name](**config))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", mostly_slow(FAMILIES, "sd1"))
def test_every_weight_of_the_models_has_its_tensor(family: str) -> None:
    specs = published(FAMILIES[family])
    found = translate(specs, "diffusers")
    texts = {p: json.loads(t) for p, t in configs(specs, family, Facts()).items()}

    assert (found.family, found.components) == (family, COMPONENTS[family])
    shapes = {n.replace(".text_model.", "."): a.spec.shape for n, a in found.arrangements.items()}
    wanted = {
        f"{part}.{name}".replace(".text_model.", "."): tuple(value.shape)
        for part in COMPONENTS[family]
        for name, value in model_of(texts[f"{part}/config.json"]).state_dict().items()
    }
    tied = {n for n in wanted if n.endswith(("shared.weight", "embed_tokens.weight"))}
    assert {n: s for n, s in wanted.items() if n not in tied} == {
        n: s for n, s in shapes.items() if n not in tied
    }


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, "sd1"))
def test_all_that_is_left_out_is_no_weight(family: str) -> None:
    specs = published(FAMILIES[family])

    left = translate(specs, "diffusers").left_out

    kinds = {name.rpartition(".")[2] for name in left if not name.startswith("model_ema.")}
    assert kinds <= {"position_ids", "logit_scale", "sigmas", "v_pred", "ztsnr", "sigma_max",
                     "sigma_min", "edm_mean", "edm_std", *SCHEDULE}  # fmt: skip


SCHEDULE = {"alphas_cumprod", "alphas_cumprod_prev", "betas", "log_one_minus_alphas_cumprod",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
    "posterior_variance", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"}  # fmt: skip


def test_diffusers_own_list_of_sdxl_comes_back() -> None:
    specs = published("sdxl-diffusers_unet_only")

    ldm = translate(specs, "ldm")
    back = translate({n: a.spec for n, a in ldm.arrangements.items()}, "diffusers")

    assert (ldm.family, ldm.components) == ("sdxl", ("unet",))
    assert {n: a.spec for n, a in back.arrangements.items()} == dict(specs)
    assert set(ldm.arrangements) <= {
        n.removeprefix("model.diffusion_model.") for n in published("sdxl-sgm")
    }


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_no_sampler_clips_latents(family: str, prediction: str) -> None:
    texts = configs(published(FAMILIES[family]), family, Facts(prediction), whole=True)

    schedule = json.loads(texts["scheduler/scheduler_config.json"])

    assert (schedule["clip_sample"], schedule["set_alpha_to_one"]) == (False, False)


def test_the_configs_of_the_starter_are_those_it_was_trained_with(starter: Checkpoint) -> None:
    texts = configs(starter.specs, "starter", Facts("v_prediction"))

    for component in ("unet", "vae", "text_encoder"):
        path = f"{component}/config.json"
        trained = json.loads((starter_folder() / "config" / path).read_text("utf-8"))
        mine = json.loads(texts[path])
        # What is padded with is the tokenizer's to say; the model does not look.
        both = [k for k in mine if k in trained and not k.startswith("_") and k != "pad_token_id"]
        assert len(both) >= 8
        assert {key: trained[key] for key in both} == {key: mine[key] for key in both}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_says_where_it_is_from(name: str) -> None:
    assert DIALECTS[name].title
    assert DIALECTS[name].source
