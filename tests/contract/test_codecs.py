"""What every codec promises; a new one is tested by existing."""

from __future__ import annotations

import inspect
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcard.codecs import CODECS
from memcard.core.codec import Codec
from memcard.errors import MemcardError

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
ITEMS = st.sampled_from([1, 2, 4, 8])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, bytes, bytes]:
    item, count = draw(ITEMS), draw(st.integers(0, 300))
    return item, *(draw(st.binary(min_size=item * count, max_size=item * count)) for _ in "ab")


def decoded(codec: Codec, packed: bytes, size: int, item: int, base: bytes | None) -> bytes:
    out = bytearray(size)
    there = memoryview(base) if base is not None else None
    codec.decode(memoryview(packed), memoryview(out), item, there)
    return bytes(out)


def encoded(codec: Codec, new: bytes, item: int, base: bytes) -> tuple[bytes, bytes | None]:
    there = base if codec.needs_base else None
    return codec.encode(
        memoryview(new), item, memoryview(there) if there is not None else None
    ), there


@every_codec
@settings(deadline=None)
@given(pair=pairs())
def test_decode_inverts_encode(codec: Codec, pair: tuple[int, bytes, bytes]) -> None:
    item, base, new = pair

    packed, there = encoded(codec, new, item, base)

    assert decoded(codec, packed, len(new), item, there) == new


@every_codec
@settings(deadline=None)
@given(pair=pairs())
def test_the_base_may_lie_where_the_values_go(codec: Codec, pair: tuple[int, bytes, bytes]) -> None:
    item, base, new = pair
    packed, there = encoded(codec, new, item, base)
    out = memoryview(bytearray(base))

    codec.decode(memoryview(packed), out, item, out if there is not None else None)

    assert out == new


@every_codec
@settings(deadline=None)
@given(pair=pairs(), damage=st.data())
def test_a_damaged_block_is_refused_or_decodes_to_something(
    codec: Codec, pair: tuple[int, bytes, bytes], damage: st.DataObject
) -> None:
    item, base, new = pair
    packed, there = encoded(codec, new, item, base)
    broken = bytearray(packed[: damage.draw(st.integers(0, len(packed)))])
    if broken:
        broken[damage.draw(st.integers(0, len(broken) - 1))] ^= 1 << damage.draw(st.integers(0, 7))

    # No other error may come out; what decodes is caught by the digests.
    with suppress(MemcardError):
        decoded(codec, bytes(broken), len(new), item, there)


@every_codec
def test_keeps_the_protocol_and_says_where_it_comes_from(codec: Codec) -> None:
    assert isinstance(codec, Codec)
    assert len(codec.title) > 3
    assert len(codec.source) > 8
    assert inspect.getmodule(type(codec)).__doc__


@every_codec
def test_the_inputs_are_not_changed(codec: Codec) -> None:
    base, new = bytearray(range(64)), bytearray(range(64, 128))

    packed, there = encoded(codec, bytes(new), 4, bytes(base))
    view = memoryview(bytearray(64))
    codec.decode(memoryview(packed), view, 4, memoryview(base) if there else None)

    assert (base, new) == (bytearray(range(64)), bytearray(range(64, 128)))
