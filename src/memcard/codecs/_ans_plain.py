"""The loops of ``_ans_fast`` with numpy alone, for machines without llvmlite: the same bytes, slowly.

Lanes are the axis numpy works along, so a block of 2^20 values takes 32,768 steps, about a second.
Tests hold both against each other; this one is also the easier to read.
"""

from __future__ import annotations

import numpy as np

from memcard.codecs._ans_model import LANES, PRECISION, STATE, Array, Model

_EVERY = np.arange(256)
# As in ``_loops``: by bytes of a word, numbers below two to this are their own symbols, and of larger
# ones the symbol keeps so many bits below the first. Then: how many values write their bits together.
_DIRECT_BITS = {1: 8, 2: 7, 4: 4, 8: 4}
_SUB = {1: 3, 2: 3, 4: 3, 8: 2}
_PARTS = {1: 4, 2: 4, 4: 2, 8: 1}


def spread(new: Array, base: Array, symbols: Array, contexts: Array, zigzag: Array) -> None:
    """Take differences to the base apart: symbols, their contexts, and the whole for the extra bits."""
    item, word = new.itemsize, new.dtype.type
    last, one = word(8 * item - 1), word(1)
    change = _ordered(new) - _ordered(base)
    zigzag[:] = (change << one) ^ (np.zeros_like(change) - (change >> last))
    wide = zigzag.astype(np.uint64)
    length = _bit_lengths(wide)
    direct, sub = _DIRECT_BITS[item], _SUB[item]
    drop = np.maximum(length, direct + 1) - (sub + 1)
    fine = (wide >> drop.astype(np.uint64)).astype(np.int64) & ((1 << sub) - 1)
    large = (1 << direct) + ((drop + sub - direct) << sub) + fine
    symbols[:] = np.where(wide < 1 << direct, zigzag.astype(np.int64) & 0xFF, large)
    contexts[:] = _contexts(base)


def extras(symbols: Array, zigzag: Array, count: int, out: Array) -> int:
    """Write the extra bits; return how many."""
    lengths = _extra_lengths(symbols[:count].astype(np.int64), zigzag.itemsize)
    order = _bit_order(count, zigzag.itemsize)
    lengths, values = lengths[order], zigzag[:count].astype(np.uint64)[order]
    total = int(lengths.sum())
    owner = np.repeat(np.arange(count), lengths)
    within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    bits = (values[owner] >> within.astype(np.uint64)).astype(np.uint8) & 1
    packed = np.packbits(bits, bitorder="little")
    out[: packed.size] = packed
    return total


def tally(symbols: Array, contexts: Array, count: int, counts: Array, used: Array) -> None:
    """Count symbols by context into ``counts[0]``, and say which have any."""
    places = contexts[:count].astype(np.int64) << 8 | symbols[:count]
    counts[0] = np.bincount(places, minlength=1 << 16).reshape(256, 256)
    used[:] = counts[0].any(axis=1)


def histogram(symbols: Array, count: int) -> Array:
    """Count symbols: [256], uint32."""
    return np.bincount(symbols[:count], minlength=256).astype(np.uint32)


def cluster(
    counts: Array, used: Array, logs: Array, overhead: int, symbol_cost: int, first: Array
) -> int:
    """Join neighbouring contexts while that saves bits; return how many groups are left."""

    def cost(row: Array) -> int:
        row = row.astype(np.int64)
        inside, total = _times_log(row, logs), row.sum(keepdims=True)
        bits = int(_times_log(total, logs)[0]) - int(inside.sum())
        return bits + int((row > 0).sum()) * symbol_cost + overhead

    groups = [(int(c), cost(counts[c])) for c in np.flatnonzero(used) if counts[c].any()]
    merged = True
    while merged:
        merged, after = False, []
        while groups:
            place, alone = groups.pop(0)
            if groups:
                together = cost(counts[place] + counts[groups[0][0]])
                if together <= alone + groups[0][1]:
                    counts[place] += counts[groups[0][0]]
                    counts[groups.pop(0)[0]] = 0
                    alone, merged = together, True
            after.append((place, alone))
        groups = after
    first[: len(groups)] = [place for place, _ in groups]
    return len(groups)


def scales(counts: Array, first: Array, frequencies: Array) -> None:
    """Turn counts of groups into frequencies that add up to 2^PRECISION; leave zeros."""
    for row, context in zip(frequencies, first.tolist(), strict=True):
        _scale(counts[context], row)
        counts[context] = 0


def _scale(counts: Array, frequencies: Array) -> None:
    many = counts.astype(np.int64)
    total = int(many.sum())
    found = np.where(many > 0, np.maximum(((many << PRECISION) + (total >> 1)) // total, 1), 0)
    while found.sum() < 1 << PRECISION:
        found[np.argmax((many << 20) // (2 * found + 1))] += 1
    while found.sum() > 1 << PRECISION:
        loss = (many << 20) // (2 * np.maximum(found, 1) - 1)
        found[np.argmin(np.where(found > 1, loss, np.iinfo(np.int64).max))] -= 1
    frequencies[:] = found


def pack(model: Model, raw: Array) -> int:
    """Write the tables of a model; return how many bytes they are."""
    used = 256 - np.argmax(model.frequencies[:, ::-1] > 0, axis=1)  # symbols up to the last one
    flat = model.frequencies[np.arange(256) < used[:, None]].astype("<u2")
    planes = flat.view(np.uint8).reshape(-1, 2).T  # the high bytes are mostly zero
    whole = np.concatenate([model.first, (used - 1).astype(np.uint8), planes.ravel()])
    raw[: whole.size] = whole
    return whole.size


def unpack(raw: Array, groups: int, frequencies: Array) -> int:
    """Undo ``pack``; return 0, or 1, 2, 3 where order, size or sums are wrong."""
    first, used = raw[:groups], raw[groups : 2 * groups].astype(np.int64) + 1
    if used.size != groups or (np.diff(first.astype(np.int64)) <= 0).any():
        return 1
    planes = raw[2 * groups :]
    if planes.size != 2 * used.sum():
        return 2
    flat = planes[: planes.size // 2] | planes[planes.size // 2 :].astype(np.uint16) << 8
    frequencies[:] = 0
    frequencies[np.arange(256) < used[:, None]] = flat
    return 3 * bool((frequencies.sum(axis=1, dtype=np.int64) != 1 << PRECISION).any())


def encode(
    symbols: Array, contexts: Array, count: int, model: Model, words: Array, states: Array
) -> int:
    """Code symbols from the last to the first; return where in ``words`` the first word lies."""
    starts = np.cumsum(model.frequencies, axis=1, dtype=np.int64) - model.frequencies
    group = model.where[contexts[:count]]
    often = model.frequencies[group, symbols[:count]].astype(np.int64).reshape(-1, LANES)
    start = starts[group, symbols[:count]].reshape(-1, LANES)
    state, place = np.full(LANES, STATE, np.int64), count + 1
    for f, begin in zip(often[::-1], start[::-1], strict=True):
        over = (state >> (32 - PRECISION)) >= f
        out = state[over] & 0xFFFF
        words[place - out.size : place] = out
        place -= out.size
        state = np.where(over, state >> 16, state)
        state = (state // f << PRECISION) + begin + state % f
    states[:] = state
    return place


def restore(
    values: Array,
    count: int,
    model: Model,
    words: Array,
    word_count: int,
    bits: Array,
    bit_count: int,
    states: Array,
) -> bool:
    """Undo ``spread``, ``extras`` and ``encode`` where the base is; False if words or bits do not come out even."""
    item, word = values.itemsize, values.dtype.type
    there = values[:count]
    groups = model.where[_contexts(there)]
    symbols = _symbols(count, model, groups, words, word_count, states)
    if symbols is None:
        return False
    found = _extra(symbols, item, bits, bit_count)
    if found is None:
        return False
    direct, sub, value = _DIRECT_BITS[item], _SUB[item], symbols.astype(np.int64)
    lead = ((value - (1 << direct)) & ((1 << sub) - 1)) | (1 << sub)
    length = _extra_lengths(value, item).astype(np.uint64)
    wide = np.where(value < 1 << direct, value.astype(np.uint64), lead.astype(np.uint64) << length)
    zigzag = (wide | found).astype(values.dtype)
    change = (zigzag >> word(1)) ^ (np.zeros_like(zigzag) - (zigzag & word(1)))
    change += _ordered(there)
    last, top = word(8 * item - 1), word(1 << (8 * item - 1))
    there[:] = change ^ (((change >> last) - word(1)) | top)
    return True


def decode(
    count: int, model: Model, words: Array, word_count: int, states: Array, out: Array
) -> bool:
    """Undo ``encode`` for symbols of one context; False if the words do not come out even."""
    symbols = _symbols(count, model, np.zeros(count, np.int64), words, word_count, states)
    if symbols is not None:
        out[:count] = symbols
    return symbols is not None


def rotate(values: Array, planes: Array) -> None:
    """Put the sign behind the last bit, then byte by byte into planes."""
    word, last = values.dtype.type, values.dtype.type(8 * values.itemsize - 1)
    turned = (values << word(1)) | (values >> last)
    planes[:] = turned.view(np.uint8).reshape(-1, values.itemsize).T


def join(planes: Array, out: Array) -> None:
    """Undo ``rotate``."""
    word, last = out.dtype.type, out.dtype.type(8 * out.itemsize - 1)
    turned = np.ascontiguousarray(planes.T).reshape(-1).view(out.dtype)
    out[:] = (turned >> word(1)) | (turned << last)


def _ordered(bits: Array) -> Array:
    word, last = bits.dtype.type, bits.dtype.type(8 * bits.itemsize - 1)
    top = word(1 << (8 * bits.itemsize - 1))
    found: Array = bits ^ ((np.zeros_like(bits) - (bits >> last)) | top)
    return found


def _contexts(base: Array) -> Array:
    """Return eight bits of each value, the sign left out: the highest, of float64 those that vary."""
    word, width = base.dtype.type, 8 * base.itemsize
    turned = (base << word(1)) | (base >> word(width - 1))
    found: Array = (turned >> word(53 if width == 64 else width - 8)).astype(np.uint8)
    return found


def _bit_lengths(values: Array) -> Array:
    """Return how many bits whole numbers of 64 bits take; numbers of up to 32 bits are exact floats."""
    high, low = values >> np.uint64(32), values & np.uint64(0xFFFFFFFF)
    of_high, of_low = (np.frexp(v.astype(np.float64))[1] for v in (high, low))
    found: Array = np.where(high > 0, of_high + 32, of_low).astype(np.int64)
    return found


def _times_log(counts: Array, logs: Array) -> Array:
    drop = np.maximum(_bit_lengths(counts.astype(np.uint64)), 12) - 12
    found: Array = counts * (logs[counts >> drop].astype(np.int64) + (drop << 16))
    return found


def _extra_lengths(symbols: Array, item: int) -> Array:
    direct, sub = _DIRECT_BITS[item], _SUB[item]
    large = ((symbols - (1 << direct)) >> sub) + direct - sub
    found: Array = np.where(symbols < 1 << direct, 0, large)
    return found


def _bit_order(count: int, item: int) -> Array:
    """Return the values in the order their extra bits lie: 16 apart, then 8 apart."""
    lanes = np.arange(LANES)
    if _PARTS[item] == 4:
        lanes = lanes.reshape(2, 2, 8).transpose(2, 1, 0).ravel()
    elif _PARTS[item] == 2:
        lanes = lanes.reshape(2, 16).T.ravel()
    found: Array = (np.arange(0, count, LANES)[:, None] + lanes).ravel()
    return found


def _symbols(
    count: int, model: Model, groups: Array, words: Array, word_count: int, states: Array
) -> Array | None:
    slots = np.stack([np.repeat(_EVERY, row) for row in model.frequencies]).astype(np.int64)
    starts = np.cumsum(model.frequencies, axis=1, dtype=np.int64) - model.frequencies
    state, place = states.astype(np.int64), 0
    found = np.empty((count // LANES, LANES), np.uint8)
    for row, group in zip(found, groups.reshape(-1, LANES), strict=True):
        if place > word_count:
            return None
        slot = state & ((1 << PRECISION) - 1)
        row[:] = symbol = slots[group, slot]
        often = model.frequencies[group, symbol].astype(np.int64)
        state = (often * (state >> PRECISION) + slot - starts[group, symbol]) & 0xFFFFFFFF
        short = np.flatnonzero(state < STATE)
        state[short] = (state[short] << 16) | words[place : place + short.size]
        place += short.size
    states[:] = state
    return found.ravel() if place == word_count else None


def _extra(symbols: Array, item: int, bits: Array, bit_count: int) -> Array | None:
    order = _bit_order(symbols.size, item)
    lengths = _extra_lengths(symbols.astype(np.int64), item)[order]
    if lengths.sum() != bit_count:
        return None
    flat = np.unpackbits(bits[: (bit_count + 7) // 8], bitorder="little")[:bit_count]
    starts = np.cumsum(lengths) - lengths
    found = np.zeros(symbols.size, np.uint64)
    for bit in range(int(lengths.max(initial=0))):
        has = lengths > bit
        found[has] |= flat[starts[has] + bit].astype(np.uint64) << np.uint64(bit)
    back = np.empty_like(found)
    back[order] = found
    return back
