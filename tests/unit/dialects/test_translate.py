"""Our dictionaries against diffusers' own converters: same names, shapes and values."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from torch import Tensor

from fixtures import diffusers_models
from fixtures.diffusers_models import FAMILIES, FLUX_WIDTH, load, save, state
from fixtures.long import mostly_slow
from memcard.core.views import Rearranged
from memcard.dialects import DIALECTS, components, translate
from memcard.errors import MismatchError
from memcard.formats import open_file

State = dict[str, Tensor]


@pytest.fixture(scope="module", params=mostly_slow(FAMILIES, "sd1"))
def pipeline(request: Any, tmp_path_factory: Any) -> tuple[str, dict[str, Any], State, Any]:
    """Family, models, the tensors under diffusers' names, the same in a file of LDM names."""
    models, tensors = diffusers_models.family(request.param)
    path = save(tmp_path_factory.mktemp(request.param) / "d.safetensors", tensors)
    checkpoint = open_file(path)
    ldm = Rearranged(checkpoint, translate(checkpoint.specs, "ldm").arrangements)
    return request.param, models, tensors, ldm


def under(tensors: State, prefix: str) -> State:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def same(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    assert [n for n in wanted if not torch.equal(found[n], wanted[n])] == []


def test_there_and_back_gives_the_same_tensors(pipeline: Any, tmp_path: Path) -> None:
    family, _, tensors, ldm = pipeline
    checkpoint = open_file(save(tmp_path / "ldm.safetensors", load(ldm)))

    found = translate(checkpoint.specs, "diffusers")

    assert found.family == family
    assert found.left_out == ()
    same(load(Rearranged(checkpoint, found.arrangements)), tensors)


def test_the_denoiser_is_what_diffusers_makes_of_it(pipeline: Any) -> None:
    family, models, tensors, ldm = pipeline
    name = next(n for n in models if n in ("unet", "transformer"))
    single = under(load(ldm), "model.diffusion_model.")
    convert = {"sd3": theirs.convert_sd3_transformer_checkpoint_to_diffusers, "flux": narrow_flux()}
    whole = {f"model.diffusion_model.{n}": v for n, v in single.items()}

    if family in convert:
        found = convert[family](dict(single))
    else:
        found = theirs.convert_ldm_unet_checkpoint(whole, models[name].config)

    same(found, under(tensors, f"{name}."))


def test_the_vae_is_what_diffusers_makes_of_it(pipeline: Any) -> None:
    _, models, tensors, ldm = pipeline
    single = load(ldm)
    prefix = "vae." if any(n.startswith("vae.") for n in single) else "first_stage_model."
    single = {f"first_stage_model.{n}": v for n, v in under(single, prefix).items()}

    found = theirs.convert_ldm_vae_checkpoint(single, models["vae"].config)

    same(found, under(tensors, "vae."))


@pytest.mark.parametrize(
    ("family", "name", "prefix"),
    [
        ("sd2", "text_encoder", "cond_stage_model.model."),
        ("sdxl", "text_encoder_2", "conditioner.embedders.1.model."),
        ("sdxl_refiner", "text_encoder_2", "conditioner.embedders.0.model."),
    ],
)
def test_open_clip_is_what_diffusers_makes_of_it(
    family: str, name: str, prefix: str, tmp_path: Path
) -> None:
    models, whole = diffusers_models.family(family)
    tensors = {n: v for n, v in whole.items() if n.startswith(f"{name}.")}
    checkpoint = open_file(save(tmp_path / "d.safetensors", tensors))
    plan = translate(checkpoint.specs, "ldm", family=family)
    single = load(Rearranged(checkpoint, plan.arrangements))

    found = theirs.convert_open_clip_checkpoint(models[name], single, prefix)

    same(found, under(tensors, f"{name}."))
    assert all(n.startswith(prefix) for n in single)


def narrow_flux() -> Callable[[State], State]:
    """diffusers' converter with its one hard-coded width replaced: full width takes gigabytes."""
    source = inspect.getsource(theirs.convert_flux_transformer_checkpoint_to_diffusers)
    assert "inner_dim = 3072" in source
    names: dict[str, Any] = dict(vars(theirs))
    exec(source.replace("inner_dim = 3072", f"inner_dim = {FLUX_WIDTH}"), names)
    return names["convert_flux_transformer_checkpoint_to_diffusers"]


def test_reads_in_odd_pieces_what_it_reads_whole(pipeline: Any) -> None:
    _, _, _, ldm = pipeline
    joined = [n for n, a in ldm.arrangements.items() if len(a.pieces) > 1 or a.transposed]

    for name in joined[:12]:
        whole = bytes(ldm.read(name))
        into = bytearray(len(whole))
        for at in range(0, len(whole), 1013):
            ldm.readinto(name, memoryview(into)[at : at + 1013], at)
        assert bytes(into) == whole


def test_one_run_of_bytes_has_an_extent_and_two_have_none(pipeline: Any) -> None:
    _, _, _, ldm = pipeline

    for name, arrangement in ldm.arrangements.items():
        extent = ldm.extent(name)
        assert (extent is None) == (len(arrangement.pieces) > 1 or arrangement.transposed)
        if extent is not None:
            with extent.path.open("rb") as file:
                file.seek(extent.offset)
                assert file.read(extent.size) == bytes(ldm.read(name))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_link_is_a_bijection_of_names(family: str) -> None:
    tensors = diffusers_models.family(family)[1]
    specs = {n: diffusers_models.small.spec_of(v.numpy()) for n, v in tensors.items()}

    ldm = translate(specs, "ldm")
    back = translate({n: a.spec for n, a in ldm.arrangements.items()}, "diffusers")

    assert {n: a.spec for n, a in back.arrangements.items()} == specs
    assert components(specs).keys() == specs.keys()


def test_a_tensor_no_dictionary_knows_is_refused_by_name(pipeline: Any) -> None:
    family, _, _, ldm = pipeline
    strange = dict(ldm.specs)
    strange["model.diffusion_model.extra.weight"] = next(iter(ldm.specs.values()))

    with pytest.raises(MismatchError, match=r"extra\.weight' has no counterpart"):
        translate(strange, "diffusers")

    assert DIALECTS[family].title


def test_half_a_group_is_refused_by_name(tmp_path: Path) -> None:
    tensors = state({"transformer": diffusers_models.flux()["transformer"]})
    del tensors["transformer.transformer_blocks.1.attn.to_k.weight"]
    specs = {n: diffusers_models.small.spec_of(v.numpy()) for n, v in tensors.items()}

    with pytest.raises(
        MismatchError, match=r"is there, but not 'transformer_blocks\.1\.attn\.to_k"
    ):
        translate(specs, "ldm", family="flux")


def test_old_vae_names_are_understood(tmp_path: Path) -> None:
    tensors = state({"vae": diffusers_models.vae()})
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = dict(tensors)
    for new, before in old.items():
        renamed = {
            name.replace(f"attentions.0.{new}.", f"attentions.0.{before}."): value
            for name, value in renamed.items()
        }
    checkpoint = open_file(save(tmp_path / "old.safetensors", renamed))

    found = translate(checkpoint.specs, "diffusers")

    same(load(Rearranged(checkpoint, found.arrangements)), tensors)


def test_an_uneven_split_is_refused_with_its_shape() -> None:
    from memcard.core.tensors import DTYPES, Spec

    tensors = state({"transformer": diffusers_models.flux()["transformer"]})
    specs = {n: diffusers_models.small.spec_of(v.numpy()) for n, v in tensors.items()}
    ldm = {n: a.spec for n, a in translate(specs, "ldm", family="flux").arrangements.items()}
    name = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"
    ldm[name] = Spec(DTYPES["F32"], (100, FLUX_WIDTH))

    with pytest.raises(MismatchError, match=r"F32 \[100, 64\] cannot be split"):
        translate(ldm, "diffusers", family="flux")


def test_rows_of_different_dtypes_are_not_joined() -> None:
    from memcard.core.tensors import DTYPES, Spec

    tensors = diffusers_models.family("flux")[1]
    specs = {n: diffusers_models.small.spec_of(v.numpy()) for n, v in tensors.items()}
    name = "transformer.transformer_blocks.0.attn.to_k.weight"
    specs[name] = Spec(DTYPES["F16"], specs[name].shape)

    with pytest.raises(MismatchError, match="cannot be rows of one tensor"):
        translate(specs, "ldm")


def test_a_file_of_no_dictionary_is_refused_with_those_there_are() -> None:
    from memcard.core.tensors import DTYPES, Spec

    with pytest.raises(MismatchError, match=r"in no dictionary.*There are: .*Flux"):
        translate({"strange.weight": Spec(DTYPES["F32"], (2,))}, "ldm")


def test_a_lone_vae_fits_several_families_that_agree() -> None:
    tensors = diffusers_models.family("sd1")[1]
    specs = {
        n[4:]: diffusers_models.small.spec_of(v.numpy())
        for n, v in tensors.items()
        if n.startswith("vae.")
    }

    found = translate(specs, "ldm")

    assert {"sd1", "sd2", "sdxl"} <= set(found.families)
    assert all(not name.startswith(("vae.", "first_stage_model.")) for name in found.arrangements)
