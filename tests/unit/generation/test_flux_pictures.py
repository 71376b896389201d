"""Flux.1 Fill, Kontext, Canny and Depth: our picture is diffusers' over the same weights."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FluxControlImg2ImgPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxKontextPipeline,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from fixtures import flow_models
from fixtures.diffusers_models import save
from fixtures.flow_models import PROMPT
from memcard.architectures import ARCHITECTURES
from memcard.errors import MismatchError, UnsupportedError, UsageError
from memcard.formats import open_file
from memcard.generation.denoise import conditions
from memcard.generation.engine import NAMED, Pipeline
from memcard.generation.engines._flux import kind
from memcard.generation.latents import generator
from memcard.generation.load import load
from memcard.generation.lone_parts import lone_parts
from memcard.generation.parts import assemble
from memcard.generation.passes import Larger, Picture, check_given, enlarge, paint
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose
from memcard.jobs.convert import convert
from memcard.jobs.lora import open_with_loras

pytestmark = pytest.mark.filterwarnings("ignore")
WIDE, HIGH = 48, 64


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            plain = save(folder / "diffusers.safetensors", flow_models.tensors(name))
            made[name] = folder / "single.safetensors"
            convert(plain, made[name], dialect="ldm")
        return made[name]

    return of


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """diffusers' pipeline of dev: its tokenizers and its scheduler are those of the tools."""
    return flow_models.reference("flux", tmp_path_factory.mktemp("words"))


def pipeline_of(path: Path, label: str = "flux.safetensors") -> Pipeline:
    assembly = assemble(open_file(path), label)
    assert (assembly.family, assembly.missing, assembly.notes) == ("flux", (), ())
    return load(assembly, device="cpu", dtype="F32", encoder=True)


def settings_of(pipeline: Pipeline, **said: Any) -> Settings:
    user = {"width": WIDE, "height": HIGH, "steps": 2, **said}
    usual = {"prediction_type": "flow", **pipeline.engine.usual(pipeline)}  # type: ignore[attr-defined]
    return choose(ARCHITECTURES["flux"], {}, user, usual)


def ours(
    pipeline: Pipeline,
    used: Settings,
    picture: Picture | None = None,
    control: Tensor | None = None,
) -> Tensor:
    told = conditions(pipeline, PROMPT, used.negative, used)
    return paint(pipeline, told, used, 5, picture=picture, control=control)[0][0]


def theirs(kind_of: Any, pipe: Any, name: str, used: Settings, **more: Any) -> Tensor:
    words = {k: v for k, v in pipe.components.items() if k.startswith(("tokenizer", "scheduler"))}
    pipe = kind_of(**words, **flow_models.models(name))
    pipe.set_progress_bar_config(disable=True)
    found: Tensor = pipe(
        prompt=PROMPT,
        height=used.height,
        width=used.width,
        num_inference_steps=used.steps,
        guidance_scale=used.guidance,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="pt",
        **more,
    ).images[0]
    return found.permute(1, 2, 0)


def pixels(seed: int = 1, high: int = HIGH, wide: int = WIDE) -> Tensor:
    return torch.rand(high, wide, 3, generator=generator(seed))


def image(one: Tensor) -> Tensor:
    return one.permute(2, 0, 1)[None]


def hole() -> Tensor:
    """The right part white, and one odd column: no side of a latent."""
    mask = torch.zeros(HIGH, WIDE)
    mask[:, 21:] = 1
    mask[5, 3] = 0.7
    return mask


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_fill_gives_the_same_bits(strength: float, single: Any, pipe: Any) -> None:
    pipeline = pipeline_of(single("fill"))
    used, mask = settings_of(pipeline), hole()
    assert (kind(pipeline), used.guidance) == ("fill", 30.0)

    mine = ours(pipeline, used, Picture(pixels(), strength, mask))
    want = theirs(
        *(FluxFillPipeline, pipe, "fill", used),
        image=image(pixels()), mask_image=mask[None, None], strength=strength,
    )  # fmt: skip

    assert torch.equal(mine[mask == 1], want[mask == 1])
    assert torch.equal(mine[mask == 0], pixels()[mask == 0])  # what is kept is kept to the bit
    assert float((mine[mask == 1] - pixels()[mask == 1]).abs().mean()) > 0.01


def test_fill_sees_each_pixel_of_the_mask(single: Any) -> None:
    pipeline = pipeline_of(single("fill"))
    used = settings_of(pipeline)
    other = hole()
    other[40, 7] = 1

    one, two = (ours(pipeline, used, Picture(pixels(), 1.0, m)) for m in (hole(), other))

    assert not torch.equal(one[hole() == 1], two[hole() == 1])


@pytest.mark.parametrize("cfg", [1.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_kontext_gives_the_same_bits(cfg: float, single: Any, pipe: Any) -> None:
    pipeline = pipeline_of(single("flux"), "flux1-dev-Kontext_fp8.safetensors")
    used = settings_of(pipeline, cfg=cfg, negative="blurry")
    assert (used.edit, used.guidance, used.origin["edit"]) == (True, 2.5, "family")
    seen = pixels(high=32, wide=80)  # of another shape than what is painted

    mine = ours(pipeline, used, Picture(seen, 0.75))
    true: dict[str, Any] = {}
    if cfg > 1:
        true = {"true_cfg_scale": cfg, "negative_prompt": "blurry"}
    want = theirs(
        *(FluxKontextPipeline, pipe, "flux", used),
        image=image(seen), max_area=HIGH * WIDE, _auto_resize=False, **true,
    )  # fmt: skip

    # With true guidance two guesses are one batch here: products of other shapes.
    assert float((mine - want).abs().max()) <= (0 if cfg == 1 else 1e-5)
    assert not torch.equal(mine, ours(pipeline, used))


def test_any_model_of_this_layout_may_be_told_to_edit(single: Any) -> None:
    pipeline = pipeline_of(single("flux"))
    plain = settings_of(pipeline)
    assert (plain.edit, plain.guidance) == (False, 3.5)

    asked = settings_of(pipeline, edit=True)
    named = pipeline_of(single("flux"), "kontext.gguf")
    kontext = settings_of(named, guidance=3.5)

    picture = Picture(pixels(), 1.0)
    assert torch.equal(ours(pipeline, asked, picture), ours(named, kontext, picture))
    assert not torch.equal(ours(pipeline, asked, picture), ours(pipeline, plain, picture))


def test_a_card_may_say_that_its_model_edits(single: Any) -> None:
    card = {"memcard.card": json.dumps({"settings": {"edit": True, "guidance": 2.5}})}
    odd = {"memcard.card": json.dumps({"settings": {"edit": "yes"}})}
    user = {"prediction_type": "flow"}

    found = choose(ARCHITECTURES["flux"], card, user)

    assert (found.edit, found.guidance, found.origin["edit"]) == (True, 2.5, "card")
    assert choose(ARCHITECTURES["flux"], odd, user).edit is False


def test_kontext_looks_at_the_size_it_was_trained_on(single: Any) -> None:
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    pipeline = pipeline_of(single("flux"), "kontext.safetensors")
    used = settings_of(pipeline)
    reads = pipeline.engine.reads  # type: ignore[attr-defined]

    for wide, high in ((512, 512), (1920, 1080), (300, 900), (4000, 1000), (1000, 1500)):
        _, *want = min((abs(wide / high - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
        assert reads(pipeline, used, (wide, high)) == tuple(want)
    assert reads(pipeline, replace(used, edit=False), (512, 512)) is None


@pytest.mark.parametrize(
    ("label", "steps", "guidance"),
    [("a.safetensors", 50, 30.0), ("flux1-Depth-dev.safetensors", 30, 10.0)],
)
def test_a_drawing_is_followed_with_the_same_bits(
    label: str, steps: int, guidance: float, single: Any, pipe: Any
) -> None:
    pipeline = pipeline_of(single("control"), label)
    assert settings_of(pipeline, steps=None).steps == steps
    used = settings_of(pipeline)
    assert (kind(pipeline), used.guidance) == ("control", guidance)

    mine = ours(pipeline, used, control=pixels())
    # diffusers takes tensors of control pictures as they are: -1..1
    want = theirs(FluxControlPipeline, pipe, "control", used, control_image=image(pixels()) * 2 - 1)

    assert torch.equal(mine, want)
    assert not torch.equal(mine, ours(pipeline, used, control=pixels(2)))


def test_a_drawing_and_a_picture_to_begin_from(single: Any, pipe: Any) -> None:
    pipeline = pipeline_of(single("control"))
    used = settings_of(pipeline, steps=4)

    mine = ours(pipeline, used, Picture(pixels(2), 0.5), pixels())
    want = theirs(
        *(FluxControlImg2ImgPipeline, pipe, "control", used),
        image=image(pixels(2)), control_image=image(pixels()) * 2 - 1, strength=0.5,
    )  # fmt: skip

    assert torch.equal(mine, want)


def test_a_drawing_under_a_mask_changes_nothing_else(single: Any) -> None:
    pipeline = pipeline_of(single("control"))
    used, mask = settings_of(pipeline), hole()

    found = ours(pipeline, used, Picture(pixels(2), 1.0, mask), pixels())

    assert torch.equal(found[mask == 0], pixels(2)[mask == 0])
    assert float((found[mask == 1] - pixels(2)[mask == 1]).abs().mean()) > 0.01


def test_the_second_pass_follows_the_drawing_too(single: Any) -> None:
    pipeline = pipeline_of(single("control"))
    larger = Larger(2.0, 0.5, 2)
    used = settings_of(pipeline)
    later = larger.settings(used, 16)
    told = conditions(pipeline, PROMPT, "", used)

    first = paint(pipeline, told, used, 5, control=pixels())
    made = [
        enlarge(pipeline, told, first, later, larger, 5, control=drawing)[0]
        for drawing in (pixels(), pixels(2))
    ]

    assert made[0].shape == (1, 2 * HIGH, 2 * WIDE, 3)
    assert not torch.equal(*made)


def test_the_second_pass_of_kontext_edits_nothing(single: Any) -> None:
    used = settings_of(pipeline_of(single("flux"), "kontext"))

    assert used.edit
    assert not Larger(2.0).settings(used, 16).edit


@pytest.mark.parametrize(
    ("name", "label", "given", "text"),
    [
        ("fill", "", {"image"}, "Flux.1 Fill.*--mask"),
        ("fill", "", set[str](), "Flux.1 Fill.*--image"),
        ("fill", "", {"image", "mask", "hires"}, "no use for --hires"),
        ("fill", "", {"image", "mask", "control"}, "no use for --control-image"),
        ("control", "", {"image"}, "Canny or Depth.*--control-image"),
        ("flux", "", {"control"}, "takes no control picture"),
        ("flux", "kontext", {"image", "mask"}, "--mask does not go"),
        ("flux", "kontext", {"image", "strength"}, "--no-edit"),
        ("flux", "kontext", {"image", "hires"}, "--size"),
    ],
)
def test_what_a_model_cannot_use_is_refused(
    name: str, label: str, given: set[str], text: str, single: Any
) -> None:
    pipeline = pipeline_of(single(name), label or "a.safetensors")

    with pytest.raises(UsageError, match=text):
        check_given(pipeline, settings_of(pipeline), given)


def test_only_a_model_of_the_layout_of_dev_edits(single: Any) -> None:
    pipeline = pipeline_of(single("fill"))

    with pytest.raises(UsageError, match="Leave --edit out"):
        check_given(pipeline, settings_of(pipeline, edit=True), {"image", "mask"})


def test_kontext_paints_out_of_nothing_too(single: Any) -> None:
    pipeline = pipeline_of(single("flux"), "kontext")
    plain = pipeline_of(single("flux"))

    used = settings_of(pipeline)

    assert torch.equal(ours(pipeline, used), ours(plain, replace(used, edit=False)))


def test_file_and_metadata_name_a_model(single: Any) -> None:
    assert "kontext" in pipeline_of(single("flux"), "x-KONTEXT").extras[NAMED].lower()
    assert pipeline_of(single("fill"), "a").extras[NAMED] == "a fill"


def test_schnell_says_that_it_takes_no_guidance(single: Any) -> None:
    pipeline = pipeline_of(single("schnell"))
    assert settings_of(pipeline, steps=None).steps == 4

    check_given(pipeline, settings_of(pipeline), ())
    assert pipeline.extras["notes"] == []

    for _ in range(2):
        check_given(pipeline, settings_of(pipeline, guidance=3.5), ())
    assert len(pipeline.extras["notes"]) == 1
    assert "schnell" in pipeline.extras["notes"][0]


def test_a_first_layer_of_an_unknown_width_is_refused(single: Any) -> None:
    pipeline = pipeline_of(single("flux"))
    configs = {**pipeline.configs, "transformer": {"in_channels": 96}}

    with pytest.raises(MismatchError, match="32 channels beside the 64"):
        kind(replace(pipeline, configs=configs))


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        (("redux_up.weight", "redux_down.weight"), r"an IP-Adapter for Flux\.1 \(Redux\)"),
        (
            ("distilled_guidance_layer.in_proj.weight", "double_blocks.0.img_attn.qkv.weight",
             "img_in.weight"),
            "is Chroma.* cannot generate with it yet",
        ),
    ],
)  # fmt: skip
def test_what_is_near_to_flux_is_named(tensors: tuple[str, ...], text: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {name: torch.zeros(64, 64) for name in tensors})

    with pytest.raises(UnsupportedError, match=text):
        assemble(open_file(path), "a.safetensors")


def in_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight.abs().max() / 448
    return (weight / scale).to(torch.float8_e4m3fn), scale.float()


@pytest.mark.parametrize("how", ["fp8", "fp8_scaled"])
def test_fill_in_fp8_is_the_picture_of_its_numbers(how: str, tmp_path: Path) -> None:
    """A bare transformer as it is shared, with a prefix and a marker; the rest comes from others."""
    parts = flow_models.lone("fill", tmp_path)
    stored, numbers = {}, {}
    for name, value in parts["transformer"].items():
        key = f"model.diffusion_model.{name}"
        if how == "fp8" or value.ndim != 2:
            stored[key] = value.to(torch.float8_e4m3fn if how == "fp8" else torch.bfloat16)
            numbers[key] = stored[key].float()
        else:
            stored[key], scale = in_fp8(value)
            stored[key.replace(".weight", ".scale_weight")] = scale
            numbers[key] = stored[key].float() * scale
    stored["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    rest = [save(tmp_path / f"{p}.safetensors", parts[p]) for p in ("clip_l", "t5xxl", "vae")]
    pictures = []
    for file, tensors in (("packed", stored), ("numbers", numbers)):
        save_file(tensors, tmp_path / f"{file}.safetensors")
        assembly = assemble(open_file(tmp_path / f"{file}.safetensors"), file)
        assert assembly.identity.variant == "fill"
        for path in rest:
            assembly = assembly.with_parts(lone_parts(open_file(path), assembly, "a").values())
        pipeline = load(assembly, device="cpu", dtype="F32", encoder=True)
        used = settings_of(pipeline, steps=1)
        pictures.append(ours(pipeline, used, Picture(pixels(), 1.0, hole())))

    assert torch.equal(*pictures)


@pytest.mark.parametrize("name", ["fill", "control"])
def test_a_lora_of_dev_fits_the_tools_too(name: str, single: Any, tmp_path: Path) -> None:
    """Its names are those of dev; only the first layer is wider."""
    source = generator(3)
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    down, up = torch.randn(4, 64, generator=source), torch.randn(192, 4, generator=source)
    lora = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    save(tmp_path / "lora.safetensors", {**lora, f"{key}.alpha": torch.tensor(4.0)})
    weights = {k: v.clone() for k, v in load_file(single(name)).items()}
    weights["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"] += 0.5 * up @ down
    save(tmp_path / "baked.safetensors", weights)

    opened = open_with_loras(single(name), ((tmp_path / "lora.safetensors", 0.5, None),))
    pictures = []
    for checkpoint in (opened, open_file(tmp_path / "baked.safetensors")):
        pipeline = load(assemble(checkpoint, name), device="cpu", dtype="F32", encoder=True)
        given = Picture(pixels(2), 1.0, hole())
        drawing = pixels() if name == "control" else None
        pictures.append(ours(pipeline, settings_of(pipeline, steps=1), given, drawing))

    assert float((pictures[0] - pictures[1]).abs().max()) <= 1e-5  # products of other shapes
