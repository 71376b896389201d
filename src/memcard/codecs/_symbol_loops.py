"""The loops over symbols: counting, tables, rANS; the same for all words. Text for ``_translate``, used by ``_loops``.

Counts are left as zeros: to clear two tables of 256 KiB took longer than to code a small tensor.

Sources: Duda 2013, arXiv:1311.2540 (rANS); Giesen 2014, arXiv:1402.3392 (interleaved states).
"""

from __future__ import annotations

from typing import Final

SYMBOLS: Final = """
def tally(symbols: p8, contexts: p8, n: u64, counts: p32, used: p8):
    other = at(counts, 262144)
    for j in range(0, n >> 1):
        i = j << 1
        a = (u64(contexts[i]) << 8) | u64(symbols[i])
        b = (u64(contexts[i + 1]) << 8) | u64(symbols[i + 1])
        counts[a] = counts[a] + 1
        other[b] = other[b] + 1
    if (n & 1) == 1:
        c = (u64(contexts[n - 1]) << 8) | u64(symbols[n - 1])
        counts[c] = counts[c] + 1
    for k in range(0, 65536):
        counts[k] = counts[k] + other[k]
        other[k] = 0
    for c in range(0, 256):
        used[c] = 1

def tally_few(symbols: p8, contexts: p8, n: u64, counts: p32, used: p8):
    for c in range(0, 256):
        used[c] = 0
    for i in range(0, n):
        c = u64(contexts[i])
        a = (c << 8) | u64(symbols[i])
        counts[a] = counts[a] + 1
        used[c] = 1

def histogram(symbols: p8, n: u64, counts: p32):
    one = at(counts, 1024)
    two = at(counts, 2048)
    three = at(counts, 3072)
    for s in range(0, 1024):
        counts[s] = 0
    for j in range(0, n >> 2):
        i = j << 2
        a = u64(symbols[i])
        b = u64(symbols[i + 1])
        c = u64(symbols[i + 2])
        d = u64(symbols[i + 3])
        counts[a] = counts[a] + 1
        one[b] = one[b] + 1
        two[c] = two[c] + 1
        three[d] = three[d] + 1
    for i in range((n >> 2) << 2, n):
        a = u64(symbols[i])
        counts[a] = counts[a] + 1
    for s in range(0, 256):
        counts[s] = counts[s] + one[s] + two[s] + three[s]

def cost(a: p32, b: p32, logs: p32, symbol_cost: u64) -> u64:
    total: u64 = 0
    inside: u64 = 0
    used: u64 = 0
    for s in range(0, 256):
        c = u64(a[s]) + u64(b[s])
        k = high(64 - clz(c), 12) - 12
        inside = inside + c * (u64(logs[c >> k]) + (k << 16))
        total = total + c
        used = used + u64(c > 0)
    k = high(64 - clz(total), 12) - 12
    return total * (u64(logs[total >> k]) + (k << 16)) - inside + used * symbol_cost

def cluster(counts: p32, used: p8, logs: p32, overhead: u64, symbol_cost: u64, first: p8) -> u64:
    alone: u64[256]
    nothing: u32[256]
    m: u64 = 0
    for s in range(0, 256):
        nothing[s] = 0
    for c in range(0, 256):
        sum: u32 = 0
        if used[c] > 0:
            for s in range(0, 256):
                sum = sum + counts[(c << 8) | s]
        if sum > 0:
            first[m] = u8(c)
            alone[m] = cost(at(counts, c << 10), at(nothing, 0), logs, symbol_cost) + overhead
            m = m + 1
    merged: u64 = 1
    while merged > 0:
        merged = 0
        j: u64 = 0
        k: u64 = 0
        while j < m:
            first[k] = first[j]
            both = alone[j]
            if j + 1 < m:
                a = at(counts, u64(first[j]) << 10)
                b = at(counts, u64(first[j + 1]) << 10)
                together = cost(a, b, logs, symbol_cost) + overhead
                if together <= alone[j] + alone[j + 1]:
                    for s in range(0, 256):
                        a[s] = a[s] + b[s]
                        b[s] = 0
                    both = together
                    merged = merged + 1
                    j = j + 1
            alone[k] = both
            j = j + 1
            k = k + 1
        m = k
    return m

def scale(counts: p32, frequencies: p16) -> u64:
    total: u64 = 0
    for s in range(0, 256):
        total = total + u64(counts[s])
    sum: u64 = 0
    for s in range(0, 256):
        c = u64(counts[s])
        f = ((c << PRECISION) + (total >> 1)) // total
        frequencies[s] = u16(high(f, 1) if c > 0 else 0)
        sum = sum + u64(frequencies[s])
    while sum < (1 << PRECISION):
        best: u64 = 0
        value: u64 = 0
        for s in range(0, 256):
            gain = (u64(counts[s]) << 20) // ((u64(frequencies[s]) << 1) + 1)
            if gain > value:
                best = s
                value = gain
        frequencies[best] = frequencies[best] + 1
        sum = sum + 1
    while sum > (1 << PRECISION):
        best = 0
        value = ~u64(0)
        for s in range(0, 256):
            f = u64(frequencies[s])
            loss = (u64(counts[s]) << 20) // ((high(f, 1) << 1) - 1)
            if (f > 1) and (loss < value):
                best = s
                value = loss
        frequencies[best] = frequencies[best] - 1
        sum = sum - 1
    return sum

def scales(counts: p32, first: p8, m: u64, frequencies: p16):
    for g in range(0, m):
        row = at(counts, u64(first[g]) << 10)
        sum = scale(row, at(frequencies, g << 9))
        for s in range(0, 256):
            row[s] = 0

def entries(frequencies: p16, m: u64, table: p64):
    for g in range(0, m):
        start: u64 = 0
        for s in range(0, 256):
            f = u64(frequencies[(g << 8) | s])
            reciprocal = low((u64(1) << 32) // high(f, 1), 4294967295)
            table[(g << 8) | s] = (reciprocal << 32) | (start << 16) | f
            start = start + f

def pack(frequencies: p16, first: p8, m: u64, raw: p8) -> u64:
    total: u64 = 0
    for g in range(0, m):
        last: u64 = 0
        for s in range(0, 256):
            last = s if frequencies[(g << 8) | s] > 0 else last
        raw[g] = first[g]
        raw[m + g] = u8(last)
        total = total + last + 1
    place = m << 1
    for g in range(0, m):
        for s in range(0, u64(raw[m + g]) + 1):
            f = frequencies[(g << 8) | s]
            raw[place] = u8(f & 255)
            raw[place + total] = u8(f >> 8)
            place = place + 1
    return place + total

def unpack(raw: p8, size: u64, m: u64, frequencies: p16) -> u64:
    if size < (m << 1):
        return 1
    total: u64 = 0
    for g in range(0, m):
        total = total + u64(raw[m + g]) + 1
        if g > 0:
            if raw[g] <= raw[g - 1]:
                return 1
    if size != ((m + total) << 1):
        return 2
    place = m << 1
    for g in range(0, m):
        many = u64(raw[m + g]) + 1
        sum: u64 = 0
        for s in range(0, 256):
            frequencies[(g << 8) | s] = 0
        for s in range(0, many):
            f = u64(raw[place + s]) | (u64(raw[place + total + s]) << 8)
            frequencies[(g << 8) | s] = u16(f)
            sum = sum + f
        if sum != (1 << PRECISION):
            return 3
        place = place + many
    return 0

def places(first: p8, m: u64, step: u64, where: p32):
    g: u64 = 0
    for c in range(0, 256):
        more = g + 1 < m
        k = g + 1 if more else g
        g = k if u64(first[k]) <= c else g
        where[c] = u32(g * step)

def slots(frequencies: p16, m: u64, table: p32):
    slot: u64 = 0
    for j in range(0, m << 8):
        f = u64(frequencies[j])
        s = j & 255
        for k in range(0, f):
            table[slot + k] = u32(s | ((f - 1) << 8) | (k << 20))
        slot = slot + f

def encode(symbols: p8, contexts: p8, n: u64, table: p64, where: p16, words: p16, end: u64,
           states: p32) -> u64:
    state: u32[LANES]
    before: u32[LANES]
    wide: u64[LANES]
    over: u8[LANES]
    p: u64 = end
    i: u64 = n
    for l in range(0, LANES):
        state[l] = STATE
    while i >= LANES:
        i = i - LANES
        for l in range(0, LANES):
            e = table[u64(where[contexts[i + l]]) + u64(symbols[i + l])]
            x = state[l]
            out = (x >> (32 - PRECISION)) >= u32(e & 65535)
            wide[l] = e
            before[l] = x
            over[l] = u8(out)
            state[l] = x >> 16 if out else x
        for l in range(0, LANES):
            words[p - 1] = u16(before[LANES - 1 - l] & 65535)
            p = p - u64(over[LANES - 1 - l])
        for l in range(0, LANES):
            x = state[l]
            e = wide[l]
            f = u32(e & 65535)
            q = u32((u64(x) * (e >> 32)) >> 32)
            r = x - q * f
            short = r >= f
            q = q + u32(short)
            r = r - f if short else r
            state[l] = (q << PRECISION) + u32((e >> 16) & 65535) + r
    for l in range(0, LANES):
        states[l] = state[l]
    return p

def decode(n: u64, table: p32, words: p16, word_end: u64, states: p32, out: p8) -> u64:
    state: u32[LANES]
    for l in range(0, LANES):
        state[l] = states[l]
    p: u64 = 0
    for g in range(0, n >> LANE_BITS):
        i = g << LANE_BITS
        if p > word_end:
            return 1
        for l in range(0, LANES):
            x = state[l]
            e = table[x & ((1 << PRECISION) - 1)]
            state[l] = (((e >> 8) & 4095) + 1) * (x >> PRECISION) + (e >> 20)
            out[i + l] = u8(e & 255)
        if EXPAND == 1:
            p = p + refill(state, at(words, p << 1), STATE)
        else:
            for l in range(0, LANES):
                x = state[l]
                short = x < STATE
                state[l] = ((x << 16) | u32(words[p])) if short else x
                p = p + u64(short)
    for l in range(0, LANES):
        states[l] = state[l]
    return 0 if p == word_end else 1
"""
