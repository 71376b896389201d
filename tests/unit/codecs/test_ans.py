"""The codecs with rANS: small, exact, the same bytes with and without compiled loops, deaf to damage."""

import random
import struct

import ml_dtypes
import numpy as np
import pytest

from memcard.codecs import CODECS, _ans, _ans_fast, _ans_model, _ans_plain
from memcard.errors import CorruptError, MemcardError, MismatchError

DELTA, PLANES = CODECS["delta_ans"], CODECS["planes_ans"]
DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp64": np.float64}
by_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def close_pair(dtype, count=50_000, size=1e-4):
    rng = np.random.default_rng(0)
    base = rng.standard_normal(count) * 0.05
    new = base + rng.standard_normal(count) * size
    return base.astype(dtype), new.astype(dtype)


def bytes_of(values):
    return memoryview(values.tobytes())


def entropy_given_exponent(new, base):
    """Bits per value of the difference, if its distribution given the base's exponent were known."""
    word = {2: np.int16, 4: np.int32}[new.itemsize]
    ordered = [
        np.where(bits < 0, np.iinfo(word).min - bits, bits)
        for bits in (v.view(word).astype(np.int64) for v in (new, base))
    ]
    exponent = np.frexp(base.astype(np.float64))[1]

    def bits(numbers):
        counts = np.unique(numbers, return_counts=True)[1] / new.size
        return -(counts * np.log2(counts)).sum()

    return bits((exponent.astype(np.int64) << 40) + ordered[0] - ordered[1]) - bits(exponent)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["fp16", "bf16"])
def test_a_delta_is_within_3_percent_of_the_entropy_given_the_exponent(dtype):
    base, new = close_pair(dtype, 1 << 19)

    packed = DELTA.encode(bytes_of(new), 2, bytes_of(base))

    assert 8 * len(packed) / new.size < 1.03 * entropy_given_exponent(new, base)


@pytest.mark.parametrize(
    ("dtype", "share"), [(np.float32, 1.19), (np.float16, 1.165), (ml_dtypes.bfloat16, 1.48)]
)
def test_weights_alone_are_as_small_as_the_best_float_coders_make_them(dtype, share):
    _, new = close_pair(dtype, 1 << 18)

    packed = PLANES.encode(bytes_of(new), new.itemsize)

    assert new.nbytes / len(packed) > share


@by_dtype
@pytest.mark.parametrize("size", [1e-5, 1e-2, 1.0])
def test_both_ways_of_computing_give_the_same_bytes(monkeypatch, dtype, size):
    base, new = close_pair(dtype, 3003, size)
    new[5:9] = [np.nan, -np.inf, -0.0, 0]
    there, values, item = bytes_of(base), bytes_of(new), new.itemsize

    fast = DELTA.encode(values, item, there), PLANES.encode(values, item)
    monkeypatch.setattr(_ans, "kernels", lambda: _ans_plain)
    plain = DELTA.encode(values, item, there), PLANES.encode(values, item)
    outs = bytearray(len(values)), bytearray(len(values))
    DELTA.decode(memoryview(fast[0]), memoryview(outs[0]), item, there)
    PLANES.decode(memoryview(fast[1]), memoryview(outs[1]), item)

    assert plain == fast
    assert outs == (values, values)


@pytest.mark.parametrize("item", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [32, 63, 64, 1000, 4096])
def test_any_bits_against_any_bits(item, count):
    rng = np.random.default_rng(count)
    new, base = (memoryview(rng.bytes(item * count)) for _ in "ab")
    out = bytearray(item * count)

    DELTA.decode(memoryview(DELTA.encode(new, item, base)), memoryview(out), item, base)

    assert out == new


@pytest.mark.parametrize("item", [1, 2, 4, 8])
def test_any_bits_without_compiled_loops(monkeypatch, item):
    monkeypatch.setattr(_ans, "kernels", lambda: _ans_plain)
    rng = np.random.default_rng(item)
    new, base = (memoryview(rng.bytes(item * 320)) for _ in "ab")
    out = bytearray(item * 320)

    DELTA.decode(memoryview(DELTA.encode(new, item, base)), memoryview(out), item, base)

    assert out == new


def test_without_llvmlite_numpy_serves(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "memcard.codecs._ans_fast", None)
    monkeypatch.delattr("memcard.codecs._ans_fast")

    assert _ans.kernels() is _ans_plain


def test_a_processor_without_wide_instructions_gives_the_same(monkeypatch):
    from memcard.codecs import _loops

    base, new = close_pair(np.float16, 4096, 1e-2)
    packed = DELTA.encode(bytes_of(new), 2, bytes_of(base))
    out = bytearray(new.nbytes)
    monkeypatch.setattr(_loops, "_can_expand", lambda: False)
    monkeypatch.setattr(_loops, "_ALL", {item: _loops._Loops(item) for item in (0, 1, 2, 4, 8)})

    DELTA.decode(memoryview(packed), memoryview(out), 2, bytes_of(base))

    assert out == bytes_of(new)


def test_loops_are_compiled_when_they_are_asked_for():
    from memcard.codecs import _loops

    found = _loops._Loops(4)

    assert callable(found["join"])
    assert set(found) == {"join"}
    assert found["join"] is found["join"]


def test_unchanged_values_take_next_to_nothing():
    base, _ = close_pair(np.float32, 1 << 16)

    assert len(DELTA.encode(bytes_of(base), 4, bytes_of(base))) < 250


def test_values_cast_from_a_narrow_dtype_cost_only_what_they_hold():
    narrow = close_pair(ml_dtypes.bfloat16, 1 << 16)[0]

    wide = PLANES.encode(bytes_of(narrow.astype(np.float32)), 4)

    assert len(wide) < 1.02 * len(PLANES.encode(bytes_of(narrow), 2))


def test_a_base_is_asked_for():
    with pytest.raises(MismatchError, match="needs a base of 4 bytes, none"):
        DELTA.encode(memoryview(b"1234"), 2)


@pytest.mark.parametrize("loops", [_ans_fast, _ans_plain], ids=["compiled", "numpy"])
@pytest.mark.parametrize("codec", [DELTA, PLANES], ids=["delta", "planes"])
@by_dtype
def test_damage_is_refused_or_decodes_to_something(monkeypatch, codec, dtype, loops):
    monkeypatch.setattr(_ans, "kernels", lambda: loops)
    base, new = close_pair(dtype, 700, 1e-2)
    there = bytes_of(base) if codec.needs_base else None
    packed = codec.encode(bytes_of(new), new.itemsize, there)
    rng, refused = random.Random(0), 0

    for _ in range(300):
        broken = bytearray(packed)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        del broken[rng.choice([len(packed), rng.randrange(len(packed))]) :]
        out = memoryview(bytearray(new.nbytes))
        try:
            codec.decode(memoryview(bytes(broken)), out, new.itemsize, there)
        except MemcardError:
            refused += 1

    assert refused > 100


def test_words_and_bits_that_are_not_there_are_never_read():
    base, new = close_pair(np.float32, 320, 1e-2)
    packed = bytearray(DELTA.encode(bytes_of(new), 4, bytes_of(base)))
    words, bits = struct.unpack_from("<IQ", packed)
    struct.pack_into("<IQ", packed, 0, words + 4 * ((bits + 7) // 8) // 8, 0)

    with pytest.raises(CorruptError, match=r"disagree|even"):
        DELTA.decode(memoryview(packed), memoryview(bytearray(new.nbytes)), 4, bytes_of(base))


def test_frequencies_that_do_not_add_up_are_refused():
    model = _ans_model.Model(np.zeros(1, np.uint8), np.full((1, 256), 15, np.uint16))

    with pytest.raises(CorruptError, match="add up"):
        _ans.model_from(memoryview(_ans.packed(model)), 1)


def test_the_compiled_loops_are_made_once_for_each_width():
    from memcard.codecs._loops import loops

    assert loops(2) is loops(2)
    assert set(loops(0)) >= {"encode", "decode", "cluster"}
    assert callable(_ans_fast.restore)


def model_of(groups: int) -> _ans_model.Model:
    rng = np.random.default_rng(groups)
    frequencies = np.zeros((groups, 256), np.uint16)
    for row in frequencies:
        used = rng.integers(1, 257)
        row[:used] = rng.multinomial(4096 - used, np.full(used, 1 / used)) + 1
    first = np.sort(rng.choice(256, groups, replace=False)).astype(np.uint8)
    return _ans_model.Model(first, frequencies)


@pytest.mark.parametrize("groups", [1, 2, 64])
def test_tables_are_written_and_read_alike_by_both_loops(groups):
    model, parts = model_of(groups), []
    for loops in (_ans_fast, _ans_plain):
        raw = np.zeros(_ans_model.TABLE_BYTES, np.uint8)
        parts.append(raw[: loops.pack(model, raw)].copy())
    assert parts[0].tobytes() == parts[1].tobytes()

    for loops in (_ans_fast, _ans_plain):
        out = np.full((groups, 256), 7, np.uint16)
        assert loops.unpack(parts[0], groups, out) == 0
        assert (out == model.frequencies).all()


@pytest.mark.parametrize(("fault", "number"), [("order", 1), ("short", 1), ("size", 2), ("sum", 3)])
def test_damaged_tables_are_refused_by_both_loops_alike(fault, number):
    model, raw = model_of(3), np.zeros(_ans_model.TABLE_BYTES, np.uint8)
    part = raw[: _ans_plain.pack(model, raw)].copy()
    if fault == "order":
        part[1] = part[0]
    elif fault == "short":
        part = part[:5]
    elif fault == "size":
        part = part[:-1]
    else:
        part[6] ^= 1

    for loops in (_ans_fast, _ans_plain):
        assert loops.unpack(part, 3, np.zeros((3, 256), np.uint16)) == number


@pytest.mark.parametrize("count", [32, 32 * 100, (1 << 16) - 32, 1 << 16, (1 << 16) + 32])
def test_counts_are_zero_again_after_each_block(count):
    rng = np.random.default_rng(count)
    symbols, contexts = (rng.integers(0, 256, count).astype(np.uint8) for _ in "ab")

    first = _ans.fitted(symbols, contexts, count)
    again = _ans.fitted(symbols, contexts, count)

    assert not _ans._counts().any()
    assert first.first.tolist() == again.first.tolist()
    assert (first.frequencies == again.frequencies).all()
    assert (first.frequencies.sum(axis=1) == 4096).all()


def test_counts_of_a_block_that_failed_are_thrown_away(monkeypatch):
    symbols = np.zeros(64, np.uint8)

    def broken(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(_ans_fast, "scales", broken)
        with pytest.raises(MemoryError):
            _ans.fitted(symbols, symbols, 64)

    assert not _ans._counts().any()
