"""The compiled loops under the names and with the arguments of ``_ans_plain``."""

from __future__ import annotations

import numpy as np

from memcard.codecs._ans_model import PRECISION, Array, Model, scratch
from memcard.codecs._loops import loops
from memcard.core.compiled import address

_FEW = 1 << 16  # symbols


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


def tally(symbols: Array, contexts: Array, count: int, counts: Array, used: Array) -> None:
    """Count symbols by context into ``counts[0]``, and say which may have any; ``counts`` holds zeros."""
    name = "tally_few" if count < _FEW else "tally"  # to add up two tables takes 20 us
    loops(0)[name](address(symbols), address(contexts), count, address(counts), address(used))


def histogram(symbols: Array, count: int) -> Array:
    """Count symbols: [256], uint32; valid until the next call."""
    counts = scratch("histogram", 4 * 1024).view(np.uint32)
    loops(0)["histogram"](address(symbols), count, address(counts))
    return counts[:256]


def cluster(
    counts: Array, used: Array, logs: Array, overhead: int, symbol_cost: int, first: Array
) -> int:
    """Join neighbouring contexts while that saves bits; return how many groups are left."""
    places = map(address, (counts, used, logs))
    found: int = loops(0)["cluster"](*places, overhead, symbol_cost, address(first))
    return found


def scales(counts: Array, first: Array, frequencies: Array) -> None:
    """Turn counts of groups into frequencies that add up to 2^PRECISION; leave zeros."""
    loops(0)["scales"](address(counts), address(first), len(first), address(frequencies))


def pack(model: Model, raw: Array) -> int:
    """Write the tables of a model; return how many bytes they are."""
    places = address(model.frequencies), address(model.first), len(model.first), address(raw)
    found: int = loops(0)["pack"](*places)
    return found


def unpack(raw: Array, groups: int, frequencies: Array) -> int:
    """Undo ``pack``; return 0, or 1, 2, 3 where order, size or sums are wrong."""
    found: int = loops(0)["unpack"](address(raw), raw.size, groups, address(frequencies))
    return found


def encode(
    symbols: Array, contexts: Array, count: int, model: Model, words: Array, states: Array
) -> int:
    """Code symbols from the last to the first; return where in ``words`` the first word lies."""
    groups = len(model.first)
    table = scratch("entries", groups << 11)
    loops(0)["entries"](address(model.frequencies), groups, address(table))
    # Of 16 bits: of 32 LLVM would gather the eight lanes at once, which takes a tenth longer.
    where = _where(model, 256).astype(np.uint16)
    places = (symbols, contexts, table, where, words, states)
    a, b, t, w, out, s = map(address, places)
    begin: int = loops(0)["encode"](a, b, count, t, w, out, count + 1, s)
    return begin


def _where(model: Model, step: int) -> Array:
    """Return where the table of each context begins, in entries."""
    where = scratch("where", 1024)[:1024].view(np.uint32)
    loops(0)["places"](address(model.first), len(model.first), step, address(where))
    return where


def _slots(model: Model) -> Array:
    groups = len(model.first)
    table = scratch("slots", groups << (PRECISION + 2))
    loops(0)["slots"](address(model.frequencies), groups, address(table))
    return table


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
    table = _slots(model)
    where = _where(model, 1 << PRECISION)
    v, t, w, x, y, s = map(address, (values, table, where, words, bits, states))
    call = loops(values.itemsize)["restore"]
    fault: int = call(v, count, t, w, x, word_count, y, bit_count, s)
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
