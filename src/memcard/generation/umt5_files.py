"""The words of a UMT5 as the files transformers reads a tokenizer from.

``tokenizer.json`` says all of it, so that a folder loads without the packages sentencepiece and protobuf;
``spiece.model`` goes along as it was.

Source: the tokenizer folder of ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers``; tokenizers 0.23 (``tokenizer.json``).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from memcard.generation.umt5_model import SentencePieceModel, read_model
from memcard.generation.umt5_normalizer import BLANK

CLASS = (
    "PreTrainedTokenizerFast"  # of transformers: takes the file as it is, T5's has ids of its own
)


def umt5_files(data: bytes, label: str, *, length: int = 512) -> Mapping[str, bytes]:
    """Return the files of a tokenizer folder by name.

    Args:
        data: a SentencePiece model.
        label: what to call it in errors.
        length: most tokens of a prompt, the end included.

    Raises:
        CorruptError, UnsupportedError: see ``read_model``.
    """
    model = read_model(data, label)
    special = {
        "eos_token": model.pieces[model.end].text,
        "pad_token": model.pieces[model.padding].text,
        "unk_token": model.pieces[model.unknown].text,
    }
    config = {"tokenizer_class": CLASS, "model_max_length": length, **special}
    config["clean_up_tokenization_spaces"] = False
    return {
        "spiece.model": data,
        "tokenizer.json": json.dumps(_whole(model), ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
        "special_tokens_map.json": json.dumps(special, indent=2).encode(),
    }


def _whole(model: SentencePieceModel) -> dict[str, Any]:
    marked = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "always", "split": True}
    if not model.add_prefix:
        marked["prepend_scheme"] = "never"
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": piece.text, "special": piece.kind != "user", **_PLAIN}
            for i, piece in enumerate(model.pieces)
            if piece.kind in ("control", "unknown", "user")
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": marked,
        "post_processor": _end(model),
        "decoder": marked,
        "model": {
            "type": "Unigram",
            "unk_id": model.unknown,
            "vocab": [[piece.text, piece.score] for piece in model.pieces],
            "byte_fallback": model.byte_fallback,
        },
    }


_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def _normalizers(model: SentencePieceModel) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    if model.charsmap:
        text = base64.b64encode(model.charsmap).decode()
        made.append({"type": "Precompiled", "precompiled_charsmap": text})
    if model.collapse:
        made.append({"type": "Strip", "strip_left": True, "strip_right": True})
        made.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return made


def _end(model: SentencePieceModel) -> dict[str, Any]:
    """Return what puts the end behind a prompt."""
    text = model.pieces[model.end].text

    def shape(*names: str) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for name in names:
            made.append({"Sequence": {"id": name, "type_id": 0}})
            made.append({"SpecialToken": {"id": text, "type_id": 0}})
        return made

    return {
        "type": "TemplateProcessing",
        "single": shape("A"),
        "pair": shape("A", "B"),
        "special_tokens": {text: {"id": text, "ids": [model.end], "tokens": [text]}},
    }
