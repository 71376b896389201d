"""Which text or image encoder a set of tensors is, told by its layout, width, depth and vocabulary.

Language models share one layout; they are told apart by vocabulary, width and layers. One that is in
no table is described by those numbers.

Source: the ``config.json`` of each model on the Hub; transformers' modelling files; llama.cpp's
names for GGUF.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from memcard.architectures._names import Names, Root

Size: TypeAlias = tuple[int, int, int]  # vocabulary, width, layers

# What a wrapper puts before the encoder's own names.
_INNER: Final = (
    *("", "transformer.text_model.", "text_model.", "transformer.", "transformer.model.", "model."),
    *("model.language_model.", "language_model.model.", "language_model.", "encoder."),
    *("transformer.model.language_model.", "transformer.language_model.model."),
)
_INNER_VISION: Final = (
    *("", "vision_model.", "transformer.vision_model.", "model.vision_model.", "visual."),
    *("model.visual.", "open_clip.model.visual.", "transformer."),
)

_EYES: Final = ("visual.", "model.visual.", "vision_model.", "vision_tower.", "model.vision_tower.")

_CLIP: Final[Mapping[int, str]] = {512: "CLIP-B", 768: "CLIP-L", 1024: "OpenCLIP-H", 1280: "CLIP-G"}
_VISION: Final[Mapping[int, str]] = {768: "CLIP-B vision", 1024: "CLIP-L vision",
    1280: "CLIP-H vision", 1664: "CLIP-G vision"}  # fmt: skip

_T5: Final[Mapping[tuple[int, int], str]] = {  # vocabulary, width
    (32128, 512): "T5-small",
    (32128, 768): "T5-base",
    (32128, 2048): "T5-XL",
    (32128, 4096): "T5-XXL",
    (256384, 4096): "UMT5-XXL",
    (256384, 2048): "UMT5-XL",
    (256384, 768): "UMT5-base",
    (250112, 2048): "mT5-XL",
    (250112, 4096): "mT5-XXL",
    (250112, 1024): "mT5-large",
    (250112, 768): "mT5-base",
    (384, 1472): "ByT5-small",
    (384, 1536): "ByT5-base",
}
_LANGUAGE: Final[Mapping[Size, str]] = {
    (128256, 4096, 32): "Llama-3.1-8B",
    (128320, 4096, 32): "LLaVA-Llama-3-8B",
    (128256, 2048, 16): "Llama-3.2-1B",
    (128256, 3072, 28): "Llama-3.2-3B",
    (256000, 2304, 26): "Gemma-2-2B",
    (262144, 1152, 26): "Gemma-3-1B",
    (262208, 2560, 34): "Gemma-3-4B",
    (262208, 3840, 48): "Gemma-3-12B",
    (262144, 2560, 34): "Gemma-3-4B",
    (262144, 3840, 48): "Gemma-3-12B",
    (152064, 3584, 28): "Qwen2.5-VL-7B",
    (151936, 2048, 36): "Qwen2.5-VL-3B",
    (151936, 1536, 28): "Qwen2-1.5B",
    (151936, 1024, 28): "Qwen3-0.6B",
    (151936, 2048, 28): "Qwen3-1.7B",
    (151936, 2560, 36): "Qwen3-4B",
    (151936, 4096, 36): "Qwen3-8B",
    (151936, 5120, 64): "Qwen3-32B",
    (131072, 5120, 40): "Mistral-Small-3",
    (131072, 3072, 26): "Ministral-3-3B",
    (32000, 4096, 32): "Llama-2 or Mistral, 7B",
    (65024, 4096, 28): "ChatGLM3-6B",
    (151552, 4096, 40): "GLM-4-9B",
}
NAMES: Final = (
    *_CLIP.values(), *_VISION.values(), *_T5.values(), "Pile-T5-XL", "T5-11B",
    *dict.fromkeys(_LANGUAGE.values()), "Qwen3-VL-4B", "Qwen3-VL-8B", "Qwen3-VL-32B", "BERT",
    "Chinese CLIP (BERT)", "XLM-RoBERTa", "SigLIP vision", "DINOv2 vision", "Jina CLIP v2",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoder:
    """What was recognised."""

    name: str  # such as "CLIP-L"
    detail: str  # such as "12 layers"

    def __str__(self) -> str:
        return f"{self.name}, {self.detail}"


def text_encoder(names: Names, prefix: str = "") -> Encoder | None:
    """Recognise a text encoder below a prefix; None if there is none."""
    for inner in _INNER:
        root = names.root(prefix + inner)
        if not root.specs:
            continue
        for look in (_clip, _open_clip, _t5, _wan_t5, _language, _glm, _bert):
            if (found := look(root)) is not None:
                return _seeing(found, names.root(prefix))
    return None


def _seeing(found: Encoder, whole: Root) -> Encoder:
    """Say so if the image half of a model lies beside the half that reads."""
    if not any(whole.below(start) for start in _EYES):
        return found
    name = found.name
    if name.startswith("Qwen3-"):
        name = name.replace("Qwen3-", "Qwen3-VL-")
    return Encoder(name, f"{found.detail}, with its image half")


def image_encoder(names: Names, prefix: str = "") -> Encoder | None:
    """Recognise an image encoder below a prefix; None if there is none."""
    for inner in _INNER_VISION:
        root = names.root(prefix + inner)
        if root.specs and (found := _vision(root)) is not None:
            return found
    return None


def _size(root: Root, key: str, axis: int = -1) -> int:
    shape = root.shape(key) if key in root else None
    return shape[axis] if shape and len(shape) >= max(2, axis + 1) else 0


def _layers(root: Root, pattern: str) -> int:
    number = 0
    while pattern.format(number) in root:
        number += 1
    return number


def _clip(root: Root) -> Encoder | None:
    if "embeddings.position_embedding.weight" not in root:
        return None
    layers = _layers(root, "encoder.layers.{}.mlp.fc1.weight")
    wide = _size(root, "embeddings.token_embedding.weight")
    if not layers or not wide:
        return None
    return Encoder(_CLIP.get(wide, f"CLIP, {wide} wide"), f"{layers} layers")


def _open_clip(root: Root) -> Encoder | None:
    layers = _layers(root, "transformer.resblocks.{}.attn.in_proj_weight")
    wide = _size(root, "token_embedding.weight")
    if not layers or not wide:
        return None
    return Encoder(_CLIP.get(wide, f"OpenCLIP, {wide} wide"), f"{layers} layers")


def _t5(root: Root) -> Encoder | None:
    hf = "encoder.block.{}.layer.0.SelfAttention.q.weight"
    bare, gguf = "block.{}.layer.0.SelfAttention.q.weight", "enc.blk.{}.attn_q.weight"
    layers = max(_layers(root, pattern) for pattern in (hf, bare, gguf))
    if not layers:
        return None
    tables = ("shared.weight", "encoder.embed_tokens.weight", "embed_tokens.weight",
              "token_embd.weight")  # fmt: skip
    table = next((t for t in tables if t in root), "")
    vocabulary, wide = _size(root, table, 0), _size(root, table)
    # UMT5 has a bias by distance in every layer, T5 only in the first.
    own = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in root
    name = _T5.get((vocabulary, wide), f"T5, {wide} wide, vocabulary {vocabulary}")
    if (vocabulary, wide) == (32128, 2048) and own:
        name = "Pile-T5-XL"
    if (vocabulary, wide) == (32128, 1024):
        inner = _size(root, "encoder.block.0.layer.1.DenseReluDense.wi.weight", 0)
        name = "T5-11B" if inner == 65536 else "T5-large"
    return Encoder(name, f"{layers} layers")


def _wan_t5(root: Root) -> Encoder | None:
    """Wan's own layout of UMT5."""
    layers = _layers(root, "blocks.{}.attn.q.weight")
    vocabulary, wide = (
        _size(root, "token_embedding.weight", 0),
        _size(root, "token_embedding.weight"),
    )
    if not layers or "blocks.0.pos_embedding.embedding.weight" not in root:
        return None
    return Encoder(_T5.get((vocabulary, wide), f"UMT5, {wide} wide"), f"{layers} layers")


def _language(root: Root) -> Encoder | None:
    layers = _layers(root, "layers.{}.self_attn.q_proj.weight")
    gguf = _layers(root, "blk.{}.attn_q.weight")
    table = "token_embd.weight" if gguf else "embed_tokens.weight"
    vocabulary, wide = _size(root, table, 0), _size(root, table)
    size = (vocabulary, wide, layers or gguf)
    if not size[2] or not wide:
        return None
    plain = f"language model, {wide} wide, vocabulary {vocabulary}"
    name = _LANGUAGE.get(size, plain)
    return Encoder(name, f"{size[2]} layers")


def _glm(root: Root) -> Encoder | None:
    key = "encoder.layers.{}.self_attention.query_key_value.weight"
    layers, table = _layers(root, key), "embedding.word_embeddings.weight"
    if not layers or table not in root:
        return None
    size = (_size(root, table, 0), _size(root, table), layers)
    return Encoder(_LANGUAGE.get(size, f"GLM, {size[1]} wide"), f"{layers} layers")


def _bert(root: Root) -> Encoder | None:
    for start in ("", "bert.", "roberta."):
        layers = _layers(root, start + "encoder.layer.{}.attention.self.query.weight")
        table = f"{start}embeddings.word_embeddings.weight"
        if layers and table in root:
            vocabulary = _size(root, table, 0)
            name = {47020: "Chinese CLIP (BERT)", 250002: "XLM-RoBERTa"}.get(vocabulary, "BERT")
            return Encoder(name, f"{layers} layers, vocabulary {vocabulary}")
    return None


def _vision(root: Root) -> Encoder | None:
    if (found := _open_clip_vision(root)) is not None:
        return found
    layers = _layers(root, "encoder.layers.{}.mlp.fc1.weight")
    patch = "embeddings.patch_embedding.weight"
    if layers and patch in root:
        wide = (root.shape(patch) or (0,))[0]
        name = _VISION.get(wide, f"vision transformer, {wide} wide")
        if "embeddings.class_embedding" not in root:
            name = "SigLIP vision"  # it has no class token
        return Encoder(name, f"{layers} layers")
    keys = ("encoder.layer.{}.attention.attention.query.weight",
            "encoder.layer.{}.attention.q_proj.weight")  # fmt: skip
    layers = max(_layers(root, key) for key in keys)
    if layers and "embeddings.cls_token" in root:
        return Encoder("DINOv2 vision", f"{layers} layers")
    return None


def _open_clip_vision(root: Root) -> Encoder | None:
    layers = _layers(root, "transformer.resblocks.{}.attn.in_proj_weight")
    if not layers or "conv1.weight" not in root or "class_embedding" not in root:
        return None
    wide = (root.shape("conv1.weight") or (0,))[0]
    return Encoder(_VISION.get(wide, f"vision transformer, {wide} wide"), f"{layers} layers")
