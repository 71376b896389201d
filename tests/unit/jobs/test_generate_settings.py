"""All that paint with a checkpoint choose its settings in one way."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures import flow_models
from fixtures.diffusers_models import family, save
from memcard.generation.parts import assemble
from memcard.jobs._compare_sources import model
from memcard.jobs._generate_models import Models, Wanted
from memcard.jobs._generate_settings import outline, settings_of
from memcard.jobs._tune_painter import Painter
from memcard.jobs.add import add
from memcard.jobs.card import set_card
from memcard.jobs.compare import compare
from memcard.jobs.generate import run
from memcard.jobs.resolve import resolve
from memcard.store.layout import Layout

SMALL: Mapping[str, Any] = {"width": 32, "height": 32}


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flow_models.files("schnell", tmp_path_factory.mktemp("schnell"))["single file"]


def test_a_model_unlike_its_family_has_its_own_settings_everywhere(schnell: Path) -> None:
    compared = model(schnell).settings(SMALL)
    with Painter(Wanted(schnell), Models("cpu", "F32"), SMALL) as painter:
        tuned = painter.usual
    painted = run("a cat", schnell, seed=1, device="cpu", dtype="F32", **SMALL).settings

    assert (painted.steps, painted.guidance) == (4, None)
    assert compared == tuned == painted


def test_a_card_counts_the_layers_of_clip_as_other_tools_do(tmp_path: Path) -> None:
    path = save(tmp_path / "xl.safetensors", {k: v / 4 for k, v in family("sdxl")[1].items()})
    set_card(path, [("settings.clip_skip", "2")])

    painted = run("a cat", path, steps=1, seed=1, device="cpu", width=64, height=64).settings

    assert painted.clip_skip == 1  # 2 is what other tools call XL's usual layer
    assert painted.origin["clip_skip"] == "card"
    assert model(path).settings({}).clip_skip == 1


def test_an_outline_reads_no_weight(schnell: Path) -> None:
    with closing(resolve(schnell)) as checkpoint:
        found = outline(assemble(checkpoint, "schnell"))

    assert not any(isinstance(module, torch.nn.Module) for module in found.modules.values())
    assert found.denoiser.config.in_channels == 64
    assert settings_of(found, {}, {"steps": 2}).steps == 2


@pytest.mark.filterwarnings("ignore")
def test_a_comparison_takes_parts_from_the_library_as_generate_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    parts = flow_models.lone("flux", tmp_path)
    files = {n: save(tmp_path / f"{n}.safetensors", parts[n]) for n in ("clip_l", "t5xxl", "vae")}
    bare = save(tmp_path / "flux1-dev.safetensors", parts["transformer"])
    add(Layout(tmp_path / "home"), list(files.values()))
    wanted: dict[str, Any] = {**SMALL, "steps": 1, "device": "cpu", "dtype": "F32"}

    (cell,) = compare(
        "a cat", bare, seed=1, steps=1, size=(32, 32), device="cpu", dtype="F32", cache=tmp_path / "c"
    ).cells  # fmt: skip
    alone = run("a cat", bare, seed=1, **wanted).pictures[0].image

    assert cell.image.tobytes() == alone.tobytes()


def test_what_the_library_lends_decides_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    parts = flow_models.lone("flux", tmp_path)
    bare = save(tmp_path / "flux1-dev.safetensors", parts["transformer"])
    encoders = [save(tmp_path / f"{n}.safetensors", parts[n]) for n in ("clip_l", "t5xxl")]
    other = {n: v + torch.ones_like(v) for n, v in parts["vae"].items()}
    home = Layout(tmp_path / "home")
    add(home, [*encoders, save(tmp_path / "ae.safetensors", parts["vae"])])
    first = model(bare).lent
    add(home, [save(tmp_path / "flux_vae.safetensors", other)])

    assert len(first) == len(set(first)) == 3
    assert set(model(bare).lent) != set(first)  # the newest is taken
    (vae,) = model(bare, encoders).lent
    assert vae in set(model(bare).lent) - set(first)
