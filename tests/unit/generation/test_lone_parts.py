"""Lone files find their place by kind and width, in any of their usual namings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures import flow_models
from fixtures.diffusers_models import save
from fixtures.published import published
from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.formats import open_file
from memcard.generation.lone_parts import encoders, fits, lone_parts
from memcard.generation.parts import Assembly, assemble
from memcard.generation.weights import places

Tensors = Mapping[str, torch.Tensor]


class Header:
    """A checkpoint of which only the header is at hand."""

    format = "safetensors"
    metadata: Mapping[str, str] = {}
    notes = ()

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.specs: Specs = {n: Spec(DTYPES["BF16"], shape) for n, shape in shapes.items()}

    def extent(self, name: str) -> None:
        return None


def header(shapes: Mapping[str, tuple[int, ...]], *, start: str = "") -> Checkpoint:
    found: Any = Header(
        {n.removeprefix(start): s for n, s in shapes.items() if n.startswith(start)}
    )
    return found  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {n: flow_models.lone(n, tmp_path_factory.mktemp(n)) for n in ("flux", "sd3")}


def bare(name: str, parts: Any, folder: Path) -> Assembly:
    path = save(folder / f"{name}.safetensors", parts[name]["transformer"])
    return assemble(open_file(path), name)


def opened(folder: Path, tensors: Tensors) -> Checkpoint:
    return open_file(save(folder / "lone.safetensors", tensors))


def prefixed(start: str, tensors: Tensors) -> dict[str, torch.Tensor]:
    return {start + name: value for name, value in tensors.items()}


SPELLINGS = {
    "clip_l": (
        *("", "flat", "transformer.", "text_encoders.clip_l.transformer."),
        *("cond_stage_model.transformer.", "text_encoder."),
    ),
    "t5xxl": ("", "llama.cpp", "text_encoders.t5xxl.transformer.", "text_encoder_2."),
    "vae": ("", "first_stage_model.", "vae."),
}
SLOTS = {"clip_l": "text_encoder", "t5xxl": "text_encoder_2", "vae": "vae"}


def spelled(how: str, tensors: Tensors) -> Tensors:
    if how == "flat":  # as transformers writes CLIP since 5.6
        return {name.removeprefix("text_model."): value for name, value in tensors.items()}
    return flow_models.gguf_names(tensors) if how == "llama.cpp" else prefixed(how, tensors)


@pytest.mark.parametrize(
    ("part", "how"), [(part, how) for part, spellings in SPELLINGS.items() for how in spellings]
)
def test_a_lone_file_takes_its_place(part: str, how: str, parts: Any, tmp_path: Path) -> None:
    assembly, component = bare("flux", parts, tmp_path), SLOTS[part]

    found = lone_parts(opened(tmp_path, spelled(how, parts["flux"][part])), assembly, "lone")

    assert list(found) == [component]
    module = assembly.engine.empty(component, found[component].config)
    wanted = {n: tuple(v.shape) for n, v in module.state_dict().items()}
    assert set(places(found[component], wanted)) == set(wanted)
    assert component not in assembly.with_parts(found.values()).missing


def test_the_embedding_may_have_either_name(parts: Any, tmp_path: Path) -> None:
    assembly = bare("flux", parts, tmp_path)
    tensors = dict(parts["flux"]["t5xxl"])
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")

    found = lone_parts(opened(tmp_path, tensors), assembly, "lone")

    assert found["text_encoder_2"].config["vocab_size"] == 32128


def test_a_file_may_hold_several(parts: Any, tmp_path: Path) -> None:
    assembly = bare("sd3", parts, tmp_path)
    both = prefixed(flow_models.PREFIXES["clip_l"], parts["sd3"]["clip_l"])
    both |= prefixed(flow_models.PREFIXES["clip_g"], parts["sd3"]["clip_g"])
    checkpoint = opened(tmp_path, both)

    found = lone_parts(checkpoint, assembly, "both")

    assert list(found) == ["text_encoder", "text_encoder_2"]
    assert [p.config["hidden_act"] for p in found.values()] == ["quick_gelu", "gelu"]
    assert [p.config["num_hidden_layers"] for p in found.values()] == [3, 4]
    assert encoders(checkpoint) == ("CLIP, 64 wide", "CLIP, 64 wide")


def test_twins_take_the_place_that_is_free(parts: Any, tmp_path: Path) -> None:
    assembly = bare("sd3", parts, tmp_path)
    first = lone_parts(opened(tmp_path, parts["sd3"]["clip_l"]), assembly, "first")
    (tmp_path / "more").mkdir()
    second = opened(tmp_path / "more", parts["sd3"]["clip_g"])

    found = lone_parts(second, assembly.with_parts(first.values()), "second")

    assert (list(first), list(found)) == (["text_encoder"], ["text_encoder_2"])


def test_what_does_not_fit_is_not_taken(parts: Any, tmp_path: Path) -> None:
    assembly = bare("sd3", parts, tmp_path)  # reads T5 of 128, Flux's twin has 64
    (tmp_path / "other").mkdir()

    found = lone_parts(opened(tmp_path, parts["flux"]["t5xxl"]), assembly, "t5")

    assert found == {}
    flux = bare("flux", parts, tmp_path / "other")
    vae = lone_parts(opened(tmp_path / "other", parts["flux"]["vae"]), flux, "vae")["vae"]
    assert fits(vae, flux)
    assert not fits(vae, _wider(flux))


def _wider(assembly: Assembly) -> Assembly:
    from dataclasses import replace

    transformer = assembly.parts["transformer"]
    config = {**transformer.config, "out_channels": 128}
    return replace(assembly, parts={"transformer": replace(transformer, config=config)})


FULL = {
    "flux": ("flux-flux", "vae.", {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"}),
    "sd3": (
        *("sd3-comfyui", "first_stage_model."),
        {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"},
    ),
}


@pytest.mark.parametrize("family", FULL)
def test_full_size_encoders_are_told_by_their_widths(family: str) -> None:
    name, vae, wanted = FULL[family]
    shapes = published(name)
    assembly = assemble(header(shapes, start=flow_models.PREFIXES["transformer"]), "bare")
    assert assembly.identity.kind == "denoiser"

    for component, part in wanted.items():
        lone = header(shapes, start=flow_models.PREFIXES[part])
        assert list(lone_parts(lone, assembly, part)) == [component]
    assert list(lone_parts(header(shapes, start=vae), assembly, "vae")) == ["vae"]


def test_a_whole_sdxl_gives_clip_g_to_sd3() -> None:
    assembly = assemble(
        header(published("sd3-comfyui"), start=flow_models.PREFIXES["transformer"]), "bare"
    )

    found = lone_parts(header(published("sdxl-sgm")), assembly, "sdxl")

    assert list(found) == ["text_encoder", "text_encoder_2"]  # its VAE has 4 channels
    assert found["text_encoder_2"].config["projection_dim"] == 1280


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FULL)
def test_every_tensor_of_the_full_size_has_its_place(
    family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assembly = assemble(header(published(FULL[family][0])), family)

    used = 0
    for component in assembly.engine.components:
        part = assembly.parts[component]
        module = assembly.engine.empty(component, part.config)
        wanted = {n: tuple(v.shape) for n, v in module.state_dict().items()}
        assert set(wanted) == set(places(part, wanted))
        used += len(set(places(part, wanted).values()))
        assert set(part.names.values()) == set(places(part, wanted).values())
    assert assembly.missing == ()
    assert assembly.notes == ()
    billions = sum(part.elements for part in assembly.parts.values()) / 1e9
    assert billions == pytest.approx({"flux": 16.87, "sd3": 7.75}[family], abs=0.02)
    with capsys.disabled():
        print(f"\n{family}: {used} tensors, {billions:.2f} G values, {2 * billions:.1f} GB as BF16")
