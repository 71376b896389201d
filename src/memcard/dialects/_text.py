"""The links of text encoders: CLIP as transformers stores it, OpenCLIP, T5.

Single files hold CLIP-L and T5 under transformers' own names. OpenCLIP's differ: query, key and value
are rows of one matrix, and the projection is transposed.

Source: OpenCLIP ``transformer.py``; transformers ``modeling_clip.py``, ``modeling_t5.py``; diffusers
``single_file_utils.py``; llama.cpp gguf-py ``constants.py``, ``tensor_mapping.py`` (T5 encoder).
"""

from __future__ import annotations

from collections.abc import Sequence

from memcard.core.tensors import Specs
from memcard.dialects._dialect import Component
from memcard.dialects._link import Link, Side, same

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


def _fits(specs: Specs, projected: bool | None) -> bool:
    return projected is None or ("text_projection.weight" in specs) == projected
