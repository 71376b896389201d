"""What CLIP makes of a prompt: emphasised, of any length, with words that a file taught it.

Emphasis multiplies the states of the emphasised tokens; then the whole chunk is scaled, so that its mean is
what it was. Chunks are read one by one, so that a chunk gives the same bits whatever follows it. A prompt
without emphasis that fits into one chunk gives the bits of transformers' own call.

Source: the wiki of stable-diffusion-webui, "Features", "Infinite prompt length" and "Optimizations" of emphasis;
Gal et al. 2022, arXiv:2208.01618 (textual inversion).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from memcard.generation.chunks import Chunk, chunked
from memcard.generation.tokenizer import Tokenizer
from memcard.generation.words import Words


def clip_states(
    module: Any,
    tokenizer: Tokenizer,
    words: Words,
    *,
    skip: int = 1,
    penultimate: bool = False,
    extras: Mapping[str, Any] | None = None,
    component: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the states of all tokens, [1, places * chunks, width], and the pooled one, [1, width], if any.

    Args:
        module: transformers' CLIPTextModel, with a projection or without.
        tokenizer: its words.
        words: the prompt.
        skip: 1 for the layer the family was trained with, n for n - 1 layers before it.
        penultimate: the family was trained with the second-last layer, without the final norm (SDXL, SD 3).
        extras: of the pipeline. ``embeddings`` has vectors by name and component; the list ``cut`` gets the
            words that did not fit; ``comma`` is how far a full chunk steps back to a comma, 0 for never.
        component: name of the text encoder, to find its vectors; None finds them by their width.

    Raises:
        MismatchError: the prompt names an embedding that is too long for a chunk.
    """
    told = extras or {}
    length = int(module.config.max_position_embeddings)
    vectors = _vectors(told.get("embeddings") or {}, component, module.config.hidden_size)
    counts = {name: len(rows) for name, rows in vectors.items()}
    chunks, cut = chunked(tokenizer, words, length, embeddings=counts, step_back=told.get("comma"))
    if cut and isinstance(told.get("cut"), list) and cut not in told["cut"]:
        told["cut"].append(cut)
    read = [_read(module, c, vectors, skip=skip, penultimate=penultimate) for c in chunks]
    states = [emphasised(found, c) for (found, _), c in zip(read, chunks, strict=True)]
    return states[0] if len(states) == 1 else torch.cat(states, dim=1), read[0][1]


def _vectors(
    embeddings: Mapping[str, Mapping[str, Tensor]], component: str | None, width: int
) -> dict[str, Tensor]:
    """Return the vectors by name that this text encoder can read."""
    found = {}
    for name, parts in embeddings.items():
        fits = [
            rows
            for part, rows in parts.items()
            if (component in (None, part)) and rows.shape[-1] == width
        ]
        if fits:
            found[name] = fits[0]
    return found


def emphasised(states: Tensor, chunk: Chunk) -> Tensor:
    """Return the states, [1, places, width], each times its weight, with the mean they had."""
    if not chunk.weighty:
        return states
    weights = torch.tensor(chunk.weights, dtype=states.dtype, device=states.device)
    heavier = states * weights[None, :, None]
    before, after = states.float().mean(), heavier.float().mean()
    scale = torch.where(after == 0, torch.ones_like(after), before / after)
    return heavier * scale.to(states.dtype)


def _read(
    module: Any, chunk: Chunk, vectors: Mapping[str, Tensor], *, skip: int, penultimate: bool
) -> tuple[Tensor, Tensor | None]:
    """Ask CLIP once: states [1, places, width] and the pooled state."""
    tokens = torch.tensor([chunk.ids], device=next(module.parameters()).device)
    with _taught(module, chunk, vectors):
        found = module(tokens, output_hidden_states=penultimate or skip > 1)
    pooled = found[0] if found[0].ndim == 2 else getattr(found, "pooler_output", None)
    if penultimate:
        return found.hidden_states[-(skip + 1)], pooled
    if skip == 1:
        return found.last_hidden_state, pooled
    text = getattr(module, "text_model", module)
    return text.final_layer_norm(found.hidden_states[-skip]), pooled


@contextmanager
def _taught(module: Any, chunk: Chunk, vectors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the module read an embedding's vectors where the chunk says so."""
    if not chunk.vectors:
        yield
        return

    def replace(_: Any, __: Any, words: Tensor) -> Tensor:
        words = words.clone()
        for place, name, row in chunk.vectors:
            words[:, place] = vectors[name][row].to(words)
        return words

    hook = module.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()
