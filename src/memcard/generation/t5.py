"""What T5 makes of a prompt.

Emphasis multiplies the states of the emphasised tokens, and nothing is scaled back: T5 gives no pooled state
and its states feed attention, where a longer state is heard more. Weights a little off 1 (0.8 to 1.2) do
something; large ones leave what the models were trained on.

Source: Raffel et al. 2020, arXiv:1910.10683; diffusers ``pipeline_flux.py``,
``pipeline_stable_diffusion_3.py`` (which give T5 no mask: it reads the padding too).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from memcard.generation.t5_tokenizer import Tokens
from memcard.generation.words import Words


class Tokenizer(Protocol):
    """What splits a prompt: T5's own words, or those of UMT5."""

    def tokens(self, words: Words, length: int) -> Tokens:
        """Return exactly ``length`` ids with their weights."""
        ...


def t5_states(
    module: Any,
    tokenizer: Tokenizer,
    words: Words,
    length: int,
    *,
    extras: Mapping[str, Any] | None = None,
    masked: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the states of all tokens, [1, length, width], and which are words, [1, length], int64.

    Args:
        module: transformers' T5EncoderModel or UMT5EncoderModel.
        tokenizer: its words.
        words: the prompt.
        length: tokens, the end and the padding included.
        extras: of the pipeline; the list ``cut`` gets the words that did not fit.
        masked: whether words do not see the padding; most models were trained with it.
    """
    found = tokenizer.tokens(words, length)
    if found.cut and extras and isinstance(extras.get("cut"), list):
        extras["cut"].append(found.cut)
    device = next(module.parameters()).device
    mask = (torch.arange(length, device=device) < found.count).to(torch.int64)[None]
    ids = torch.tensor([found.ids], device=device)
    states: Tensor = module(ids, **({"attention_mask": mask.bool()} if masked else {}))[0]
    if any(weight != 1 for weight in found.weights):
        weights = torch.tensor(found.weights, dtype=states.dtype, device=device)
        states = states * weights[None, :, None]
    return states, mask
