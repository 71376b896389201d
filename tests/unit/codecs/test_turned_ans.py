"""The codec of sizes without signs: exact for all bits, small where a size is known and its sign is not."""

import json
from pathlib import Path

import numpy as np
import pytest

from memcard.codecs import CODECS, _ans, _ans_fast, _ans_plain
from memcard.errors import CorruptError, MismatchError
from memcard.store.pack import Pack, reader_of

TURNED, DELTA, ALONE = CODECS["turned_ans"], CODECS["delta_ans"], CODECS["planes_ans"]
GOLDEN = Path(__file__).parents[2] / "golden" / "pack_v1_turned"


def moments():
    rng = np.random.default_rng(0)
    scale = np.exp(rng.standard_normal(40_001) * 3).astype("f4") * np.float32(1e-6)
    size = scale * np.float32(1) * np.exp(rng.standard_normal(scale.size) * 0.2).astype("f4")
    return np.where(rng.random(scale.size) < 0.5, -size, size), scale


def test_a_known_size_helps_whatever_the_sign():
    first, scale = moments()
    new, base = memoryview(first.tobytes()), memoryview(scale.tobytes())

    packed = len(TURNED.encode(new, 4, base))

    assert packed < 0.95 * len(ALONE.encode(new, 4))
    assert packed < 0.93 * len(DELTA.encode(new, 4, base))


@pytest.mark.parametrize("item", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [0, 8, 31 * 8, 32 * 8, 5000 * 8])
def test_every_bit_comes_back_and_nothing_given_is_changed(item, size):
    rng = np.random.default_rng(size)
    new, base = rng.bytes(size), rng.bytes(size)
    out = memoryview(bytearray(size))

    packed = TURNED.encode(memoryview(new), item, memoryview(base))
    TURNED.decode(memoryview(packed), out, item, memoryview(base))

    assert out == new


def test_it_needs_a_base():
    with pytest.raises(MismatchError, match="needs a base"):
        TURNED.encode(memoryview(bytes(400)), 4, None)


def test_damage_is_told():
    first, scale = moments()
    packed = bytearray(TURNED.encode(memoryview(first.tobytes()), 4, memoryview(scale.tobytes())))
    packed[0] ^= 1

    with pytest.raises(CorruptError):
        TURNED.decode(
            memoryview(packed), memoryview(bytearray(first.nbytes)), 4, memoryview(scale.tobytes())
        )


@pytest.mark.parametrize("loops", [_ans_fast, _ans_plain], ids=["compiled", "numpy"])
def test_packs_with_it_are_read_for_ever(monkeypatch, loops):
    monkeypatch.setattr(_ans, "kernels", lambda: loops)
    (path,) = GOLDEN.glob("*.pack")

    with Pack.open(path) as pack:
        read = reader_of(
            lambda key: pack if key in pack.objects else None, lambda key, offset, out: False
        )
        found = {o.key: [o.item, o.size, o.codec, o.depth] for o in pack.objects.values()}

        assert found == json.loads((GOLDEN / "objects.json").read_text())
        assert {o.item for o in pack.objects.values() if o.codec == "turned_ans"} == {1, 2, 4, 8}
        assert pack.verify(read) == ()
