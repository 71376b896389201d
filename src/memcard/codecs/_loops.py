"""The compiled loops of the codecs: differences in, symbols counted, rANS out, and all of it back.

A value becomes a **symbol**, which is entropy-coded, and **extra bits**, which are stored as they are: numbers
below 16 are their own symbol, larger ones keep their length and the three bits below the first in the
symbol. A symbol is coded with the frequencies of the **context** it lies in, which the decoder knows too:
the leading bits of the base, its sign left out. Values go round 32 **lanes**: each has a state of its own, so
that a processor works on many at once; LLVM turns the loops over lanes into vector code.

Measured on one core of a Zen 5, float32 and bfloat16: see ``benchmarks/codecs.py``.

Sources: Duda 2013, arXiv:1311.2540 (rANS); Giesen 2014, arXiv:1402.3392 (interleaved states).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from llvmlite import binding as llvm

from memcard.codecs._ans_model import LANES, PRECISION, STATE
from memcard.codecs._symbol_loops import SYMBOLS
from memcard.codecs._translate import arguments, translate
from memcard.core.compiled import ONE_AT_A_TIME, assemble

# By bytes of a word (0 for none): numbers below two to this are their own symbols,
DIRECT_BITS = {0: 8, 1: 8, 2: 7, 4: 4, 8: 4}
# and of larger ones the symbol keeps, beside the length, this many bits below the first.
SUB = {0: 0, 1: 3, 2: 3, 4: 3, 8: 2}

# Word by word. `wide` is the smallest type the processor has vectors of all operations for.
_VALUES = """
def spread(new: p_word, base: p_word, n: u64, symbols: p8, contexts: p8, zigzag: p_word):
    for i in range(0, n):
        u = wide(new[i])
        v = wide(base[i])
        a = u ^ (wide(ONES) if u >= TOP else TOP)
        b = v ^ (wide(ONES) if v >= TOP else TOP)
        d = (a - b) & ONES
        z = ((d << 1) & ONES) ^ (wide(ONES) if d >= TOP else 0)
        k = high(BITS - clz(z), DIRECT_BITS + 1) - (SUB + 1)
        s = DIRECT + ((k + SUB - DIRECT_BITS) << SUB) + ((z >> k) & (FINE - 1))
        symbols[i] = u8(z if z < DIRECT else s)
        contexts[i] = u8((((v << 1) | (v >> (WIDTH - 1))) >> SHIFT) & 255)
        zigzag[i] = word(z)

def extras(symbols: p8, zigzag: p_word, n: u64, out: p8) -> u64:
    length: u64[LANES]
    extra: u64[LANES]
    waiting: u64 = 0
    have: u64 = 0
    place: u64 = 0
    for g in range(0, n >> LANE_BITS):
        i = g << LANE_BITS
        most: u64 = 0
        for l in range(0, LANES):
            s = u64(symbols[i + l])
            most = high(most, s)
            k = ((s - DIRECT) >> SUB) + (DIRECT_BITS - SUB) if s >= DIRECT else 0
            length[l] = k
            extra[l] = u64(zigzag[i + l]) & ((u64(1) << k) - 1)
        if most >= DIRECT:
            if PARTS >= 2:
                for l in range(0, 16):
                    extra[l] = extra[l] | (extra[l + 16] << length[l])
                    length[l] = length[l] + length[l + 16]
            if PARTS >= 4:
                for l in range(0, 8):
                    extra[l] = extra[l] | (extra[l + 8] << length[l])
                    length[l] = length[l] + length[l + 8]
            for l in range(0, LANES // PARTS):
                for half in range(0, HALVES):
                    k = low(length[l], WORD_BITS) if half == 0 else length[l] - low(length[l], WORD_BITS)
                    x = extra[l] if half == 0 else extra[l] >> 32
                    x = x & ((u64(1) << k) - 1)
                    waiting = waiting | (x << have)
                    have = have + k
                    poke(out, place, waiting)
                    place = place + (have >> 3)
                    waiting = waiting >> (have & 56)
                    have = have & 7
    return (place << 3) + have

def restore(values: p_word, n: u64, table: p32, where: p32, words: p16, word_end: u64, bits: p8,
            bit_end: u64, states: p32) -> u64:
    state: u32[LANES]
    there: wide[LANES]
    symbol: u32[LANES]
    zigzag: wide[LANES]
    length: u32[LANES]
    together: u32[LANES]
    begin: u32[LANES]
    raw: u64[LANES]
    extra: wide[LANES]
    for l in range(0, LANES):
        state[l] = states[l]
    p: u64 = 0
    place: u64 = 0
    for g in range(0, n >> LANE_BITS):
        i = g << LANE_BITS
        if (p > word_end) or (place > bit_end):
            return 1
        most: u32 = 0
        for l in range(0, LANES):
            v = wide(values[i + l])
            there[l] = v
            x = state[l]
            row = where[(((v << 1) | (v >> (WIDTH - 1))) >> SHIFT) & 255]
            e = table[row + (x & ((1 << PRECISION) - 1))]
            state[l] = (((e >> 8) & 4095) + 1) * (x >> PRECISION) + (e >> 20)
            symbol[l] = e & 255
            most = high(most, e & 255)
        if EXPAND == 1:
            p = p + refill(state, at(words, p << 1), STATE)
        else:
            for l in range(0, LANES):
                x = state[l]
                short = x < STATE
                state[l] = ((x << 16) | u32(words[p])) if short else x
                p = p + u64(short)
        if most >= DIRECT:
            for l in lanes(0, LANES):
                s = symbol[l]
                length[l] = ((s - DIRECT) >> SUB) + (DIRECT_BITS - SUB) if s >= DIRECT else 0
            if HALVES == 2:
                for l in lanes(0, LANES):
                    k = low(length[l], 32)
                    first = peek(u64, bits, place >> 3) >> (place & 7)
                    place = place + u64(k)
                    rest = peek(u64, bits, place >> 3) >> (place & 7)
                    place = place + u64(length[l] - k)
                    rest = rest & ((u64(1) << u64(length[l] - k)) - 1)
                    extra[l] = wide((first & ((u64(1) << u64(k)) - 1)) | (rest << 32))
            else:
                for l in lanes(0, LANES // PARTS):
                    k = length[l] + (length[l + 16] if PARTS >= 2 else 0)
                    together[l] = k + (length[l + 8] + length[l + 24] if PARTS >= 4 else 0)
                whole = running(begin, together, LANES // PARTS)
                for l in lanes(0, LANES // PARTS):
                    t = place + u64(begin[l])
                    raw[l] = peek(u64, bits, t >> 3) >> (t & 7)
                place = place + u64(whole)
                for l in lanes(0, LANES // PARTS):
                    many = raw[l]
                    extra[l] = wide(many & ((u64(1) << u64(length[l])) - 1))
                    if PARTS >= 2:
                        many = many >> u64(length[l])
                        extra[l + 16] = wide(many & ((u64(1) << u64(length[l + 16])) - 1))
                    if PARTS >= 4:
                        many = many >> u64(length[l + 16])
                        extra[l + 8] = wide(many & ((u64(1) << u64(length[l + 8])) - 1))
                        many = many >> u64(length[l + 8])
                        extra[l + 24] = wide(many & ((u64(1) << u64(length[l + 24])) - 1))
            for l in lanes(0, LANES):
                s = symbol[l]
                z = (wide(((s - DIRECT) & (FINE - 1)) | FINE) << wide(length[l])) | extra[l]
                zigzag[l] = z if s >= DIRECT else wide(s)
        else:
            for l in range(0, LANES):
                zigzag[l] = wide(symbol[l])
        for l in range(0, LANES):
            z = zigzag[l]
            d = (z >> 1) ^ (wide(ONES) if (z & 1) == 1 else 0)
            v = there[l]
            b = v ^ (wide(ONES) if v >= TOP else TOP)
            a = (b + d) & ONES
            values[i + l] = word(a ^ (wide(TOP) if a >= TOP else ONES))
    for l in range(0, LANES):
        states[l] = state[l]
    return 0 if (p == word_end) and (place == bit_end) else 1

def rotate(new: p_word, n: u64, planes: p8):
    for i in range(0, n):
        u = wide(new[i])
        r = (u << 1) | (u >> (WIDTH - 1))
        for j in range(0, BYTES):
            planes[j * n + i] = u8((r >> wide(j << 3)) & 255)

def join(planes: p8, n: u64, out: p_word):
    for i in range(0, n):
        r: wide = 0
        for j in range(0, BYTES):
            r = r | (wide(planes[j * n + i]) << wide(j << 3))
        out[i] = word((r >> 1) | (r << (WIDTH - 1)))
"""

_SHARED = {
    "LANES": LANES,
    "LANE_BITS": LANES.bit_length() - 1,
    "PRECISION": PRECISION,
    "STATE": STATE,
}


# What is needed together is compiled together: to read a pack takes a part of the loops, and a tenth of a second
# less than all of them.
_TOGETHER = (
    ("spread", "extras"),
    ("restore",),
    ("rotate",),
    ("join",),
    (
        "tally",
        "tally_few",
        "histogram",
        "cost",
        "cluster",
        "scale",
        "scales",
        "entries",
        "pack",
        "encode",
    ),
    ("unpack", "places", "slots", "decode"),
)


class _Loops(dict[str, Any]):
    """The loops for words of ``item`` bytes by name, those for symbols for 0; compiled when asked for."""

    def __init__(self, item: int) -> None:
        super().__init__()
        self._item = item
        self._engines: list[Any] = []  # which own the code

    def __missing__(self, name: str) -> Any:
        with ONE_AT_A_TIME:
            if name not in self:  # another thread may have been first
                self._compile(next(names for names in _TOGETHER if name in names))
        return self[name]

    def _compile(self, names: Sequence[str]) -> None:
        parts = re.split(r"^(?=def )", _VALUES if self._item else SYMBOLS, flags=re.MULTILINE)
        text = "".join(part for part in parts if part[4 : part.find("(")] in names)
        kinds = {"word": f"u{8 * self._item}", "wide": "u64" if self._item == 8 else "u32"}
        engine = assemble(translate(text, kinds, _constants(self._item)))
        self._engines.append(engine)
        self.update({name: _bound(engine, name, n) for name, n in arguments(text).items()})


_ALL = {item: _Loops(item) for item in (0, 1, 2, 4, 8)}


def loops(item: int) -> Mapping[str, Any]:
    """Return the loops for words of 1, 2, 4 or 8 bytes by name, or those for symbols (0)."""
    return _ALL[item]


def _constants(item: int) -> Mapping[str, int]:
    bits = 8 * item
    return _SHARED | {
        "WIDTH": bits,
        "BYTES": item,
        "BITS": 64 if item == 8 else 32,
        "DIRECT_BITS": DIRECT_BITS[item],
        "DIRECT": 1 << DIRECT_BITS[item],
        "SUB": SUB[item],
        "FINE": 1 << SUB[item],
        "EXPAND": int(_can_expand()),
        "HALVES": 2 if item == 8 else 1,
        "WORD_BITS": 32 if item == 8 else 64,
        "PARTS": {8: 1, 4: 2}.get(item, 4),  # values whose extra bits fit 56 together
        "ONES": (1 << bits) - 1,
        "TOP": 1 << max(bits - 1, 0),
        "SHIFT": 53 if item == 8 else max(bits - 8, 0),
    }


@cache
def _can_expand() -> bool:
    """Tell if the processor takes as many words as there are lanes in need from a list at once."""
    return llvm.get_host_cpu_features().get("avx512vbmi2", False)  # type: ignore[no-any-return]


def _bound(engine: Any, name: str, count: int) -> Any:
    # Addresses and counts alike are passed as whole numbers of 64 bits.
    kind = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * count)
    return kind(engine.get_function_address(name))
