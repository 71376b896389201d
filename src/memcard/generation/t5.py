"""What T5 makes of a prompt.

Emphasis multiplies the states of the emphasised tokens, and nothing is scaled back: T5 gives no pooled state
and its states feed attention, where a longer state is heard more. Weights a little off 1 (0.8 to 1.2) do
something; large ones leave what the models were trained on.

Source: Raffel et al. 2020, arXiv:1910.10683; diffusers ``pipeline_flux.py``,
``pipeline_stable_diffusion_3.py`` (which give T5 no mask: it reads the padding too).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from memcard.generation.t5_tokenizer import T5Tokenizer
from memcard.generation.words import Words


def t5_states(
    module: Any,
    tokenizer: T5Tokenizer,
    words: Words,
    length: int,
    *,
    extras: Mapping[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the states of all tokens, [1, length, width], and which are words, [1, length], int64.

    Args:
        module: transformers' T5EncoderModel.
        tokenizer: its words.
        words: the prompt.
        length: tokens, the end and the padding included.
        extras: of the pipeline; the list ``cut`` gets the words that did not fit.
    """
    found = tokenizer.tokens(words, length)
    if found.cut and extras and isinstance(extras.get("cut"), list):
        extras["cut"].append(found.cut)
    device = next(module.parameters()).device
    states: Tensor = module(torch.tensor([found.ids], device=device))[0]
    if any(weight != 1 for weight in found.weights):
        weights = torch.tensor(found.weights, dtype=states.dtype, device=device)
        states = states * weights[None, :, None]
    mask = (torch.arange(length, device=device) < found.count).to(torch.int64)[None]
    return states, mask
