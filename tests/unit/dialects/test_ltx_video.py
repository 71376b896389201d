"""LTX-Video's dictionary against diffusers' converters and classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs

from fixtures import small, videos
from fixtures.diffusers_models import load, save
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.core.views import Rearranged
from memcard.dialects import Facts, configs, translate
from memcard.dialects._ltx_vae import row
from memcard.errors import MismatchError
from memcard.formats import open_file

VERSIONS = tuple(videos.VAES)
# Names in ltx-video-2b-v0.9, v0.9.1 and v0.9.5 .safetensors, and what diffusers calls them.
KNOWN = {
    "0.9.0": {
        "vae.decoder.up_blocks.4.conv_shortcut.weight": "up_blocks.2.conv_in.conv_shortcut.conv.weight",
        "vae.decoder.up_blocks.7.norm3.norm.bias": "up_blocks.3.conv_in.norm3.bias",
        "vae.decoder.up_blocks.8.conv.conv.weight": "up_blocks.3.upsamplers.0.conv.conv.weight",
        "vae.encoder.down_blocks.9.res_blocks.0.conv1.conv.bias": "mid_block.resnets.0.conv1.conv.bias",
        "vae.encoder.down_blocks.2.conv2.conv.weight": "down_blocks.0.conv_out.conv2.conv.weight",
    },
    "0.9.1": {
        "vae.decoder.last_scale_shift_table": "scale_shift_table",
        "vae.decoder.up_blocks.0.time_embedder.timestep_embedder.linear_2.bias":
            "mid_block.time_embedder.timestep_embedder.linear_2.bias",
        "vae.decoder.up_blocks.2.res_blocks.0.per_channel_scale2": "up_blocks.0.resnets.0.per_channel_scale2",
        "vae.decoder.up_blocks.5.conv.conv.weight": "up_blocks.2.upsamplers.0.conv.conv.weight",
    },
    "0.9.5": {
        "vae.encoder.down_blocks.8.res_blocks.0.conv1.conv.weight": "mid_block.resnets.0.conv1.conv.weight",
        "vae.encoder.down_blocks.3.conv.conv.bias": "down_blocks.1.downsamplers.0.conv.conv.bias",
        "vae.decoder.up_blocks.6.res_blocks.0.scale_shift_table": "up_blocks.2.resnets.0.scale_shift_table",
    },
}  # fmt: skip


def specs_of(models: dict[str, Any]) -> Specs:
    half = DTYPES["BF16"]
    return {
        f"{part}.{name}": Spec(half, tuple(value.shape))
        for part, model in models.items()
        for name, value in model.state_dict().items()
    }


def single(specs: Specs) -> Specs:
    return {n: a.spec for n, a in translate(specs, "ldm").arrangements.items()}


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: Any) -> str:
    return str(request.param)


def test_there_and_back_gives_the_same_tensors(version: str, tmp_path: Path) -> None:
    _, tensors = videos.ltx(version)
    here = open_file(save(tmp_path / "d.safetensors", tensors))
    ldm = load(Rearranged(here, translate(here.specs, "ldm").arrangements))
    there = open_file(save(tmp_path / "ldm.safetensors", ldm))

    found = translate(there.specs, "diffusers")

    assert (found.families, found.left_out) == (("ltx_video",), ())
    back = load(Rearranged(there, found.arrangements))
    assert back.keys() == tensors.keys()
    assert [n for n in back if not torch.equal(back[n], tensors[n])] == []


def test_it_is_what_diffusers_makes_of_it(version: str, tmp_path: Path) -> None:
    models = videos.full_size("2B", version)
    ldm = {n: torch.empty(s.shape, device="meta") for n, s in single(specs_of(models)).items()}

    vae = theirs.convert_ltx_vae_checkpoint_to_diffusers(dict(ldm))
    transformer = theirs.convert_ltx_transformer_checkpoint_to_diffusers(dict(ldm))

    for found, model in ((vae, models["vae"]), (transformer, models["transformer"])):
        wanted = {n: v.shape for n, v in model.state_dict().items()}
        assert {n: v.shape for n, v in found.items()} == wanted


def test_published_names_are_where_diffusers_has_them(version: str) -> None:
    specs = specs_of(videos.full_size("2B", version))
    back = {
        a.pieces[0].name: n for n, a in translate(single(specs), "diffusers").arrangements.items()
    }

    for theirs_, ours in KNOWN[version].items():
        half = theirs_.split(".")[1]
        assert back[theirs_] == f"vae.{half}.{ours}"


@pytest.mark.parametrize("size", videos.TRANSFORMERS)
def test_the_configs_are_those_of_the_published_folders(version: str, size: str) -> None:
    models = videos.full_size(size, version)
    specs = single(specs_of(models))

    found = {p: json.loads(t) for p, t in configs(specs, "ltx_video", Facts()).items()}

    for part, model in models.items():
        said = found[f"{part}/config.json"]
        assert said.pop("_class_name") == type(model).__name__
        for name in ("spatial_compression_ratio", "temporal_compression_ratio"):
            assert said.pop(name, None) == getattr(model, name, None)
        wanted = {k: list(v) if isinstance(v, tuple) else v for k, v in model.config.items()}
        assert said == {k: wanted[k] for k in said}
        assert {k for k in wanted if k not in said} <= {
            "_class_name", "_diffusers_version", "_use_default_values",
            "spatial_compression_ratio", "temporal_compression_ratio",
        }  # fmt: skip
    assert found["model_index.json"]["transformer"] == ["diffusers", "LTXVideoTransformer3DModel"]
    assert found["scheduler/scheduler_config.json"].items() >= videos.LTX_SCHEDULER.items()


def test_statistics_that_nothing_reads_are_left_out(version: str) -> None:
    specs = dict(single(specs_of(videos.full_size("2B", version))))
    more = [
        f"vae.per_channel_statistics.{n}"
        for n in ("channel", "mean-of-stds", "mean-of-stds_over_std-of-means")
    ]
    specs |= dict.fromkeys(more, Spec(DTYPES["F32"], (128,)))

    assert sorted(translate(specs, "diffusers").left_out) == sorted(more)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_a_transformer_alone_has_any_prefix(prefix: str) -> None:
    model = {"transformer": videos.full_size("2B", "0.9.0")["transformer"]}
    specs = {
        prefix + n.removeprefix("model.diffusion_model."): s
        for n, s in single(specs_of(model)).items()
    }

    found = translate(specs, "diffusers")

    assert found.components == ("transformer",)
    assert len(found.arrangements) == len(specs)


def test_half_an_autoencoder_is_read_too(version: str) -> None:
    whole = single(specs_of({"vae": videos.full_size("2B", version)["vae"]}))
    decoder = {n: s for n, s in whole.items() if ".encoder." not in n}

    found = translate(decoder, "diffusers")
    made = json.loads(configs(decoder, "ltx_video", Facts())["vae/config.json"])

    assert len(found.arrangements) == len(decoder)
    assert "decoder_layers_per_block" in made
    assert "block_out_channels" not in made


@pytest.mark.parametrize(
    "name",
    [
        "vae.decoder.conv_in.conv.weight",
        "vae.decoder.up_blocks.0.res_blocks.0.conv1.conv.weight",
        "vae.encoder.down_blocks.0.res_blocks.0.conv1.conv.weight",
        "vae.per_channel_statistics.std-of-means",
        "model.diffusion_model.caption_projection.linear_1.weight",
    ],
)
def test_a_file_that_lacks_what_its_config_is_read_off_is_refused(name: str) -> None:
    specs = dict(single(specs_of(videos.full_size("2B", "0.9.1"))))
    del specs[name]

    with pytest.raises(MismatchError, match="LTX-Video comes nearest"):
        translate(specs, "diffusers")
    configs(specs, "ltx_video", Facts())  # what is whole still has its config; nothing breaks


def test_ltx_2_is_no_ltx_video() -> None:
    specs = dict(single(specs_of(videos.full_size("2B", "0.9.0"))))
    specs["model.diffusion_model.audio_patchify_proj.weight"] = small.spec_of(
        torch.zeros(2, 2).numpy()
    )

    with pytest.raises(MismatchError):
        translate(specs, "diffusers")


def test_a_row_that_does_not_begin_with_layers_is_none() -> None:
    half = DTYPES["F16"]
    ends = {
        f"decoder.{n}.conv.weight": Spec(half, (4, 4, 3, 3, 3)) for n in ("conv_in", "conv_out")
    }
    blocks = {"decoder.up_blocks.0.conv.conv.weight": Spec(half, (4, 4, 3, 3, 3))}

    assert row({**ends, **blocks}, "ldm", "decoder") == []
