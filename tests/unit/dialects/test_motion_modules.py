"""The dictionary of motion modules against diffusers' converter and class."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from diffusers.models.unets.unet_motion_model import MotionAdapter

from fixtures import videos
from fixtures.diffusers_models import load, save
from fixtures.unets import motion_module
from memcard.core.tensors import DTYPES, Spec
from memcard.core.views import Rearranged
from memcard.dialects import Facts, configs, translate
from memcard.formats import open_file


@pytest.fixture(scope="module", params=videos.MOTIONS)
def version(request: Any) -> str:
    return str(request.param)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_it_is_what_diffusers_makes_of_it(version: str, prefix: str, tmp_path: Path) -> None:
    original = videos.motion_original(version)
    file = save(tmp_path / "mm.safetensors", {prefix + n: v for n, v in original.items()})
    checkpoint = open_file(file)

    plan = translate(checkpoint.specs, "diffusers")
    found = load(Rearranged(checkpoint, plan.arrangements))

    assert plan.families == ("animatediff",)
    assert all(n.endswith("attention_blocks.1.pos_encoder.pe") for n in plan.left_out)
    bare = {n.removeprefix("motion_adapter."): v for n, v in found.items()}
    wanted = videos.motion(version).state_dict()
    assert bare.keys() == wanted.keys()
    assert all(torch.equal(bare[n], wanted[n]) for n in wanted)
    converted = theirs.convert_animatediff_checkpoint_to_diffusers(dict(original))
    assert {n for n in bare if "pos_embed" not in n} == set(converted)


def test_there_and_back_gives_the_same_tensors(version: str, tmp_path: Path) -> None:
    own = {n: v.clone() for n, v in videos.motion(version).state_dict().items()}
    here = open_file(save(tmp_path / "d.safetensors", own))

    ldm = load(Rearranged(here, translate(here.specs, "ldm").arrangements))
    there = open_file(save(tmp_path / "ldm.safetensors", ldm))
    back = load(Rearranged(there, translate(there.specs, "diffusers").arrangements))

    second = {n for n in videos.motion_original(version) if "blocks.1.pos_encoder" in n}
    assert set(ldm) == set(videos.motion_original(version)) - second
    assert all(torch.equal(back[n], own[n]) for n in own)


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_its_config_is_read_off_at_full_size(version: str, layout: Any) -> None:
    half = DTYPES["F16"]
    specs = {n: Spec(half, shape) for n, shape in motion_module(version).items()}
    specs = {n: a.spec for n, a in translate(specs, layout).arrangements.items()}

    made = json.loads(configs(specs, "animatediff", Facts())["config.json"])
    with torch.device("meta"):
        model = MotionAdapter.from_config(made)

    assert {n: tuple(v.shape) for n, v in model.state_dict().items()} == motion_module(version)
    assert made["motion_max_seq_length"] == videos.MOTIONS[version]["motion_max_seq_length"]
    assert made["use_motion_mid_block"] == videos.MOTIONS[version]["use_motion_mid_block"]


def test_one_without_a_table_of_positions_has_the_usual_length() -> None:
    specs = {
        n: Spec(DTYPES["F16"], s) for n, s in motion_module("v1").items() if "pos_embed" not in n
    }

    assert json.loads(configs(specs, "animatediff", Facts())["config.json"])["motion_max_seq_length"] == 32  # fmt: skip
