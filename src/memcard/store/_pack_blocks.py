"""Blocks of a pack on their way in: whether a difference pays, encoding, and the proof that it can be undone.

Every encoded block is decoded at once and compared with what it was made of, while both are in the processor's
caches: that takes a third of what reading it back with its base takes later. That the disk has what was
written is for the digest of the whole file to tell; see ``Pack.is_intact``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from blake3 import blake3

from memcard.codecs import CODECS
from memcard.core.codec import Codec
from memcard.errors import CorruptError, IntegrityError
from memcard.store import _pack_layout as layout
from memcard.store._pack_layout import Mode

ReadValues: TypeAlias = Callable[[int, memoryview], None]
"""Fills the given memory with the values from this byte on."""

ALONE: Final = "planes_ans"  # which looks for the best form of each plane by itself
WITH_BASE: Final = "delta_ans"
TINY: Final = 256  # bytes; below that a block is kept as it is
WORTH: Final = 0.95  # of the size alone: a difference must be that much smaller
_SAMPLE: Final = 1 << 14  # values by which the size of an object is estimated
_SURELY: Final = 0.6  # of the size as it is: alone, weights of no dtype are smaller
_PAYS: Final = 0.98  # of the size as it is: less gain than that is not worth the decoding
_GLANCE: Final = 1 << 12  # bytes that tell most blocks apart
_OWN: Final = threading.local()


@dataclass(frozen=True, slots=True)
class BaseRef:
    """What an object is a difference to.

    Attributes:
        key: of the base, or of the recipe; 64 hex digits.
        read: gives its values, as many bytes as the object has.
        depth: of the base itself; 0 stands alone.
    """

    key: str
    read: ReadValues
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Values:
    """What is to be stored, and where it is read from."""

    size: int
    item: int
    read: ReadValues
    base: BaseRef | None


@dataclass(frozen=True, slots=True)
class Weighed:
    """Values with the base they had, or without it where a difference does not pay.

    Attributes:
        values: the one or the other.
        part: all of the values, if they were few; else None.
        there: those of the base, if ``part`` is there.
        packed: what the codec makes of ``part``, if that is known.
    """

    values: Values
    part: bytes | None = None
    there: bytes | None = None
    packed: bytes | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """One block as it is to be stored.

    Attributes:
        mode: as ``_pack_layout.Block`` has it.
        stored: its packed bytes.
        digest: BLAKE3 of the values, 32 bytes.
        values: what they were.
        buffer: that holds them; to be used again.
    """

    mode: Mode
    stored: bytes | memoryview
    digest: bytes
    values: memoryview
    buffer: bytearray


def weighed(values: Values) -> Weighed:
    """Drop the base unless a few values are smaller as differences to it than by themselves.

    Of small objects these few values are all, and what was made of them is kept.
    """
    base, item = values.base, values.item
    assert base is not None  # noqa: S101  # asked for those with a base only
    few = sampled(values.read, values.size, item)
    there = sampled(base.read, values.size, item)
    whole = len(few) == values.size
    if few == there:
        return Weighed(values, few, there) if whole else Weighed(values)
    change = _coded(few, item, there)
    share = min(1.0, len(change) / len(few))
    if share < _SURELY:
        return Weighed(values, few, there, change) if whole else Weighed(values)
    alone = _coded(few, item, None)
    if share < WORTH * min(1.0, len(alone) / len(few)):
        return Weighed(values, few, there, change) if whole else Weighed(values)
    single = replace(values, base=None)
    return Weighed(single, few, None, alone) if whole else Weighed(single)


def encoded(known: Weighed, place: tuple[int, int], buffer: bytearray, codec: str) -> Encoded:
    """Read a block, encode it, and see that it can be decoded.

    Args:
        known: the object's values.
        place: where the block begins in the object, and its size in bytes.
        buffer: memory to use; another one is made if it is too small.
        codec: name of the codec.

    Raises:
        IntegrityError: what was encoded does not decode to what it was.
    """
    (offset, size), values = place, known.values
    base, item = values.base, values.item
    if len(buffer) < size:
        buffer = bytearray(size)
    part, there = memoryview(buffer)[:size], None
    _fill(part, known.part, values.read, offset)
    digest = blake3(part).digest()
    if base is not None:
        there = _scratch("base", size)
        _fill(there, known.there, base.read, offset)
        if _equal(part, there):
            return Encoded("same", b"", digest, part, buffer)
    if codec != "raw" and size >= TINY:
        plugin = CODECS[codec]
        there = there if plugin.needs_base else None
        packed = known.packed or plugin.encode(part, item, there)
        if len(packed) < _PAYS * size:
            _prove(plugin, packed, part, item, there)
            return Encoded("codec", packed, digest, part, buffer)
    return Encoded("raw", part, digest, part, buffer)


def make_ready(item: int, *, with_base: bool) -> None:
    """Have the loops compiled that packing values of this size takes.

    The compiler takes 50 MB while it works: better now than when every thread has its blocks in memory.
    """
    import numpy as np

    values = np.random.default_rng(0).standard_normal(512).astype("f4").view(np.uint8)
    raw = memoryview(values.tobytes())[: 512 * min(item, 4)]
    for name in (ALONE, WITH_BASE) if with_base else (ALONE,):
        plugin = CODECS[name]
        there = raw[::-1].tobytes() if plugin.needs_base else None
        base = None if there is None else memoryview(there)
        packed = plugin.encode(raw, item, base)
        plugin.decode(memoryview(packed), memoryview(bytearray(len(raw))), item, base)


def _fill(out: memoryview, known: bytes | None, read: ReadValues, offset: int) -> None:
    if known is None:
        read(offset, out)
    else:
        out[:] = known


def _prove(
    codec: Codec, packed: bytes, part: memoryview, item: int, there: memoryview | None
) -> None:
    """See that a block decodes to what it was; where its base is, which is needed no more."""
    out = _scratch("proof", len(part)) if there is None else there
    fault = "to other values than it was made of"
    try:
        codec.decode(memoryview(packed), out, item, there)
        fine = _equal(out, part)
    except CorruptError as error:
        fine, fault = False, f"not at all ({error})"
    if not fine:
        raise IntegrityError(
            f"{codec.title}: a block of {len(part)} bytes that was just encoded decodes {fault}. The memory of "
            "this computer fails, or the codec has an error; nothing was stored. Test the memory, then pack again."
        )


def _scratch(name: str, size: int) -> memoryview:
    have: bytearray | None = getattr(_OWN, name, None)
    if have is None or len(have) < size:
        have = bytearray(size)
        setattr(_OWN, name, have)
    return memoryview(have)[:size]


def _equal(one: memoryview, two: memoryview) -> bool:
    """Tell whether two blocks of one size are equal; a comparison of views takes twelve times as long."""
    if one[:_GLANCE].tobytes() != two[:_GLANCE].tobytes():
        return False
    even = len(one) // 8 * 8
    if one[even:] != two[even:]:
        return False
    import numpy as np  # to list or read checkpoints it is not needed

    return bool((np.frombuffer(one[:even], "u8") == np.frombuffer(two[:even], "u8")).all())


def estimate(
    read: ReadValues, size: int, item: int, base: ReadValues | None = None
) -> tuple[float, float]:
    """Return the share of its size that an object would take alone, and as a difference to a base.

    Looks at what ``sampled`` reads of both.

    Returns:
        Two shares in 0..1; the second one is 1 without a base.
    """
    few = sampled(read, size, item)
    there = None if base is None else sampled(base, size, item)
    return cost(few, item), 1.0 if there is None else cost(few, item, there)


def sampled(read: ReadValues, size: int, item: int) -> bytes:
    """Read up to 16,384 values, of more four stretches of the first block that do not overlap.

    They lie in one block because a packed base is decoded block by block.
    """
    values = min(size // item, layout.BLOCK_VALUES)
    whole = values <= _SAMPLE  # twice the same values would look as if they compressed well
    each = values if whole else _SAMPLE // 4
    starts = ([0] if values else []) if whole else [(values - each) * i // 3 for i in range(4)]
    out = bytearray(each * item * len(starts))
    for i, start in enumerate(starts):
        read(start * item, memoryview(out)[i * each * item : (i + 1) * each * item])
    return bytes(out)


def cost(few: bytes, item: int, there: bytes | None = None) -> float:
    """Return the share of their size that values would take, alone or as differences to others."""
    return min(1.0, len(_coded(few, item, there)) / len(few)) if few else 1.0


def _coded(few: bytes, item: int, there: bytes | None) -> bytes:
    codec = CODECS[ALONE if there is None else WITH_BASE]
    return codec.encode(memoryview(few), item, None if there is None else memoryview(there))
