"""Flux.1: transformer, autoencoder, CLIP-L, T5-XXL.

Source: black-forest-labs/flux ``model.py``, ``modules/layers.py``; diffusers
``single_file_utils.py`` and ``transformer_flux.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from memcard.core.tensors import Specs
from memcard.dialects import _text, _vae
from memcard.dialects._configs import flux
from memcard.dialects._dialect import Component, Dialect
from memcard.dialects._link import Link, Side, same

_ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_NORMS = {
    "double_blocks.{n}.img_attn.norm.query_norm": "transformer_blocks.{n}.attn.norm_q",
    "double_blocks.{n}.img_attn.norm.key_norm": "transformer_blocks.{n}.attn.norm_k",
    "double_blocks.{n}.txt_attn.norm.query_norm": "transformer_blocks.{n}.attn.norm_added_q",
    "double_blocks.{n}.txt_attn.norm.key_norm": "transformer_blocks.{n}.attn.norm_added_k",
    "single_blocks.{n}.norm.query_norm": "single_transformer_blocks.{n}.attn.norm_q",
    "single_blocks.{n}.norm.key_norm": "single_transformer_blocks.{n}.attn.norm_k",
}
_QKV = {
    "double_blocks.{n}.img_attn.qkv": ("to_q", "to_k", "to_v"),
    "double_blocks.{n}.txt_attn.qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
_SINGLE = {"modulation.lin": "norm.linear", "linear2": "proj_out"}


def _links(specs: Specs, side: Side) -> Sequence[Link] | None:
    marks = (
        ("img_in.weight", "double_blocks.0.img_attn.norm.key_norm.scale", "single_blocks.0.linear1.weight")
        if side == "ldm"
        else ("x_embedder.weight", "transformer_blocks.0.attn.norm_added_k.weight", "single_transformer_blocks.0.proj_mlp.weight")
    )  # fmt: skip
    if any(mark not in specs for mark in marks):
        return None
    leaf = "{leaf}"
    found = [same(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in _ENDS.items()]
    found += [
        same(f"double_blocks.{{n}}.{a}.{leaf}", f"transformer_blocks.{{n}}.{b}.{leaf}")
        for a, b in _DOUBLE.items()
    ]
    found += [
        same(f"single_blocks.{{n}}.{a}.{leaf}", f"single_transformer_blocks.{{n}}.{b}.{leaf}")
        for a, b in _SINGLE.items()
    ]
    found += [same(f"{a}.scale", f"{b}.weight") for a, b in _NORMS.items()]
    found += [
        Link((f"{a}.{leaf}",), tuple(f"transformer_blocks.{{n}}.attn.{b}.{leaf}" for b in three))
        for a, three in _QKV.items()
    ]
    # The original holds shift, then scale; diffusers scale, then shift.
    final = "final_layer.adaLN_modulation.1", "norm_out.linear"
    found.append(same(f"{final[0]}.{leaf}", f"{final[1]}.{leaf}", "swap"))
    return [*found, _mixed((*specs[marks[0]].shape, 0)[0])]


def _mixed(width: int) -> Link:
    """Query, key, value and the first half of the MLP are rows of one matrix."""
    block = "single_transformer_blocks.{n}"
    parts = (f"{block}.attn.to_q", f"{block}.attn.to_k", f"{block}.attn.to_v", f"{block}.proj_mlp")
    names = tuple(f"{part}.{{leaf}}" for part in parts)
    return Link(("single_blocks.{n}.linear1.{leaf}",), names, rows=(width, width, width, None))


PLUGIN = Dialect(
    title="Flux.1",
    source="https://github.com/huggingface/diffusers (0.42, loaders/single_file_utils.py)",
    components=(
        Component(
            "transformer",
            ("model.diffusion_model.", "diffusion_model.", ""),
            ("transformer.", ""),
            _links,
        ),
        _vae.component("vae."),
        _text.clip("text_encoder", ("text_encoders.clip_l.transformer.", "")),
        _text.t5("text_encoder_2", ("text_encoders.t5xxl.transformer.", "")),
    ),
    configs=flux,
    tokenizers={"tokenizer": "clip", "tokenizer_2": "t5"},
)
