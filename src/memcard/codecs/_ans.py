"""Symbols coded with the frequencies of their contexts.

The work is done by the compiled loops; where llvmlite is missing ``_ans_plain`` does the same with numpy,
a hundred times as slowly, to the same bytes. Layout in ``docs/spec/delta.md``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from memcard.codecs._ans_model import LANES, Array, Model, scratch

STATES_BYTES = 4 * LANES
_WORDS_SLACK = LANES  # words that a decoder may read behind the last one of a damaged block
_GROUPS = 64  # of contexts; more tables than that do not fit the second cache
_GROUP_COST = 64  # bits, of its states in the table
_SYMBOL_COST = 7  # bits a frequency takes in the packed table, measured
_FIXED = 16  # costs are counted in bits times 2^16


@cache
def logarithms() -> Array:
    """Return log2 of 0 (taken as 0) to 4095, times 2^16, rounded."""
    values = np.log2(np.maximum(np.arange(4096), 1)) * (1 << _FIXED)
    table: Array = np.rint(values).astype(np.uint32)
    return table


def fit(counts: Array) -> Model:
    """Return groups of contexts that are worth a table of their own, and their frequencies.

    Args:
        counts: [256 contexts, 256 symbols], uint32, not all zero; used up.
    """
    work = kernels()
    first = np.empty(256, np.uint8)
    overhead = _GROUP_COST << _FIXED
    while True:
        found = work.cluster(counts, logarithms(), overhead, _SYMBOL_COST << _FIXED, first)
        if found <= _GROUPS:
            break
        overhead *= 4
    chosen = first[:found].copy()
    frequencies = np.empty((found, 256), np.uint16)
    for row, context in zip(frequencies, chosen.tolist(), strict=True):
        work.scale(counts[context], row)
    return Model(chosen, frequencies)


def coded(symbols: Array, contexts: Array, model: Model, count: int) -> tuple[bytes, bytes]:
    """Code the first ``count`` symbols, a multiple of LANES; return the states and the words."""
    words = scratch("words", 2 * (count + 1)).view("<u2")
    states = np.empty(LANES, "<u4")
    begin = kernels().encode(symbols, contexts, count, model, words, states)
    return states.tobytes(), words[begin : count + 1].tobytes()


def counted(symbols: Array, contexts: Array, count: int) -> Array:
    """Return how often each symbol comes in each context: [256, 256], uint32; valid until the next call."""
    counts = scratch("counts", 2 * 4 << 16).view(np.uint32).reshape(2, 256, 256)
    counts[:] = 0
    kernels().tally(symbols, contexts, count, counts)
    found: Array = counts[0]
    return found


def words_of(part: memoryview) -> Array:
    """Return words as the decoder wants them: with slack behind, for it looks ahead."""
    words = scratch("words", len(part) + 2 * _WORDS_SLACK)
    words[: len(part)] = np.frombuffer(part, np.uint8)
    return words.view("<u2")


def kernels() -> Any:
    """Return the compiled loops, or where they cannot be had those of numpy."""
    try:
        from memcard.codecs import _ans_fast
    except ImportError:
        from memcard.codecs import _ans_plain

        return _ans_plain
    return _ans_fast
