"""Image and video transformers: each is named, by its own signs, under any names and packing."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from time import perf_counter

import pytest

from fixtures.dit_keys import (
    EXACT,
    PACKINGS,
    PARTIAL,
    Case,
    Shapes,
    diffusers,
    gguf,
    original,
    others,
    specs,
)
from memcard.architectures import ARCHITECTURES, candidates, identify
from memcard.architectures._family import Family
from memcard.architectures._names import PREFIXES
from memcard.architectures._text_encoders import NAMES
from memcard.core.registry import Registry
from memcard.formats import open_file

ORIGINALS = [name for name, case in EXACT.items() if case.original]
TEXT = "text_encoders."
ONE_OF_EACH = list({case.family: name for name, case in EXACT.items()}.values())


def families() -> Iterator[tuple[str, Family]]:
    for name in {case.family for case in chain(EXACT.values(), (c for c, _ in PARTIAL.values()))}:
        family = ARCHITECTURES[name]
        assert isinstance(family, Family)
        yield name, family


def check(shapes: Shapes, case: Case, dialect: str | None = None) -> None:
    found = candidates(specs(shapes))

    assert list(found) == [case.family]
    evidence = found[case.family]
    assert evidence.variant == case.variant
    assert evidence.modality == case.modality
    assert evidence.reasons
    assert dialect is None or evidence.dialect == dialect


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_original_file_is_one_family_and_no_other(name: str) -> None:
    check(original(name), EXACT[name], "original")


@pytest.mark.parametrize("name", EXACT)
def test_the_names_of_diffusers_are_one_family_and_no_other(name: str) -> None:
    case = EXACT[name]
    if case.diffusers:
        assert list(candidates(specs(diffusers(name)))) == [case.diffusers]
    else:
        check(diffusers(name), case, "diffusers")


@pytest.mark.parametrize("name", PARTIAL)
def test_what_only_a_few_tensors_tell_apart_is_told_apart(name: str) -> None:
    case, made = PARTIAL[name]

    check(made(), case)


@pytest.mark.parametrize("name", others())
def test_what_no_family_is_is_none(name: str) -> None:
    assert dict(candidates(specs(others()[name]))) == {}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_prefix_changes_nothing(name: str) -> None:
    shapes, case = (original if EXACT[name].original else diffusers)(name), EXACT[name]

    for prefix in PREFIXES:
        found = candidates(specs({prefix + key: shape for key, shape in shapes.items()}))
        assert list(found) == [case.family], prefix
        assert found[case.family].variant == case.variant, prefix
        assert found[case.family].root == prefix


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_packing_does_not_hide_the_family(name: str, packing: str) -> None:
    shapes = (original if EXACT[name].original else diffusers)(name)

    assert list(candidates(PACKINGS[packing](shapes))) == [EXACT[name].family]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(
    "name", [n for n, case in EXACT.items() if case.family in ("flux", "flux2", "wan21", "wan22")]
)
def test_packing_does_not_hide_the_variant_of_flux_and_wan(name: str, packing: str) -> None:
    found = candidates(PACKINGS[packing](original(name)))

    assert found[EXACT[name].family].variant == EXACT[name].variant


@pytest.mark.parametrize("packing", PACKINGS)
def test_packing_is_reported(packing: str) -> None:
    found = identify(PACKINGS[packing](original("flux-dev")), {})

    assert found.architecture == "flux"
    assert packing in str(found.quantization)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_file_without_its_first_block_is_no_model(name: str) -> None:
    shapes = (original if EXACT[name].original else diffusers)(name)
    first = re.compile(r"(?:^|\.)(?:block)?0\.")
    rest = {key: shape for key, shape in shapes.items() if not first.search(key)}

    assert dict(candidates(specs(rest))) == {}


def whole(shapes: Shapes) -> Shapes:
    """Put a transformer into a checkpoint, with T5, CLIP-L and an autoencoder of 16 channels."""
    t5, clip = f"{TEXT}t5xxl.transformer.", f"{TEXT}clip_l.transformer.text_model."
    vae = "vae.decoder."
    more = {
        f"{t5}shared.weight": (32128, 4096),
        f"{t5}encoder.final_layer_norm.weight": (4096,),
        f"{t5}encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096),
        f"{t5}encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
        f"{clip}embeddings.token_embedding.weight": (49408, 768),
        f"{clip}embeddings.position_embedding.weight": (77, 768),
        **{f"{clip}encoder.layers.{i}.mlp.fc1.weight": (3072, 768) for i in range(12)},
        f"{vae}conv_in.weight": (512, 16, 3, 3),
        f"{vae}conv_out.weight": (3, 128, 3, 3),
        f"{vae}mid.block_1.conv1.weight": (512, 512, 3, 3),
        f"{vae}up.0.block.0.conv1.weight": (128, 256, 3, 3),
    }
    return {f"model.diffusion_model.{key}": shape for key, shape in shapes.items()} | more


def test_a_whole_checkpoint_of_flux_lacks_nothing() -> None:
    found = identify(specs(whole(original("flux-dev"))), {})

    assert (found.kind, found.architecture, found.variant) == ("checkpoint", "flux", "dev")
    assert found.missing == ()
    assert found.prediction == "flow"


def test_a_bare_transformer_says_what_it_lacks() -> None:
    found = identify(specs(original("flux-dev")), {})

    assert found.kind == "denoiser"
    assert found.missing == (
        "text encoder: CLIP-L",
        "text encoder: T5-XXL",
        "VAE: SD3 or Flux, 16 channels",
    )


def test_a_half_of_wan_22_asks_for_the_other() -> None:
    found = identify(specs(original("wan2.2-i2v-14b")), {})

    assert "low-noise half: or the high-noise one, if this is the low-noise half" in found.missing
    assert "VAE: Wan 2.1, 16 channels" in found.missing


def test_the_small_wan_22_asks_for_its_own_vae() -> None:
    found = identify(specs(original("wan2.2-ti2v-5b")), {})

    assert found.missing == ("text encoder: UMT5-XXL", "VAE: Wan 2.2, 48 channels")


def test_what_shares_tensors_says_so() -> None:
    said = {
        "flux-dev": "Kontext and Krea have the same tensors",
        "wan2.1-t2v-14b": "one half of Wan 2.2: the same tensors",
        "wan2.2-i2v-14b": "one half of a pair, high or low noise",
        "sd3.5-large": "3.5 large or large turbo",
    }
    for name, words in said.items():
        (evidence,) = candidates(specs(original(name))).values()
        assert words in " ".join(evidence.reasons), name
    (sigma,) = candidates(specs(diffusers("pixart-alpha-512"))).values()
    assert "alpha for 256 or 512 pixels: the same tensors" in " ".join(sigma.reasons)


def test_ideogram_says_in_its_metadata_which_half_it_is() -> None:
    half = specs(original("ideogram4"))

    assert identify(half, {}).variant is None
    assert identify(half, {"model_type": "ideogram4_uncond"}).variant == "unconditional half"


SAMPLERS = Registry[object]("memcard.generation.samplers")


def encoders(family: Family) -> set[str]:
    return {*family.text_encoders, *chain(*(v.text_encoders or () for v in family.variants))}


def test_every_family_is_described() -> None:
    for name, family in families():
        assert family.source.startswith("https://"), name
        assert family.original or family.diffusers, name
        assert family.prediction, name
        assert family.defaults.steps > 0, name
        assert family.defaults.width % family.defaults.multiple == 0, name
        assert family.defaults.height % family.defaults.multiple == 0, name
        assert family.defaults.prediction_type == family.prediction, name
        assert family.defaults.sampler in SAMPLERS, name
        assert encoders(family) <= set(NAMES), name
        assert (family.modality == "image") == ("frames" not in family.defaults.extra), name


def test_every_family_here_has_a_list_to_be_tested_with() -> None:
    tested = {case.family for case in EXACT.values()} | {
        case.family for case, _ in PARTIAL.values()
    }
    known = {
        name
        for name, family in ARCHITECTURES.items()
        if isinstance(family, Family) and family.denoiser == "transformer"
    }

    assert known <= tested


def test_a_large_file_is_named_in_no_time() -> None:
    packed = gguf(original("ltx-2"))
    candidates(packed)
    start = perf_counter()
    candidates(packed)

    assert len(packed) > 3000
    assert perf_counter() - start < 0.25  # 0.02 s on the machine it was written on


INDEX = "diffusers/model_index.json"


@pytest.mark.parametrize(
    ("name", "said", "family", "variant"),
    [
        ("wan2.1-t2v-14b", '{"boundary_ratio": 0.875}', "wan22", "text to video 14B"),
        ("wan2.1-t2v-14b", '{"boundary_ratio": null}', "wan21", "text to video, 14B"),
        ("wan2.2-i2v-14b", '{"boundary_ratio": 0.9}', "wan22", "image to video 14B"),
        ("pixart-alpha-512", '{"_class_name": "PixArtAlphaPipeline"}', "pixart_alpha",
         "256 or 512 pixels"),
        ("pixart-sigma-1024", '{"_class_name": "PixArtSigmaPipeline"}', "pixart_sigma", None),
        ("flux-dev", '{"_class_name": "FluxKontextPipeline"}', "flux", "Kontext"),
        ("flux-dev", '{"_class_name": "FluxPipeline"}', "flux", "dev"),
    ],
)  # fmt: skip
def test_a_folder_tells_apart_what_has_the_same_tensors(
    name: str, said: str, family: str, variant: str | None
) -> None:
    found = identify(
        specs({f"transformer.{k}": s for k, s in diffusers(name).items()}), {INDEX: said}
    )

    assert (found.candidates, found.variant) == ((family,), variant)


@pytest.mark.parametrize(
    ("metadata", "variant"),
    [
        ({"modelspec.title": "My Kontext tune"}, "Kontext"),
        ({"modelspec.architecture": "flux-1-dev/kontext"}, "Kontext"),
        ({"general.architecture": "flux", "general.name": "Flux1 Kontext Dev"}, "Kontext"),
        ({"general.architecture": "flux", "general.name": "Flux1 Dev"}, "dev"),
    ],
)
def test_a_single_file_may_say_that_it_is_kontext(metadata: dict[str, str], variant: str) -> None:
    found = identify(specs(original("flux-dev")), metadata)

    assert (found.candidates, found.variant) == (("flux",), variant)


@pytest.mark.parametrize(
    ("name", "family", "taken_for"),
    [
        ("chroma", "chroma", "Flux, whose blocks it has"),
        ("hunyuan-video-t2v", "hunyuan_video", "Flux: both have double_blocks"),
        ("pixart-alpha-1024", "pixart_alpha", "LTX-Video: both have adaln_single"),
        ("allegro", "allegro", "PixArt-Sigma: the same names"),
        ("anima", "anima", "Cosmos-Predict2, whose blocks it has"),
        ("qwen-image", "qwen_image", "SD 1 by diffusers 0.42"),
        ("pixart-sigma-1024", "pixart_sigma", "SD 1 by diffusers 0.42"),
        ("cogvideox-2b", "cogvideox", "SD 1 by diffusers 0.42"),
        ("minimax-h3", "minimax_h3", "SD 1 by diffusers 0.42"),
        ("wan2.2-ti2v-5b", "wan22", "Wan 2.1 image to video 14B by diffusers 0.42"),
    ],
)
def test_what_other_tools_mistake_is_told_right(name: str, family: str, taken_for: str) -> None:
    layouts = [diffusers] if family in ("allegro", "qwen_image") else [original, diffusers]
    layouts = [original] if family == "anima" else layouts

    for layout in layouts:
        assert list(candidates(specs(layout(name)))) == [family], taken_for


def test_a_gguf_file_is_named(tmp_path: Path) -> None:
    """Written by GGUF's own library, read by ours: a narrow twin of Flux, matrices in Q8_0."""
    gguf_library = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    file = tmp_path / "flux.gguf"
    writer = gguf_library.GGUFWriter(str(file), "flux")
    for name, shape in original("flux-schnell").items():
        values = numpy.zeros((32,) * len(shape), numpy.float32)
        packed = gguf_library.GGMLQuantizationType.Q8_0 if len(shape) == 2 else None
        if packed is not None:
            values = gguf_library.quants.quantize(values, packed)
        writer.add_tensor(name, values, raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    checkpoint = open_file(file)
    found = identify(checkpoint.specs, checkpoint.metadata)
    checkpoint.close()

    assert found.architecture == "flux"
    assert found.quantization == "GGUF Q8_0"
