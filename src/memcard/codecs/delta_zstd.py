"""The distance to a base on the number line of the dtype, in byte planes and zstd.

Floats of one dtype are in the order of their bits once negative ones are turned around, so the difference of
two close weights is a small whole number, whatever their exponents. Small differences of either sign become
small positive numbers (zigzag): the high planes are nearly all zero. For whole numbers the mapping is another
bijection, and nothing is lost either.

Source: the ordered mapping of FM-Delta (Ning et al. 2024, NeurIPS); zigzag as in Protocol Buffers; RFC 8878.
"""

from __future__ import annotations

from memcard.codecs._planes import Values, pack, unpack, values_of
from memcard.errors import MismatchError


class DeltaZstd:
    """Stores how many representable values the new one is from the base's."""

    title = "Difference to a base, byte planes, zstd"
    source = "FM-Delta, NeurIPS 2024; RFC 8878"
    needs_base = True

    def encode(self, new: memoryview, item: int, base: memoryview | None = None) -> bytes:
        """Compress the differences."""
        there = _ordered(values_of(_base(base, len(new)), item))
        change = _ordered(values_of(new, item))
        change -= there  # modulo 2^bits, so nothing overflows
        return pack(_zigzag(change))

    def decode(
        self, packed: memoryview, out: memoryview, item: int, base: memoryview | None = None
    ) -> None:
        """Add the differences to the base."""
        there = _ordered(values_of(_base(base, len(out)), item))
        target = values_of(out, item)
        unpack(packed, target)
        _unzigzag(target)
        target += there
        _bits(target)


def _base(base: memoryview | None, size: int) -> memoryview:
    if base is None or len(base) != size:
        has = "none is given" if base is None else f"{len(base)} bytes are given"
        raise MismatchError(f"delta_zstd: needs a base of {size} bytes, {has}.")
    return base


def _ordered(bits: Values) -> Values:
    """Return numbers in the order of the floats: negative ones have all bits flipped, others the sign."""
    one, last = bits.dtype.type(1), bits.dtype.itemsize * 8 - 1
    negative = bits >> bits.dtype.type(last)
    flip: Values = (~negative + one) | (one << bits.dtype.type(last))  # all ones, or the sign alone
    flip ^= bits
    return flip


def _bits(ordered: Values) -> None:
    """Undo ``_ordered`` in place."""
    one, last = ordered.dtype.type(1), ordered.dtype.itemsize * 8 - 1
    positive = ordered >> ordered.dtype.type(last)
    flip = (positive - one) | (one << ordered.dtype.type(last))
    ordered ^= flip


def _zigzag(change: Values) -> Values:
    """Map 0, -1, 1, -2 and so on (modulo 2^bits) to 0, 1, 2, 3."""
    one, last = change.dtype.type(1), change.dtype.itemsize * 8 - 1
    sign: Values = ~(change >> change.dtype.type(last)) + one  # all ones if negative
    sign ^= change << one
    return sign


def _unzigzag(values: Values) -> None:
    one = values.dtype.type(1)
    sign = ~(values & one) + one
    values >>= one
    values ^= sign


PLUGIN = DeltaZstd()
