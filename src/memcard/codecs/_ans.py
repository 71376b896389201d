"""Symbols coded with the frequencies of their contexts.

The work is done by the compiled loops; where llvmlite is missing ``_ans_plain`` does the same with numpy,
a hundred times as slowly, to the same bytes. Layout in ``docs/spec/delta.md``.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import numpy as np
import zstandard

from memcard.codecs._ans_model import LANES, TABLE_BYTES, Array, Model, scratch
from memcard.errors import CorruptError

STATES_BYTES = 4 * LANES
_WORDS_SLACK = LANES  # words that a decoder may read behind the last one of a damaged block
_GROUPS = 64  # of contexts; more tables than that do not fit the second cache
_GROUP_COST = 64  # bits, of its states in the table
_SYMBOL_COST = 7  # bits a frequency takes in the packed table, measured
_FIXED = 16  # costs are counted in bits times 2^16
_LEVEL = 3  # of zstd, for tables
_FAULTS = {
    1: "the groups of a block are out of order",
    2: "the tables of a block have another size than they say",
    3: "the frequencies of a block do not add up",
}
_OWN = threading.local()


@cache
def logarithms() -> Array:
    """Return log2 of 0 (taken as 0) to 4095, times 2^16, rounded."""
    values = np.log2(np.maximum(np.arange(4096), 1)) * (1 << _FIXED)
    table: Array = np.rint(values).astype(np.uint32)
    return table


def fitted(symbols: Array, contexts: Array, count: int) -> Model:
    """Return groups of contexts that are worth a table of their own, and how often each symbol comes in them.

    Args:
        symbols: to be coded.
        contexts: one per symbol.
        count: how many of them count; at least one.
    """
    work, counts, used = kernels(), _counts(), scratch("used", 256)
    first = np.empty(256, np.uint8)
    overhead = _GROUP_COST << _FIXED
    try:
        work.tally(symbols, contexts, count, counts, used)
        while True:
            found = work.cluster(
                counts[0], used, logarithms(), overhead, _SYMBOL_COST << _FIXED, first
            )
            if found <= _GROUPS:
                break
            overhead *= 4
        frequencies = np.empty((found, 256), np.uint16)
        work.scales(counts[0], first[:found], frequencies)
    except BaseException:
        _OWN.counts = None  # it must hold zeros
        raise
    return Model(first[:found], frequencies)


def _counts() -> Array:
    """Return two tables of 256 contexts and 256 symbols, this thread's; zeros, and left as zeros."""
    found: Array | None = getattr(_OWN, "counts", None)
    if found is None:
        found = _OWN.counts = np.zeros((2, 256, 256), np.uint32)
    return found


def fitted_to(counts: Array) -> Model:
    """Return how often each symbol comes where there is one context.

    Args:
        counts: [256], uint32, not all zero; used up.
    """
    first, frequencies = np.zeros(1, np.uint8), np.empty((1, 256), np.uint16)
    kernels().scales(counts.reshape(1, 256), first, frequencies)
    return Model(first, frequencies)


def no_contexts(count: int) -> Array:
    """Return the contexts of symbols that have none: zeros, which nobody may change."""
    found: Array | None = getattr(_OWN, "none", None)
    if found is None or found.size < count:
        found = _OWN.none = np.zeros(max(count, 1 << 16), np.uint8)
    return found[:count]


def coded(symbols: Array, contexts: Array, model: Model, count: int) -> tuple[bytes, bytes]:
    """Code the first ``count`` symbols, a multiple of LANES; return the states and the words."""
    words = scratch("words", 2 * (count + 1)).view("<u2")
    states = np.empty(LANES, "<u4")
    begin = kernels().encode(symbols, contexts, count, model, words, states)
    return states.tobytes(), words[begin : count + 1].tobytes()


def packed(model: Model) -> bytes:
    """Return the tables of a model, compressed."""
    raw = scratch("tables", TABLE_BYTES)
    size = kernels().pack(model, raw)
    return compressor(_LEVEL).compress(raw[:size].data)


def model_from(part: memoryview, groups: int) -> Model:
    """Read the tables of a block.

    Raises:
        CorruptError: they are damaged.
    """
    try:
        if zstandard.get_frame_parameters(part).content_size > TABLE_BYTES:
            raise CorruptError("ans: a block claims tables larger than any can be.")
        raw = np.frombuffer(decompressor().decompress(part, max_output_size=TABLE_BYTES), np.uint8)
    except zstandard.ZstdError as error:
        raise CorruptError(f"ans: the tables of a block are damaged: {error}.") from None
    frequencies = scratch("frequencies", groups << 9).view(np.uint16).reshape(groups, 256)
    if fault := kernels().unpack(raw, groups, frequencies):
        raise CorruptError(f"ans: {_FAULTS[fault]}.")
    return Model(raw[:groups], frequencies)


def compressor(level: int) -> zstandard.ZstdCompressor:
    """Return this thread's compressor; to make one takes longer than to compress a small block."""
    made: dict[int, zstandard.ZstdCompressor] = _OWN.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level)
    return made[level]


def decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's decompressor."""
    found: zstandard.ZstdDecompressor | None = getattr(_OWN, "decompressor", None)
    if found is None:
        found = _OWN.decompressor = zstandard.ZstdDecompressor()
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
