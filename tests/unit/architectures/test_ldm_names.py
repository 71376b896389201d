"""Our places for tensors against diffusers' own converters: same keys, same values, none left."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from fixtures.sd15 import FULL, shapes
from fixtures.small import array_of
from memcard.architectures import ARCHITECTURES
from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import DTYPES, Spec
from memcard.jobs.resolve import starter_folder

COUNTS = {"sd1": {"unet": 686, "vae": 248, "text_encoder": 196}}
State = dict[str, Tensor]


def modules(configs: Mapping[str, Any]) -> dict[str, torch.nn.Module]:
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(**configs["unet"]),
            "vae": AutoencoderKL(**configs["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        }


def state_of(checkpoint: Checkpoint) -> State:
    return {n: torch.from_numpy(array_of(checkpoint, n).copy()) for n in checkpoint.specs}


def ours(family: str, checkpoint: Checkpoint, component: str) -> State:
    found: State = {}
    state = state_of(checkpoint)
    for name, target in ARCHITECTURES[family].targets(checkpoint.specs).items():
        if target.component == component:
            assert target.key not in found
            found[target.key] = state[name].reshape(target.reshape or state[name].shape)
    return found


def theirs(checkpoint: Checkpoint, component: str, configs: Mapping[str, Any]) -> State:
    state = state_of(checkpoint)
    if component == "unet":
        return dict(convert_ldm_unet_checkpoint(state, configs["unet"]))
    if component == "vae":
        return dict(convert_ldm_vae_checkpoint(state, configs["vae"]))
    found = convert_ldm_clip_checkpoint(state)
    return {name.removeprefix("text_model."): value for name, value in found.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("family", ["sd1", "starter"])
def test_every_tensor_lands_where_diffusers_puts_it(
    family: str, component: str, twin: Checkpoint, starter: Checkpoint
) -> None:
    checkpoint = {"sd1": twin, "starter": starter}[family]
    configs = ARCHITECTURES[family].configs(checkpoint.specs)
    want = theirs(checkpoint, component, configs)

    found = ours(family, checkpoint, component)

    assert found.keys() == want.keys()
    assert [k for k in want if not torch.equal(found[k], want[k])] == []
    module = modules(configs)[component].state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in module.items()}


def test_no_tensor_of_the_twin_is_left_over(twin: Checkpoint) -> None:
    assert ARCHITECTURES["sd1"].targets(twin.specs).keys() == twin.specs.keys()


def test_at_full_size_every_weight_of_the_models_has_its_tensor() -> None:
    specs = {name: Spec(DTYPES["F16"], shape) for name, shape in shapes(FULL).items()}
    family = ARCHITECTURES["sd1"]
    targets = family.targets(specs)

    for component, module in modules(family.configs(specs)).items():
        wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        places = {
            target.key: target.reshape or specs[name].shape
            for name, target in targets.items()
            if target.component == component
        }
        assert places == wanted
        assert len(places) == COUNTS["sd1"][component]


def test_only_the_attention_of_the_vae_changes_its_shape(twin: Checkpoint) -> None:
    targets = ARCHITECTURES["sd1"].targets(twin.specs)

    reshaped = {name for name, target in targets.items() if target.reshape is not None}

    assert len(reshaped) == 8
    assert all(".mid.attn_1." in name and name.endswith(".weight") for name in reshaped)
    assert all(twin.specs[name].shape == (*targets[name].reshape, 1, 1) for name in reshaped)


def test_the_configs_of_the_starter_are_those_it_was_trained_with(starter: Checkpoint) -> None:
    for component, config in ARCHITECTURES["starter"].configs(starter.specs).items():
        path = starter_folder() / "config" / component / "config.json"
        trained = json.loads(path.read_text("utf-8"))
        mine = json.loads(json.dumps(config))
        assert {key: trained[key] for key in mine} == mine
