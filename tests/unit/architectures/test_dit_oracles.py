"""The lists the families are tested with, held against what others say: diffusers and sd-mecha."""

from functools import cache
from importlib.resources import files
from math import prod
from typing import Any

import pytest

from fixtures.dit_keys import EXACT, Shapes, diffusers, original, others, specs, unpack
from memcard.architectures import identify

yaml = pytest.importorskip("yaml")
pytest.importorskip("sd_mecha")

MECHA = {"flux-flux": ("flux", "dev"), "sd3-comfyui": ("sd3", "3.0 medium")}
DENOISER = "model.diffusion_model."


@cache
def mecha(name: str) -> Shapes:
    """Read one of sd-mecha's published lists: a whole checkpoint with encoders and autoencoder."""
    configs = files("sd_mecha") / "extensions" / "builtin" / "model_configs"
    found: dict[str, Any] = yaml.load(
        configs.joinpath(f"{name}.yaml").read_text(), Loader=yaml.CSafeLoader
    )
    return {
        key: tuple(entry["shape"])
        for component in found["components"].values()
        for key, entry in component.items()
    }


def transformer(shapes: Shapes) -> Shapes:
    return {n.removeprefix(DENOISER): s for n, s in shapes.items() if n.startswith(DENOISER)}


@pytest.mark.parametrize("name", MECHA)
def test_a_published_checkpoint_is_whole(name: str) -> None:
    found = identify(specs(mecha(name)), {})

    assert (found.kind, (found.architecture, found.variant)) == ("checkpoint", MECHA[name])
    assert found.missing == ()
    assert found.prediction == "flow"


def test_our_list_of_flux_is_sd_mechas() -> None:
    assert transformer(mecha("flux-flux")) == original("flux-dev")


def test_our_list_of_sd3_is_sd_mechas() -> None:
    assert transformer(mecha("sd3-comfyui")) == original("sd3-medium")


# Billions of parameters as the model cards say; a list of another model would miss them.
CARDS = {
    "sd3-medium": 2.0, "sd3.5-medium": 2.5, "sd3.5-large": 8.1, "flux-dev": 11.9, "flux2-dev": 32,
    "flux2-klein-4b": 3.9, "flux2-klein-9b": 9.1, "chroma": 8.9, "auraflow": 6.8, "lumina2": 2.6,
    "pixart-sigma-1024": 0.6, "hunyuan-dit-1.2": 1.5, "z-image": 6.15, "hidream-i1": 17,
    "qwen-image": 20.4, "sana-1600m": 1.6, "sana-600m": 0.6, "sana-1.5-4800m": 4.75,
    "hunyuan-image-2.1": 17.4, "hunyuan-video-t2v": 12.8, "hunyuan-video-1.5": 8.3,
    "wan2.1-t2v-1.3b": 1.42, "wan2.1-t2v-14b": 14.3, "wan2.2-ti2v-5b": 5.0, "ltx-video-2b": 1.9,
    "ltx-video-13b": 13, "ltx-2": 18.9, "mochi-1": 10, "cogvideox-2b": 1.7, "cogvideox-5b": 5.57,
    "cosmos-predict2-image-2b": 1.96, "cosmos-predict2-image-14b": 14.3, "cogview4": 6.4,
    "kandinsky5-video-lite": 2.0, "kandinsky5-video-pro": 19, "kandinsky5-image-lite": 6.0,
    "ernie-image": 8.0, "ideogram4": 9.3, "krea2": 12.9, "minimax-h3": 33, "omnigen": 3.8,
    "ovis-image": 7.37, "allegro": 2.8,
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_a_list_has_as_many_parameters_as_the_model_card_says(name: str) -> None:
    total = sum(prod(shape) for shape in diffusers(name).values())

    assert total / 1e9 == pytest.approx(CARDS[name], rel=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_stored_lists_are_those_diffusers_makes() -> None:
    from fixtures.dit_models import lists, pack

    made = lists()

    assert made["diffusers"].keys() == EXACT.keys()
    assert {name: unpack(pack(shapes)) for name, shapes in made["others"].items()} == others()
    for name, shapes in made["diffusers"].items():
        assert shapes == diffusers(name), name
    for name, shapes in made["original"].items():
        assert shapes == original(name), name


def converted(name: str) -> Shapes:
    """Let diffusers turn our original names into its own."""
    import torch
    from diffusers.loaders import single_file_utils

    from fixtures.dit_models import MODELS

    model = MODELS[name]
    prefix = "net." if "cosmos" in model.oracle else ""
    file = {prefix + n: torch.empty(s, device="meta") for n, s in original(name).items()}
    found = getattr(single_file_utils, model.oracle)(file, config=dict(model.config))
    return {n: tuple(t.shape) for n, t in found.items() if not n.startswith("llm_adapter.")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_diffusers_reads_our_originals() -> None:
    from fixtures.dit_models import MODELS

    names = [name for name, model in MODELS.items() if model.oracle and model.layout]
    originals = [name for name in names if EXACT[name].original]

    assert len(originals) > 40
    for name in originals:
        assert converted(name) == diffusers(name), name
