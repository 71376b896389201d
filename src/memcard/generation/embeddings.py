"""Textual inversion: words that a small file teaches to a text encoder.

A file holds one vector or a few for each text encoder, as wide as the vectors of its words. A prompt names
it; the vectors then stand where its name stands.

Layouts that are read: A1111's ``string_to_param`` (.pt) and ``emb_params`` (.safetensors), one encoder;
diffusers' ``<token>``, or one tensor of any name; ``clip_l`` and ``clip_g`` of SDXL and SD 3, also as
``text_encoders_0`` and ``text_encoders_1``.

Source: Gal et al. 2022, arXiv:2208.01618; diffusers ``loaders/textual_inversion.py``; the wiki of
stable-diffusion-webui, "Textual Inversion".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

import torch
from torch import Tensor

from memcard.core.checkpoint import Checkpoint
from memcard.errors import MismatchError, UnsupportedError
from memcard.generation.chunks import named
from memcard.generation.engine import Pipeline
from memcard.generation.prompt import Prompt
from memcard.generation.tokenizer import Tokenizer
from memcard.maths.torch_bridge import Bridge

# Text encoder to vectors, [n, width], float32.
Vectors: TypeAlias = Mapping[str, Tensor]

_ONE: Final = "the text encoder"  # whose vectors a file with a single tensor holds
_PARTS: Final[Mapping[str, str]] = {
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "clip_h": _ONE,
    "emb_params": _ONE,
    "text_encoders_0": "clip_l",
    "text_encoders_1": "clip_g",
}
_TOKEN: Final = re.compile(r"<[^<>]+>")
_PARAM: Final = "string_to_param."
_WANTED: Final[Mapping[str, tuple[str, ...]]] = {
    "text_encoder": ("clip_l", _ONE),
    "text_encoder_2": ("clip_g", _ONE),
}
_ASKED: Final = re.compile(r"\bembedding:([^\s,:<>|]+)", re.IGNORECASE)
_ENDING: Final = re.compile(r"\.(?:pt|bin|safetensors)?$", re.IGNORECASE)


def widths(pipeline: Pipeline) -> dict[str, int]:
    """Return how wide the word vectors of each CLIP of a pipeline are, by component."""
    return {
        name: int(pipeline.modules[name].config.hidden_size)
        for name, tokenizer in pipeline.tokenizers.items()
        if isinstance(tokenizer, Tokenizer) and name in pipeline.modules
    }


def read_embeddings(
    checkpoint: Checkpoint, wanted: Mapping[str, int], name: str, *, label: str | None = None
) -> dict[str, Vectors]:
    """Return the embeddings of a file by name: mostly one.

    Args:
        checkpoint: an opened embedding; it may be closed afterwards.
        wanted: the text encoders to teach and their widths, from ``widths``.
        name: what a prompt calls it, as a rule the file's name without its ending. The tokens of
            diffusers' files keep their names; a single one has this name too.
        label: what to call the file in errors; None for ``name``.

    Raises:
        UnsupportedError: the layout is not known, or it teaches an encoder that takes no embeddings.
        MismatchError: it is for another family: vectors are missing, or not as wide as the encoder's.
    """
    label = label or name
    found: dict[str, Vectors] = {}
    for token, parts in _layout(checkpoint, label).items():
        found[token or name] = _fitted(checkpoint, parts, wanted, label)
    if len(found) == 1:
        found[name] = next(iter(found.values()))
    return found


def with_embeddings(pipeline: Pipeline, found: Mapping[str, Vectors]) -> Pipeline:
    """Return a pipeline whose prompts can name these embeddings too. The models are not touched."""
    known = {**pipeline.extras.get("embeddings", {}), **found}
    return replace(pipeline, extras={**pipeline.extras, "embeddings": known})


def asked(prompt: Prompt, steps: int) -> tuple[str, ...]:
    """Return the names a prompt asks for as ``embedding:name``, as written, without a file's ending."""
    texts = (words.text for _, words in prompt.spans(steps))
    return tuple(dict.fromkeys(_ENDING.sub("", n) for text in texts for n in _ASKED.findall(text)))


def mentioned(prompt: Prompt, steps: int, names: Iterable[str]) -> tuple[str, ...]:
    """Return which of the names a prompt mentions in any way that calls an embedding, in its order."""
    known = tuple(names)
    pieces = (text for _, words in prompt.spans(steps) for text, _ in words.pieces)
    return tuple(dict.fromkeys(n for text in pieces for _, _, n in named(text, known) if n))


def _layout(checkpoint: Checkpoint, label: str) -> dict[str, dict[str, str]]:
    """Return for each word taught ("" if it has no name of its own) part to tensor name."""
    names = [n for n, s in checkpoint.specs.items() if s.dtype.is_float and 0 < len(s.shape) <= 2]
    if tokens := [name for name in names if _TOKEN.fullmatch(name)]:
        return {token: {_ONE: token} for token in tokens}
    parts = {_PARTS[name]: name for name in names if name in _PARTS}
    params = [name for name in names if name.startswith(_PARAM)]
    if not parts and len(params or names) == 1:
        return {"": {_ONE: (params or names)[0]}}
    if parts and len(parts) == len(names):
        return {"": parts}
    shown = ", ".join(list(checkpoint.specs)[:4]) or "nothing"
    raise UnsupportedError(
        f"{label}: not an embedding memcard can read. It holds {len(checkpoint.specs)} tensors: "
        f"{shown}. It reads emb_params, string_to_param, <token>, or clip_l with clip_g; T5 takes no "
        "embeddings."
    )


def _fitted(
    checkpoint: Checkpoint, parts: Mapping[str, str], wanted: Mapping[str, int], label: str
) -> Vectors:
    chosen = {
        component: next((parts[p] for p in _WANTED.get(component, ()) if p in parts), None)
        for component in wanted
    }
    if len(wanted) > 1 and _ONE in parts:  # one encoder's vectors do not teach two
        chosen = dict.fromkeys(chosen)
    if tuple(wanted) == ("text_encoder",) and "clip_g" in parts:
        chosen = dict.fromkeys(chosen)  # SDXL's, whose half would say something else here
    shapes = {name: checkpoint.specs[name].shape for name in parts.values()}
    counts = {shape[0] if len(shape) == 2 else 1 for shape in shapes.values()}
    odd = any(name is None or shapes[name][-1] != wanted[c] for c, name in chosen.items())
    if odd or not chosen or len(counts) > 1 or 0 in counts:
        holds = "; ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        needs = "; ".join(f"{component} {width} wide" for component, width in wanted.items())
        raise MismatchError(
            f"{label}: this embedding does not fit the checkpoint. It holds {holds}; the checkpoint "
            f"needs the same number of vectors for each of: {needs or 'no CLIP at all'}. Choose an "
            "embedding that was made for this family."
        )
    read = Bridge(checkpoint).tensors(name for name in chosen.values() if name)
    return {
        component: read[name].to(torch.float32, copy=True).reshape(-1, wanted[component])
        for component, name in chosen.items()
        if name
    }
