"""Wan 2.1's dictionary against diffusers' converters and classes."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs

from fixtures import wan
from fixtures.diffusers_models import load, save
from memcard.architectures import identify
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.core.views import Rearranged
from memcard.dialects import Facts, configs, translate
from memcard.errors import MismatchError
from memcard.formats import open_file

pytest.importorskip("sentencepiece")

# Names in wan2.1_t2v_1.3B and wan_2.1_vae .safetensors, and what diffusers calls them.
KNOWN = {
    "model.diffusion_model.blocks.29.norm3.bias": "transformer.blocks.29.norm2.bias",
    "model.diffusion_model.blocks.0.modulation": "transformer.blocks.0.scale_shift_table",
    "model.diffusion_model.blocks.7.cross_attn.o.weight": "transformer.blocks.7.attn2.to_out.0.weight",
    "model.diffusion_model.head.head.weight": "transformer.proj_out.weight",
    "vae.decoder.upsamples.3.time_conv.weight": "vae.decoder.up_blocks.0.upsamplers.0.time_conv.weight",
    "vae.decoder.upsamples.4.shortcut.weight": "vae.decoder.up_blocks.1.resnets.0.conv_shortcut.weight",
    "vae.decoder.upsamples.14.residual.6.bias": "vae.decoder.up_blocks.3.resnets.2.conv2.bias",
    "vae.encoder.downsamples.5.resample.1.weight": "vae.encoder.down_blocks.5.resample.1.weight",
    "vae.encoder.middle.1.to_qkv.bias": "vae.encoder.mid_block.attentions.0.to_qkv.bias",
    "vae.conv2.bias": "vae.post_quant_conv.bias",
    "text_encoders.umt5xxl.transformer.shared.weight": "text_encoder.shared.weight",
}  # fmt: skip


@cache
def specs_of(size: str = "1.3B") -> Specs:
    half = DTYPES["BF16"]
    return {
        f"{part}.{name}": Spec(half, tuple(value.shape))
        for part, model in wan.full_size(size).items()
        for name, value in model.state_dict().items()
        if not name.endswith("embed_tokens.weight")
    }


@cache
def single() -> Specs:
    return {n: a.spec for n, a in translate(specs_of(), "ldm", family="wan21").arrangements.items()}


def test_there_and_back_gives_the_same_tensors(tmp_path: Path) -> None:
    tensors = wan.tensors()
    here = open_file(save(tmp_path / "d.safetensors", tensors))
    ldm = load(Rearranged(here, translate(here.specs, "ldm").arrangements))
    there = open_file(save(tmp_path / "ldm.safetensors", ldm))

    found = translate(there.specs, "diffusers")

    assert (found.families, found.left_out) == (("wan21",), ())
    back = load(Rearranged(there, found.arrangements))
    assert back.keys() == tensors.keys()
    assert [n for n in back if not torch.equal(back[n], tensors[n])] == []


def test_it_is_what_diffusers_makes_of_it() -> None:
    prefixes = {"transformer": "model.diffusion_model.", "vae": "vae."}
    converters = {
        "transformer": theirs.convert_wan_transformer_to_diffusers,
        "vae": theirs.convert_wan_vae_to_diffusers,
    }

    for part, start in prefixes.items():
        ldm = {
            n.removeprefix(start): torch.empty(s.shape, device="meta")
            for n, s in single().items()
            if n.startswith(start)
        }
        found = {n: tuple(v.shape) for n, v in converters[part](ldm).items()}
        model = wan.full_size("1.3B")[part]
        assert found == {n: tuple(v.shape) for n, v in model.state_dict().items()}


def test_published_names_are_where_diffusers_has_them() -> None:
    there = translate(single(), "diffusers", family="wan21").arrangements
    back = {a.pieces[0].name: n for n, a in there.items()}

    assert {name: back[name] for name in KNOWN} == KNOWN


@pytest.mark.parametrize("size", wan.TRANSFORMERS)
def test_the_configs_are_those_of_the_published_folders(size: str) -> None:
    found = {p: json.loads(t) for p, t in configs(specs_of(size), "wan21", Facts()).items()}

    for part in ("transformer", "vae"):
        said = found[f"{part}/config.json"]
        model = wan.full_size(size)[part]
        assert said.pop("_class_name") == type(model).__name__
        wanted = {k: list(v) if isinstance(v, tuple) else v for k, v in model.config.items()}
        assert said == {k: wanted[k] for k in said}
        rest = {k for k in wanted if k not in said and not k.startswith("_")}
        assert rest <= {"decoder_base_dim", "is_residual", "patch_size"}
    text = found["text_encoder/config.json"]
    assert text["model_type"] == "umt5"
    assert {k: text[k] for k in wan.UMT5_XXL} == wan.UMT5_XXL
    assert found["model_index.json"]["_class_name"] == "WanPipeline"
    assert found["scheduler/scheduler_config.json"].items() >= wan.SCHEDULER.items()


def test_a_transformer_for_pictures_gets_its_own_pipeline() -> None:
    name, seen = "transformer.patch_embedding.weight", "condition_embedder.image_embedder"
    shape = specs_of()[name].shape
    half = DTYPES["BF16"]
    specs = {
        **{n: s for n, s in specs_of().items() if n.startswith("transformer.")},
        name: Spec(half, (shape[0], 36, *shape[2:])),
        f"transformer.{seen}.ff.net.0.proj.weight": Spec(half, (1280, 1280)),
        "transformer.blocks.0.attn2.add_k_proj.weight": Spec(half, (1536, 1536)),
    }

    found = {p: json.loads(t) for p, t in configs(specs, "wan21", Facts()).items()}

    assert found["model_index.json"]["_class_name"] == "WanImageToVideoPipeline"
    config = found["transformer/config.json"]
    assert (config["in_channels"], config["out_channels"], config["image_dim"]) == (36, 16, 1280)
    assert config["added_kv_proj_dim"] == 1536


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_a_transformer_alone_has_any_prefix(prefix: str) -> None:
    start = "model.diffusion_model."
    specs = {prefix + n.removeprefix(start): s for n, s in single().items() if n.startswith(start)}

    found = translate(specs, "diffusers")

    assert (found.components, found.families) == (("transformer",), ("wan21",))
    assert len(found.arrangements) == len(specs)


def test_half_an_autoencoder_is_read_too() -> None:
    decoder = {
        n.removeprefix("vae."): s
        for n, s in single().items()
        if n.startswith(("vae.decoder.", "vae.conv2."))
    }

    found = translate(decoder, "diffusers")
    made = json.loads(configs(decoder, "wan21", Facts())["config.json"])

    assert len(found.arrangements) == len(decoder)
    assert (made["base_dim"], made["dim_mult"], made["num_res_blocks"]) == (96, [1, 2, 4, 4], 2)
    assert made["temperal_downsample"] == [False, True, True]


def test_the_encoder_of_its_authors_has_other_names() -> None:
    half = DTYPES["BF16"]
    layer = {
        "attn.q.weight": "layer.0.SelfAttention.q.weight",
        "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
        "norm1.weight": "layer.0.layer_norm.weight",
        "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
        "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
        "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
        "norm2.weight": "layer.1.layer_norm.weight",
    }
    names = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}  # fmt: skip
    names |= {f"blocks.{i}.{a}": f"encoder.block.{i}.{b}" for i in (0, 1) for a, b in layer.items()}

    found = translate({name: Spec(half, (4, 4)) for name in names}, "diffusers")

    assert found.families == ("wan21",)
    assert {a.pieces[0].name: n for n, a in found.arrangements.items()} == names


def test_a_lone_encoder_and_a_lone_autoencoder_are_known() -> None:
    start = "text_encoders.umt5xxl.transformer."
    words = {"spiece_model": Spec(DTYPES["U8"], (4_548_313,))}
    encoder = {n.removeprefix(start): s for n, s in single().items() if n.startswith(start)} | words
    vae = {n.removeprefix("vae."): s for n, s in single().items() if n.startswith("vae.")}

    found = [identify(specs, {}) for specs in (encoder, vae)]

    assert [one.kind for one in found] == ["text_encoder", "vae"]
    assert "UMT5-XXL" in found[0].evidence[0]
    assert "Wan 2.1" in found[1].evidence[0]


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.patch_embedding.weight",
        "model.diffusion_model.text_embedding.0.weight",
        "model.diffusion_model.blocks.0.ffn.0.weight",
        "vae.decoder.conv1.weight",
        "vae.decoder.head.2.weight",
        "vae.decoder.upsamples.0.residual.2.weight",
    ],
)
def test_a_file_that_lacks_what_its_config_is_read_off_is_refused(name: str) -> None:
    specs = dict(single())
    del specs[name]

    with pytest.raises(MismatchError, match=r"Wan 2\.1"):
        translate(specs, "diffusers", family="wan21")
    configs(specs, "wan21", Facts())  # what is whole still has its config; nothing breaks


def test_vace_and_the_vae_of_wan_2_2_are_strangers() -> None:
    start = "model.diffusion_model."
    plain = {n.removeprefix(start): s for n, s in single().items() if n.startswith(start)}
    half = DTYPES["BF16"]
    vace = {**plain, "vace_patch_embedding.weight": Spec(half, (1536, 96, 1, 2, 2))}
    vae = {n.removeprefix("vae."): s for n, s in single().items() if n.startswith("vae.")}
    first = vae["decoder.conv1.weight"].shape
    vae["decoder.conv1.weight"] = Spec(half, (first[0], 48, *first[2:]))

    for specs in (vace, vae):
        with pytest.raises(MismatchError):
            translate(specs, "diffusers", family="wan21")
