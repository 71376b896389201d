"""A block is decoded before it is stored, and what a small object was weighed by is not made twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from memcard.codecs import CODECS
from memcard.errors import CorruptError, IntegrityError
from memcard.store import _pack_blocks as blocks
from memcard.store._pack_blocks import BaseRef, ReadValues, Values, Weighed, encoded, weighed
from memcard.store.pack import Pack, PackWriter, reader_of


def of(raw: bytes) -> ReadValues:
    def read(at: int, out: memoryview) -> None:
        out[:] = raw[at : at + len(out)]

    return read


def key_of(raw: bytes) -> str:
    return blake3(raw).hexdigest()


def pair(count: int, size: float = 1e-4) -> tuple[bytes, bytes]:
    rng = np.random.default_rng(count)
    base = (rng.standard_normal(count) * 0.05).astype("f4")
    new = base + (rng.standard_normal(count) * size).astype("f4")
    return base.tobytes(), new.astype("f4").tobytes()


def values_of(base: bytes, new: bytes) -> Values:
    return Values(len(new), 4, of(new), BaseRef(key_of(base), of(base)))


class Wrong:
    """A codec that decodes one value wrongly, or not at all."""

    title, source, needs_base = "wrong", "", False

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def encode(self, new: memoryview, item: int, base: memoryview | None = None) -> bytes:
        return bytes(new)[: len(new) // 2]

    def decode(
        self, packed: memoryview, out: memoryview, item: int, base: memoryview | None = None
    ) -> None:
        if self.fault == "not at all":
            raise CorruptError("it ends early.")
        out[:] = bytes(packed) * 2


@pytest.mark.parametrize("fault", ["other values", "not at all"])
def test_a_block_that_cannot_be_decoded_is_not_stored(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, raw = pair(4096)
    monkeypatch.setattr(blocks, "CODECS", {"planes_ans": Wrong(fault)})

    with (
        pytest.raises(IntegrityError, match=f"{fault}.*nothing was stored"),
        PackWriter(tmp_path) as w,
    ):
        w.add(key_of(raw), len(raw), of(raw), item=4)

    assert list(tmp_path.rglob("*.pack")) == []


@pytest.mark.parametrize("count", [100, 16384, 16385])
def test_weighing_first_gives_the_same_bytes(count: int) -> None:
    base, new = pair(count)
    known = weighed(values_of(base, new))

    one = encoded(known, (0, len(new)), bytearray(), "delta_ans")
    two = encoded(Weighed(values_of(base, new)), (0, len(new)), bytearray(), "delta_ans")

    assert (known.packed is not None) == (count <= 16384)
    assert bytes(one.stored) == bytes(two.stored)
    assert (one.mode, one.digest, bytes(one.values)) == (two.mode, blake3(new).digest(), new)


@pytest.mark.parametrize("count", [1000, 1 << 15])
def test_a_base_that_is_no_base_is_dropped(count: int) -> None:
    new = pair(count)[1]

    known = weighed(values_of(np.random.default_rng(1).bytes(len(new)), new))

    block = encoded(known, (0, len(new)), bytearray(), "planes_ans")
    assert known.values.base is None
    assert bytes(block.stored) == CODECS["planes_ans"].encode(memoryview(new), 4)


@pytest.mark.parametrize("count", [1000, 1 << 15])
def test_equal_values_are_not_encoded(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _ = pair(count)
    monkeypatch.setattr(blocks, "CODECS", {})

    block = encoded(weighed(values_of(base, base)), (0, len(base)), bytearray(), "delta_ans")

    assert (block.mode, block.stored) == ("same", b"")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 4096, 4097, 10_003])
def test_blocks_are_compared_to_the_last_byte(size: int) -> None:
    one = np.random.default_rng(size).bytes(size)

    assert blocks._equal(memoryview(one), memoryview(bytes(one)))
    for place in {0, size // 2, size - 1} if size else set():
        two = bytearray(one)
        two[place] ^= 1
        assert not blocks._equal(memoryview(one), memoryview(two))


def test_a_pack_knows_whether_the_disk_has_it(tmp_path: Path) -> None:
    _, raw = pair(5000)
    with PackWriter(tmp_path) as writer:
        writer.add(key_of(raw), len(raw), of(raw), item=4)
        path = writer.commit()

    with Pack.open(path) as pack:
        assert pack.is_intact()
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
        assert not pack.is_intact()


def test_objects_of_many_blocks_and_of_one_have_to_have_their_keys(tmp_path: Path) -> None:
    for count in (4, 1 << 20, (1 << 20) + 4):
        raw = bytes(count)
        with (
            pytest.raises(IntegrityError, match="has changed since"),
            PackWriter(tmp_path) as writer,
        ):
            writer.add(key_of(b"other"), len(raw), of(raw), item=1)


def test_a_base_that_several_need_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memcard.store.pack import keeping

    base, new = pair(70_000)
    with PackWriter(tmp_path) as writer:
        writer.add(key_of(base), len(base), of(base), item=4)
        writer.add(key_of(new), len(new), of(new), item=4, base=BaseRef(key_of(base), of(base), 0))
        path = writer.commit()
    count, planes = [], type(CODECS["planes_ans"])
    real = planes.decode
    monkeypatch.setattr(planes, "decode", lambda *a: count.append(1) or real(*a))
    out = memoryview(bytearray(len(new)))
    with Pack.open(path) as pack:
        read = reader_of({key_of(base): pack, key_of(new): pack}.get, lambda k, a, o: False)
        for order in ((base, new), (new, base), (base, new, base)):
            count.clear()
            with keeping():
                for raw in order:
                    read(key_of(raw), 0, out)
                    assert out == raw
            assert len(count) == 1
        count.clear()
        for raw in (base, new):
            read(key_of(raw), 0, out)
        assert len(count) == 2  # nothing is kept for later: the file may be damaged by then


def test_what_was_not_checked_is_not_kept(tmp_path: Path) -> None:
    from memcard.store.pack import unchecked

    raw = np.random.default_rng(0).bytes(4096)
    with PackWriter(tmp_path) as writer:
        writer.add(key_of(raw), len(raw), of(raw), codec="raw")
        path = writer.commit()
    whole = bytearray(path.read_bytes())
    whole[whole.index(raw) + 5] ^= 1
    path.write_bytes(whole)
    out = memoryview(bytearray(100))

    with Pack.open(path) as pack:
        with unchecked():
            pack.read(key_of(raw), 0, out)
        with pytest.raises(IntegrityError, match="block 0 of 1"):
            pack.read(key_of(raw), 0, out)
