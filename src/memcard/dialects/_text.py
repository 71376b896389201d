"""The links of text encoders: CLIP as transformers stores it, OpenCLIP, T5.

Single files hold CLIP-L and T5 under transformers' own names. OpenCLIP's differ: query, key and value
are rows of one matrix, and the projection is transposed.

Source: OpenCLIP ``transformer.py``; transformers ``modeling_clip.py``, ``modeling_t5.py``; diffusers
``single_file_utils.py``; llama.cpp gguf-py ``constants.py``, ``tensor_mapping.py`` (T5 encoder); Wan-Video Wan2.1
``wan/modules/t5.py`` (UMT5).
"""

from __future__ import annotations

from collections.abc import Sequence

from memcard.core.tensors import Specs
from memcard.dialects._dialect import Component
from memcard.dialects._link import Link, Side, same

WORDS = "spiece_model"  # a SentencePiece vocabulary, as bytes, that ComfyUI keeps beside an encoder
_TOKENS = "text_model.embeddings.token_embedding.weight"
# transformers 5.6 dropped this level of the names, and reads files with it or without.
_WITH_LEVEL = ((r"^(?=embeddings\.|encoder\.layers\.|final_layer_norm\.)", "text_model."),)

_CLIP = tuple(
    same(name, name)
    for name in (
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        "text_model.encoder.layers.{rest}",
        "text_model.final_layer_norm.{leaf}",
        "text_projection.weight",
    )
)

_LAYER, _BLOCK = "text_model.encoder.layers.{n}", "transformer.resblocks.{n}"
_QKV = ("q_proj", "k_proj", "v_proj")
_OPEN_CLIP = (
    same("token_embedding.weight", _TOKENS),
    same("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    same("ln_final.{leaf}", "text_model.final_layer_norm.{leaf}"),
    same("text_projection", "text_projection.weight", "transpose"),
    same(f"{_BLOCK}.ln_1.{{leaf}}", f"{_LAYER}.layer_norm1.{{leaf}}"),
    same(f"{_BLOCK}.ln_2.{{leaf}}", f"{_LAYER}.layer_norm2.{{leaf}}"),
    same(f"{_BLOCK}.mlp.c_fc.{{leaf}}", f"{_LAYER}.mlp.fc1.{{leaf}}"),
    same(f"{_BLOCK}.mlp.c_proj.{{leaf}}", f"{_LAYER}.mlp.fc2.{{leaf}}"),
    same(f"{_BLOCK}.attn.out_proj.{{leaf}}", f"{_LAYER}.self_attn.out_proj.{{leaf}}"),
    *(
        Link(
            (f"{_BLOCK}.attn.in_proj_{leaf}",),
            tuple(f"{_LAYER}.self_attn.{part}.{leaf}" for part in _QKV),
        )
        for leaf in ("weight", "bias")
    ),
)
# llama.cpp's names, in GGUF files of the encoder.
_GGUF_BLOCK, _HF_BLOCK = r"^enc\.blk\.(\d+)\.", r"encoder.block.\1.layer."
_GGUF_T5 = (
    (r"^token_embd\.", "shared."),
    (r"^enc\.output_norm\.", "encoder.final_layer_norm."),
    (_GGUF_BLOCK + r"attn_rel_b\.", _HF_BLOCK + "0.SelfAttention.relative_attention_bias."),
    (_GGUF_BLOCK + r"attn_norm\.", _HF_BLOCK + "0.layer_norm."),
    (_GGUF_BLOCK + r"attn_([qkvo])\.", _HF_BLOCK + r"0.SelfAttention.\2."),
    (_GGUF_BLOCK + r"ffn_norm\.", _HF_BLOCK + "1.layer_norm."),
    (_GGUF_BLOCK + r"ffn_gate\.", _HF_BLOCK + "1.DenseReluDense.wi_0."),
    (_GGUF_BLOCK + r"ffn_up\.", _HF_BLOCK + "1.DenseReluDense.wi_1."),
    (_GGUF_BLOCK + r"ffn_down\.", _HF_BLOCK + "1.DenseReluDense.wo."),
)
_T5 = tuple(
    same(name, name)
    for name in (
        "shared.weight",
        "encoder.embed_tokens.weight",
        "encoder.block.{rest}",
        "encoder.final_layer_norm.weight",
    )
)

# UMT5 has a bias by distance in every layer, T5 in the first alone; and its words may come along as bytes.
_UMT5_MARK = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
_UMT5_NAMES = tuple(link.ldm[0] for link in _T5)
_UMT5 = (*_T5, same(WORDS, WORDS))
_UMT5_INSIDE = (
    *(same(f"umt5xxl.transformer.{text}", text) for text in _UMT5_NAMES),
    same(WORDS, WORDS),
)
# The names of Wan's authors; others keep them in safetensors.
_WAN_BLOCK, _WAN_LAYER = r"^blocks\.(\d+)\.", r"encoder.block.\1.layer."
_WAN_T5 = (
    *_GGUF_T5,
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (_WAN_BLOCK + r"pos_embedding\.embedding\.", _WAN_LAYER + "0.SelfAttention.relative_attention_bias."),
    (_WAN_BLOCK + r"norm1\.", _WAN_LAYER + "0.layer_norm."),
    (_WAN_BLOCK + r"attn\.([qkvo])\.", _WAN_LAYER + r"0.SelfAttention.\2."),
    (_WAN_BLOCK + r"norm2\.", _WAN_LAYER + "1.layer_norm."),
    (_WAN_BLOCK + r"ffn\.gate\.0\.", _WAN_LAYER + "1.DenseReluDense.wi_0."),
    (_WAN_BLOCK + r"ffn\.fc1\.", _WAN_LAYER + "1.DenseReluDense.wi_1."),
    (_WAN_BLOCK + r"ffn\.fc2\.", _WAN_LAYER + "1.DenseReluDense.wo."),
)  # fmt: skip


def clip(name: str, ldm: tuple[str, ...], *, projected: bool | None = None) -> Component:
    """Return a CLIP text encoder that has transformers' names on both sides.

    Args:
        name: of the diffusers folder.
        ldm: prefixes in single files.
        projected: whether it must have a projection or must have none, where two text encoders have
            to be told apart without a prefix; None for either.
    """

    def links(specs: Specs, side: Side) -> Sequence[Link] | None:
        return _CLIP if _TOKENS in specs and _fits(specs, projected) else None

    spellings: dict[Side, tuple[tuple[str, str], ...]] = {
        "ldm": _WITH_LEVEL,
        "diffusers": _WITH_LEVEL,
    }
    return Component(name, ldm, (f"{name}.", ""), links, spellings)


def open_clip(
    name: str, ldm: tuple[str, ...], *, projected: bool | None = None, idle: str = r"(?!)"
) -> Component:
    """Return a text encoder that has OpenCLIP's names in single files.

    Args:
        name: of the diffusers folder.
        ldm: prefixes in single files.
        projected: as for ``clip``, about diffusers files.
        idle: names that diffusers has no use for.
    """

    def links(specs: Specs, side: Side) -> Sequence[Link] | None:
        if side == "ldm":
            there = "transformer.resblocks.0.attn.in_proj_weight" in specs
        else:
            there = _TOKENS in specs and _fits(specs, projected)
        unused = () if projected is not False else ("text_projection",)
        return [link for link in _OPEN_CLIP if link.ldm[0] not in unused] if there else None

    return Component(name, ldm, (f"{name}.", ""), links, {"diffusers": _WITH_LEVEL}, idle)


def t5(name: str, ldm: tuple[str, ...]) -> Component:
    """Return a T5 encoder, which has transformers' names on both sides, and others in GGUF files."""

    def links(specs: Specs, side: Side) -> Sequence[Link] | None:
        return _T5 if "encoder.block.0.layer.0.SelfAttention.q.weight" in specs else None

    return Component(name, ldm, (f"{name}.", ""), links, {"ldm": _GGUF_T5})


def umt5(name: str, *, outside: tuple[str, ...] = ()) -> tuple[Component, Component]:
    """Return a UMT5 encoder: one within a checkpoint, and one in a file of its own.

    Within ComfyUI's checkpoints its weights lie one level deeper than its words.

    Args:
        name: of the diffusers folder.
        outside: prefixes that a file of its own may have.
    """

    def inside(specs: Specs, side: Side) -> Sequence[Link] | None:
        first = f"umt5xxl.transformer.{_UMT5_MARK}" if side == "ldm" else _UMT5_MARK
        return _UMT5_INSIDE if first in specs else None

    def alone(specs: Specs, side: Side) -> Sequence[Link] | None:
        return _UMT5 if _UMT5_MARK in specs else None

    whole = Component(name, ("text_encoders.",), (f"{name}.",), inside)
    return whole, Component(name, (*outside, ""), (*outside, ""), alone, {"ldm": _WAN_T5})


def _fits(specs: Specs, projected: bool | None) -> bool:
    return projected is None or ("text_projection.weight" in specs) == projected
