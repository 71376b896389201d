"""The merge and delta guides say what the code does, and their pictures can be made again."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import memcard
from memcard.cli.merge import command
from memcard.core.digest_cache import VARIABLE
from memcard.jobs._block_presets import names as presets
from memcard.jobs._methods import methods
from memcard.jobs.delta import delta_make
from memcard.jobs.lora import lora_bake
from memcard.ops import OPS

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "merge.md").read_text("utf-8")
DELTA = (ROOT / "docs" / "delta.md").read_text("utf-8")
MOST = 300_000  # bytes of a picture


def script():
    spec = importlib.util.spec_from_file_location("p", ROOT / "scripts" / "merge_pictures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["p"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", GUIDE, re.DOTALL | re.MULTILINE)[1]


def test_the_tables_have_every_method_and_nothing_else():
    rows = re.findall(r"^\| `(\w+)` \|", section("Merge methods"), re.MULTILINE)
    others = re.findall(r"^\| `(\w+)` \|", section("Operations"), re.MULTILINE)

    assert len(rows) == len(set(rows))
    assert set(rows) <= set(methods()) <= {*rows, *others} <= set(OPS)
    assert f"the {len(rows)} merge methods above" in GUIDE


def test_the_table_has_every_option_and_nothing_else():
    told = {
        option
        for row in section("Options").splitlines()
        if row.startswith("| `")
        for option in re.findall(r"`(--[a-z-]+)", row.split(" | ")[0])
    }
    known = {p.opts[0] for p in command.params if p.param_type_name == "option"}

    assert told == known - {"--out", "--help"}


def test_the_number_of_presets_is_right_and_those_named_exist():
    assert f"one of the {len(presets())} published presets" in GUIDE
    assert {"GRAD_V", "WRAP08", "COSINE", "SMOOTHSTEP*2"} <= set(presets())


@pytest.mark.parametrize("name", ["merge_methods.webp", "merge_report.png"])
def test_pictures_are_there_and_light(name):
    assert f"](images/{name})" in GUIDE
    assert (ROOT / "docs" / "images" / name).stat().st_size <= MOST


def test_every_row_of_the_picture_can_be_merged(tmp_path):
    pictures = script()
    lora_bake(pictures.BASE, [("starter/lora_pixel", 1.0)], tmp_path / pictures.PIXEL)

    for line in pictures.LINES:
        if line.method is not None:
            refs = [str(tmp_path / r) if r == pictures.PIXEL else r for r in line.inputs]
            plan = memcard.merge(
                line.method, refs, out=tmp_path / "x.safetensors", dry_run=True, **line.settings
            )
            assert plan.tensors == 518
    assert f'"{pictures.BLOCKS.settings["blocks"]}"' in GUIDE


def test_the_first_example_of_the_page_says_what_is_printed(tmp_path):
    made = memcard.merge(
        "weighted_average",
        ["starter", "starter/stencil"],
        weights=(0.7, 0.3),
        out=tmp_path / "mix.safetensors",
    )

    printed = re.search(r"```console\n(.*?)```", GUIDE, re.DOTALL)[1]
    assert (
        f"{made.tensors}: {made.computed} computed, {made.tensors - made.computed} copied"
        in printed
    )
    assert made.recipe_id in printed


def test_the_first_example_of_the_delta_guide_says_what_is_printed(tmp_path):
    memcard.convert("starter/stencil", tmp_path / "tuned.safetensors")
    made = delta_make("starter", tmp_path / "tuned.safetensors", out=tmp_path / "d.safetensors")

    printed = re.search(r"```console\n(.*?)```", DELTA, re.DOTALL)[1]
    assert f"{made.tensors}, {made.changed} changed" in printed
    assert made.base_sha256 in printed
    assert f"written   {made.result_sha256}: same file" in printed


def test_the_delta_guide_names_the_variable_of_the_cache():
    assert f"`{VARIABLE}=FOLDER`" in DELTA
