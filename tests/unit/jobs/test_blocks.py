from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from fixtures.sd15 import FULL, shapes
from memcard.jobs._blocks import KINDS, Place, order, places, strip

SD1 = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (f"{SD1}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", ("unet", "input_blocks.4", "cross-attention")),
        (f"{SD1}output_blocks.11.1.transformer_blocks.0.attn1.to_q.weight", ("unet", "output_blocks.11", "attention")),
        (f"{SD1}middle_block.1.transformer_blocks.0.ff.net.2.weight", ("unet", "middle_block", "mlp")),
        (f"{SD1}input_blocks.1.0.in_layers.0.weight", ("unet", "input_blocks.1", "norm")),
        (f"{SD1}input_blocks.1.0.in_layers.2.weight", ("unet", "input_blocks.1", "convolution")),
        (f"{SD1}input_blocks.1.0.emb_layers.1.weight", ("unet", "input_blocks.1", "time")),
        (f"{SD1}input_blocks.0.0.weight", ("unet", "input_blocks.0", "convolution")),
        (f"{SD1}time_embed.2.bias", ("unet", "time_embed", "time")),
        (f"{SD1}out.2.weight", ("unet", "out", "convolution")),
        (f"{SD1}double_blocks.7.img_attn.qkv.weight", ("transformer", "double_blocks.7", "attention")),
        (f"{SD1}double_blocks.7.img_mod.lin.weight", ("transformer", "double_blocks.7", "steering")),
        (f"{SD1}single_blocks.37.linear1.weight", ("transformer", "single_blocks.37", "fused")),
        (f"{SD1}joint_blocks.3.x_block.mlp.fc1.weight", ("transformer", "joint_blocks.3", "mlp")),
        ("unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight", ("unet", "down_blocks.0", "attention")),
        ("down_blocks.0.resnets.0.conv1.weight", ("unet", "down_blocks.0", "convolution")),
        ("transformer.transformer_blocks.12.norm1.linear.weight", ("transformer", "transformer_blocks.12", "steering")),
        ("blocks.3.cross_attn.k.weight", ("transformer", "blocks.3", "cross-attention")),
        ("first_stage_model.decoder.up.2.block.0.conv1.weight", ("vae", "decoder.up.2", "convolution")),
        ("first_stage_model.encoder.mid.attn_1.q.weight", ("vae", "encoder.mid", "attention")),
        ("encoder.down_blocks.1.resnets.0.norm1.weight", ("vae", "encoder.down_blocks.1", "norm")),
        ("first_stage_model.quant_conv.weight", ("vae", "quant_conv", "convolution")),
        (f"{TEXT}encoder.layers.11.self_attn.k_proj.weight", ("text_encoder", "layers.11", "attention")),
        (f"{TEXT}embeddings.token_embedding.weight", ("text_encoder", "embeddings", "embedding")),
        ("conditioner.embedders.1.model.transformer.resblocks.3.mlp.c_fc.weight", ("text_encoder_2", "resblocks.3", "mlp")),
        ("text_encoders.t5xxl.transformer.encoder.block.5.layer.0.SelfAttention.q.weight", ("text_encoder_3", "block.5", "attention")),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_up.weight", ("unet", "input_blocks.4", "cross-attention")),
        ("lora_te_text_model_encoder_layers_3_mlp_fc1.alpha", ("text_encoder", "layers.3", "mlp")),
        ("alphas_cumprod", ("other", "schedule", "other")),
        ("strange", ("other", "strange", "other")),
    ],
)  # fmt: skip
def test_places(name: str, place: tuple[str, str, str]) -> None:
    assert places([name])[name] == Place(*place)


def test_every_tensor_of_a_known_family_has_a_kind_of_layer() -> None:
    found = places(shapes(FULL))

    assert {place.component for place in found.values()} == {"unet", "vae", "text_encoder"}
    assert {place.layer for place in found.values()} <= set(KINDS) - {"other"}


@pytest.mark.parametrize(
    "name", ["sdxl-sgm", "sd3-comfyui", "flux-flux", "sdxl-diffusers_unet_only"]
)
def test_published_key_lists_leave_almost_nothing_unknown(name: str) -> None:
    package = find_spec("sd_mecha")  # importing it takes seconds
    assert package is not None
    assert package.origin
    folder = Path(package.origin).parent / "extensions/builtin/model_configs"
    lines = (folder / f"{name}.yaml").read_text().splitlines()
    keys = [line.split(":")[0].strip() for line in lines if ".weight:" in line or ".bias:" in line]

    found = places(keys)

    assert len(keys) > 500
    assert [key for key, place in found.items() if "other" in (place.layer, place.component)] == []


def test_blocks_come_in_the_order_of_the_model() -> None:
    names = [
        f"{SD1}out.0.weight",
        f"{SD1}output_blocks.10.0.in_layers.0.weight",
        f"{SD1}output_blocks.9.0.in_layers.0.weight",
        f"{SD1}middle_block.0.in_layers.0.weight",
        f"{SD1}input_blocks.2.0.in_layers.0.weight",
        f"{SD1}time_embed.0.weight",
        "first_stage_model.decoder.conv_in.weight",
        "first_stage_model.encoder.conv_out.weight",
        "first_stage_model.encoder.norm_out.weight",
        "first_stage_model.post_quant_conv.weight",
        f"{TEXT}final_layer_norm.weight",
        f"{TEXT}encoder.layers.10.mlp.fc1.weight",
        f"{TEXT}encoder.layers.2.mlp.fc1.weight",
        f"{TEXT}embeddings.token_embedding.weight",
    ]

    blocks = [place.block for place in sorted(places(names).values(), key=order)]

    assert blocks == [
        *("time_embed", "input_blocks.2", "middle_block", "output_blocks.9", "output_blocks.10"),
        *("out", "encoder.norm_out", "encoder.conv_out", "post_quant_conv", "decoder.conv_in"),
        *("embeddings", "layers.2", "layers.10", "final_layer_norm"),
    ]


def test_strip() -> None:
    assert strip(f"{SD1}out.2.weight") == "out.2.weight"
    assert strip("transformer.pos_embed.proj.weight") == "pos_embed.proj.weight"
    assert strip("transformer.resblocks.0.ln_1.weight") == "transformer.resblocks.0.ln_1.weight"
    assert strip("plain") == "plain"
