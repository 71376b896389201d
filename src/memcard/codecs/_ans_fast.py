"""The compiled loops under the names and with the arguments of ``_ans_plain``."""

from __future__ import annotations

import numpy as np

from memcard.codecs._ans_model import PRECISION, Array, Model, scratch
from memcard.codecs._loops import loops
from memcard.core.compiled import address


def spread(new: Array, base: Array, symbols: Array, contexts: Array, zigzag: Array) -> None:
    """Take differences to the base apart: symbols, their contexts, and the whole for the extra bits."""
    call = loops(new.itemsize)["spread"]
    call(*map(address, (new, base)), new.size, *map(address, (symbols, contexts, zigzag)))


def extras(symbols: Array, zigzag: Array, count: int, out: Array) -> int:
    """Write the extra bits; return how many."""
    found: int = loops(zigzag.itemsize)["extras"](
        address(symbols), address(zigzag), count, address(out)
    )
    return found


def tally(symbols: Array, contexts: Array, count: int, counts: Array) -> None:
    """Count symbols by context into ``counts[0]``; ``counts`` holds zeros."""
    loops(0)["tally"](address(symbols), address(contexts), count, address(counts))


def cluster(counts: Array, logs: Array, overhead: int, symbol_cost: int, first: Array) -> int:
    """Join neighbouring contexts while that saves bits; return how many groups are left."""
    call = loops(0)["cluster"]
    found: int = call(address(counts), address(logs), overhead, symbol_cost, address(first))
    return found


def scale(counts: Array, frequencies: Array) -> None:
    """Turn counts into frequencies that add up to 2^PRECISION."""
    loops(0)["scale"](address(counts), address(frequencies))


def encode(
    symbols: Array, contexts: Array, count: int, model: Model, words: Array, states: Array
) -> int:
    """Code symbols from the last to the first; return where in ``words`` the first word lies."""
    table = np.empty((len(model.first), 256), np.uint64)
    for row, frequencies in zip(table, model.frequencies, strict=True):
        loops(0)["entries"](address(frequencies), address(row))
    where = (model.where << 8).astype(np.uint16)
    places = (symbols, contexts, table, where, words, states)
    a, b, t, w, out, s = map(address, places)
    begin: int = loops(0)["encode"](a, b, count, t, w, out, count + 1, s)
    return begin


def _slots(model: Model) -> Array:
    groups = len(model.first)
    table = scratch("slots", groups << (PRECISION + 2)).view(np.uint32).reshape(groups, -1)
    for row, frequencies in zip(table, model.frequencies, strict=True):
        loops(0)["slots"](address(frequencies), address(row))
    return table


def restore(
    base: Array,
    count: int,
    model: Model,
    words: Array,
    word_count: int,
    bits: Array,
    bit_count: int,
    states: Array,
    out: Array,
) -> bool:
    """Undo ``spread``, ``extras`` and ``encode``; False if words or bits do not come out even."""
    table = _slots(model)
    where = (model.where * table.shape[1]).astype(np.uint32)
    b, t, w, x, y, s, o = map(address, (base, table, where, words, bits, states, out))
    call = loops(base.itemsize)["restore"]
    fault: int = call(b, count, t, w, x, word_count, y, bit_count, s, o)
    return fault == 0


def decode(
    count: int, model: Model, words: Array, word_count: int, states: Array, out: Array
) -> bool:
    """Undo ``encode`` for symbols of one context; False if the words do not come out even."""
    t, w, s, o = map(address, (_slots(model), words, states, out))
    fault: int = loops(0)["decode"](count, t, w, word_count, s, o)
    return fault == 0


def rotate(values: Array, planes: Array) -> None:
    """Put the sign behind the last bit, then byte by byte into planes."""
    loops(values.itemsize)["rotate"](address(values), values.size, address(planes))


def join(planes: Array, out: Array) -> None:
    """Undo ``rotate``."""
    loops(out.itemsize)["join"](address(planes), out.size, address(out))
