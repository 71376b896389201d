"""Every UNet family at full size, in both layouts and under every prefix: named, and by one only."""

import random
import subprocess
import sys
import time

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_animatediff_checkpoint_to_diffusers,
    convert_ldm_unet_checkpoint,
    convert_stable_cascade_unet_single_file_to_diffusers,
)

from fixtures.unets import (
    SIZES,
    Shapes,
    cascade,
    cascade_original,
    config,
    diffusers_unet,
    ldm_unet,
    motion_module,
    motion_module_original,
    svd_ldm_part,
    svd_unet,
)
from memcard.architectures import ARCHITECTURES, candidates
from memcard.architectures._names import PREFIXES
from memcard.core.architecture import Architecture, Evidence
from memcard.core.tensors import DTYPES, Spec, Specs

LAYOUTS = {"ldm": ldm_unet, "diffusers": diffusers_unet}
WRAPPED = (*PREFIXES, "student.", "module.model.diffusion_model.")
# What a converter of diffusers 0.42 leaves out.
NOT_CONVERTED = ("time_embedding.cond_proj.", "encoder_hid_proj.")


def specs_of(shapes: Shapes, prefix: str = "") -> Specs:
    return {prefix + name: Spec(DTYPES["F16"], shape) for name, shape in shapes.items()}


def meta(shapes: Shapes, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + n: torch.empty(shape, device="meta") for n, shape in shapes.items()}


def only(specs: Specs) -> tuple[str, Evidence]:
    found = candidates(specs)
    assert len(found) == 1, dict(found)
    return next(iter(found.items()))


@pytest.mark.parametrize("name", SIZES)
def test_diffusers_own_converter_takes_one_layout_of_the_fixture_to_the_other(name: str) -> None:
    options = {"class_embed_type": None, "addition_embed_type": None, **config(SIZES[name])}
    made = convert_ldm_unet_checkpoint(meta(ldm_unet(name), "model.diffusion_model."), options)

    found = {key: tuple(value.shape) for key, value in made.items()}

    wanted = diffusers_unet(name).items()
    assert found == {k: shape for k, shape in wanted if not k.startswith(NOT_CONVERTED)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SIZES)
def test_each_unet_is_named_by_one_family_only_and_under_every_prefix(
    name: str, layout: str
) -> None:
    family, _, variant = name.partition("/")
    for prefix in WRAPPED if name in ("sd1", "sdxl") else WRAPPED[:1]:
        found, evidence = only(specs_of(LAYOUTS[layout](name), prefix))

        assert (found, evidence.variant or "") == (family, variant), prefix
        assert (evidence.dialect, evidence.root) == (layout, prefix)
        assert (evidence.denoiser, evidence.kind) == ("unet", "denoiser")


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl/inpainting"])
def test_an_ema_alone_is_known_by_its_names_without_dots(name: str) -> None:
    ema = {n.replace(".", ""): shape for n, shape in ldm_unet(name).items()}
    family, evidence = only(specs_of(ema, "model_ema.diffusion_model"))

    assert family == name.partition("/")[0]
    assert evidence.root == "model_ema.diffusion_model"


@pytest.mark.parametrize("prefix", ["", "unet.", "model.diffusion_model."])
@pytest.mark.parametrize("layout", [svd_unet, svd_ldm_part])
def test_stable_video_diffusion_is_not_taken_for_pix2pix(layout, prefix: str) -> None:
    family, evidence = only(specs_of(layout(), prefix))

    assert (family, evidence.variant) == ("svd", "image to video")
    assert evidence.modality == "video"
    assert str(evidence.needs[0]) == "image encoder: CLIP-H vision"


@pytest.mark.parametrize("stage", ["B", "C"])
def test_both_stages_of_cascade_are_known_in_both_layouts(stage: str) -> None:
    made = convert_stable_cascade_unet_single_file_to_diffusers(
        {name: torch.empty(shape, device="meta") for name, shape in cascade_original(stage).items()}
    )
    variant = {"B": "stage B, 1.5B", "C": "stage C, 3.6B"}[stage]

    assert {k: tuple(v.shape) for k, v in made.items()} == cascade(stage)
    for shapes, dialect in ((cascade(stage), "diffusers"), (cascade_original(stage), "original")):
        family, evidence = only(specs_of(shapes, "model.diffusion_model."))
        assert (family, evidence.variant, evidence.dialect) == ("stable_cascade", variant, dialect)


@pytest.mark.parametrize("prefix", ["", "module.", "motion_adapter."])
@pytest.mark.parametrize("version", ["v1", "v2", "v3", "SDXL"])
def test_motion_modules_say_which_version_they_are(version: str, prefix: str) -> None:
    names = {"SDXL": "for SDXL"}.get(version, f"{version} for SD 1.x")
    for shapes in (motion_module(version), motion_module_original(version)):
        family, evidence = only(specs_of(shapes, prefix))

        assert (family, evidence.variant) == ("animatediff", names)
        assert (evidence.kind, evidence.modality) == ("motion_module", "video")


def test_the_original_motion_module_is_what_diffusers_reads() -> None:
    original = {n: s for n, s in motion_module_original("v2").items() if "pos_encoder" not in n}
    made = convert_animatediff_checkpoint_to_diffusers(meta(original))
    wanted = {n: s for n, s in motion_module("v2").items() if "pos_embed" not in n}

    assert {k: tuple(v.shape) for k, v in made.items()} == wanted


def test_evidence_names_the_tensor_and_the_number() -> None:
    _, evidence = only(specs_of(ldm_unet("sdxl")))

    assert any("label_emb.0.0.weight is 2816 wide" in reason for reason in evidence.reasons)
    assert any("transformer_blocks.0.attn2.to_k" in reason for reason in evidence.reasons)


STRANGE: dict[str, Shapes] = {
    "one random tensor": {"weight": (3, 4)},
    "names without shapes that fit": dict.fromkeys(ldm_unet("sdxl"), (7,)),
    "SDXL with another pooled width": ldm_unet("sdxl") | {"label_emb.0.0.weight": (1280, 3000)},
    "half of SDXL": {n: s for n, s in ldm_unet("sdxl").items() if "output" not in n},
    "SDXL one layer less deep": {
        n: s for n, s in ldm_unet("sdxl").items() if ".7.1.transformer_blocks.9" not in n
    },
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_nobody_published_is_unknown(what: str) -> None:
    assert dict(candidates(specs_of(STRANGE[what]))) == {}


@pytest.mark.parametrize("seed", range(20))
def test_random_tensors_are_never_a_family(seed: int) -> None:
    rng = random.Random(seed)
    words = ("model", "blocks", "weight", "bias", "attn", "0", "1", "proj", "conv", "out")
    shapes = {
        ".".join(rng.choices(words, k=rng.randint(1, 5))): tuple(rng.choices((1, 4, 320), k=2))
        for _ in range(200)
    }
    assert dict(candidates(specs_of(shapes))) == {}


def test_small_twins_of_the_families_that_convert_are_found() -> None:
    for name in ("sd1", "sd2", "sdxl"):
        narrow = {
            n: tuple(max(1, d // 16) if d > 16 else d for d in shape)
            for n, shape in ldm_unet(name).items()
        }
        assert only(specs_of(narrow))[0] == name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_family_keeps_the_protocol_and_says_where_it_comes_from(name: str) -> None:
    family = ARCHITECTURES[name]

    assert isinstance(family, Architecture)
    assert family.title
    assert family.source.startswith(("https://", "docs/"))
    assert family.defaults.steps > 0
    assert family.defaults.width % 8 == family.defaults.height % 8 == 0


def test_three_thousand_tensors_are_judged_in_fifty_milliseconds() -> None:
    shapes = ldm_unet("sdxl")
    shapes |= {f"conditioner.embedders.1.model.more.{i}.weight": (8, 8) for i in range(1320)}
    specs = specs_of(shapes, "model.diffusion_model.")
    candidates(specs)  # imports the families
    times = []
    for _ in range(5):
        start = time.process_time()
        candidates(specs)
        times.append(time.process_time() - start)

    assert len(specs) >= 3000
    assert min(times) < 0.05


def test_judging_imports_neither_numpy_nor_torch() -> None:
    program = (
        "import sys; from memcard.architectures import identify; identify({}, {}); "
        "print(sorted({'numpy', 'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
