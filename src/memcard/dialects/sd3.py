"""Stable Diffusion 3 and 3.5: transformer, autoencoder, CLIP-L, OpenCLIP-bigG, T5-XXL.

Source: Stability-AI/sd3.5 ``mmditx.py``; diffusers ``single_file_utils.py`` and
``transformer_sd3.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from memcard.core.tensors import Specs
from memcard.dialects import _text, _vae
from memcard.dialects._configs import sd3
from memcard.dialects._dialect import Component, Dialect
from memcard.dialects._link import Link, Side, same

_ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
}
_BLOCK = {
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "x_block.attn.proj": "attn.to_out.0",
    "context_block.attn.proj": "attn.to_add_out",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
_QKV = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def _links(specs: Specs, side: Side) -> Sequence[Link] | None:
    marks = (
        ("pos_embed", "joint_blocks.0.context_block.attn.qkv.weight")
        if side == "ldm"
        else ("pos_embed.pos_embed", "transformer_blocks.0.attn.add_q_proj.weight")
    )
    if any(mark not in specs for mark in marks):
        return None
    old, new, leaf = "joint_blocks.{n}", "transformer_blocks.{n}", "{leaf}"
    found = [same("pos_embed", "pos_embed.pos_embed")]
    found += [same(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in _ENDS.items()]
    found += [same(f"{old}.{a}.{leaf}", f"{new}.{b}.{leaf}") for a, b in _BLOCK.items()]
    found += [
        Link((f"{old}.{a}.{leaf}",), tuple(f"{new}.{b}.{leaf}" for b in three))
        for a, three in _QKV.items()
    ]
    # Two norms have shift before scale in the original, after it in diffusers: the final one, and
    # that of the text in the last block, where the text ends.
    final = "final_layer.adaLN_modulation.1", "norm_out.linear"
    found.append(same(f"{final[0]}.{leaf}", f"{final[1]}.{leaf}", "swap"))
    context, last = ("context_block.adaLN_modulation.1", "norm1_context.linear"), _last(specs, side)
    found += [
        same(
            f"joint_blocks.{number}.{context[0]}.{leaf}",
            f"transformer_blocks.{number}.{context[1]}.{leaf}",
            "swap" if number == last else "",
        )
        for number in range(last + 1)
    ]
    return found


def _last(specs: Specs, side: Side) -> int:
    block = (
        "joint_blocks.{}.x_block.attn.qkv.weight"
        if side == "ldm"
        else "transformer_blocks.{}.attn.to_q.weight"
    )
    count = 0
    while block.format(count) in specs:
        count += 1
    return count - 1


PLUGIN = Dialect(
    title="Stable Diffusion 3",
    source="https://github.com/huggingface/diffusers (0.42, loaders/single_file_utils.py)",
    components=(
        Component(
            "transformer",
            ("model.diffusion_model.", "diffusion_model.", ""),
            ("transformer.", ""),
            _links,
        ),
        _vae.component(),
        _text.clip("text_encoder", ("text_encoders.clip_l.transformer.",)),
        _text.clip("text_encoder_2", ("text_encoders.clip_g.transformer.",)),
        _text.t5("text_encoder_3", ("text_encoders.t5xxl.transformer.", "")),
    ),
    configs=sd3,
    tokenizers={"tokenizer": "clip", "tokenizer_2": "clip_bang", "tokenizer_3": "t5"},
)
