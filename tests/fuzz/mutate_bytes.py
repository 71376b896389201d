"""Changes that know nothing about a format: bits, bytes, blocks, and numbers that break arithmetic."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

EDGES = (
    0,
    1,
    2,
    3,
    7,
    8,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    4096,
    (1 << 15) - 1,
    1 << 15,
    65535,
    65536,
)
EDGES += ((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip


def flip(raw: bytearray, at: int, rng: Random) -> None:
    raw[at] ^= 1 << rng.randrange(8)


def replace(raw: bytearray, at: int, rng: Random) -> None:
    raw[at] = rng.randrange(256)


def delete(raw: bytearray, at: int, rng: Random) -> None:
    del raw[at : at + rng.choice((1, 1, 2, 4, 8, 64))]


def insert(raw: bytearray, at: int, rng: Random) -> None:
    raw[at:at] = rng.randbytes(rng.choice((1, 1, 2, 4, 8, 64)))


def repeat(raw: bytearray, at: int, rng: Random) -> None:
    part = raw[at : at + rng.choice((1, 4, 16, 64))]
    raw[at:at] = part * rng.choice((1, 1, 2, 16))


def move(raw: bytearray, at: int, rng: Random) -> None:
    part = raw[at : at + rng.choice((2, 4, 16, 64))]
    del raw[at : at + len(part)]
    to = rng.randrange(len(raw) + 1)
    raw[to:to] = part


def number(raw: bytearray, at: int, rng: Random) -> None:
    width, form = rng.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
    value = rng.choice(EDGES) & ((1 << (8 * width)) - 1)
    packed = struct.pack(rng.choice("<<<>") + form, value)
    raw[at : at + width] = packed


def nudge(raw: bytearray, at: int, rng: Random) -> None:
    width = rng.choice((1, 2, 4, 8))
    old = int.from_bytes(raw[at : at + width], "little")
    new = (old + rng.choice((-8, -1, 1, 8))) % (1 << (8 * width))
    raw[at : at + width] = new.to_bytes(width, "little")


def cut(raw: bytearray, at: int, rng: Random) -> None:
    del raw[at:]


CHANGES = (flip, flip, replace, replace, delete, insert, repeat, move, number, number, nudge, nudge, cut)  # fmt: skip


def mutate_bytes(raw: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """Change ``raw`` in one to four places; now and then cross it with another seed."""
    parts = bytearray(raw)
    if others and rng.random() < 0.05:
        other = rng.choice(others)
        parts[rng.randrange(len(parts) + 1) :] = other[rng.randrange(len(other) + 1) :]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not parts:
            parts = bytearray(rng.randbytes(8))
        rng.choice(CHANGES)(parts, rng.randrange(len(parts)), rng)
    return bytes(parts)
