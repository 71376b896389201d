"""Packs: what went in comes out from any byte on; nothing damaged is ever handed on."""

import errno
import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from memcard.errors import (
    CorruptError,
    DiskError,
    IntegrityError,
    MemcardError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from memcard.store import _pack_layout as layout
from memcard.store.pack import BaseRef, Pack, PackWriter, estimate, reader_of


def key_of(raw: bytes) -> str:
    return blake3(raw).hexdigest()


def reading(raw: bytes):
    def read(offset: int, out: memoryview) -> None:
        out[:] = raw[offset : offset + len(out)]

    return read


def close_pair(values: int, dtype: str = "f4", seed: int = 0) -> tuple[bytes, bytes]:
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(values).astype("f4") * 0.05
    new = base + rng.standard_normal(values).astype("f4") * 1e-5
    return base.astype(dtype).tobytes(), new.astype(dtype).tobytes()


def by_key(*raws: bytes):
    known = {key_of(raw): raw for raw in raws}

    def read(key: str, offset: int, out: memoryview) -> None:
        out[:] = known[key][offset : offset + len(out)]

    return read


def recipe_of(contents: dict[str, bytes], base: bytes):
    """Return what gives the bases of the sample: one is a tensor, one what a recipe makes."""
    bases = by_key(base, contents["alone"])

    def read(key: str, offset: int, out: memoryview) -> None:
        bases(key_of(contents["alone"]) if key == "ab" * 32 else key, offset, out)

    return read


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], bytes]:
    """A pack of a tensor alone, one against a base, one equal to it, a skeleton and an empty one."""
    base, new = close_pair(3000)
    contents = {
        "alone": close_pair(2000, "f2", 1)[0],
        "delta": new,
        "skeleton": b'{"a": 1}' * 40,
        "empty": b"",
        "tiny": b"12345678",
    }
    folder = tmp_path_factory.mktemp("packs")
    with PackWriter(folder) as writer:
        for name, raw in contents.items():
            item = {"alone": 2, "delta": 4}.get(name, 1)
            ref = BaseRef(key_of(base), reading(base)) if name == "delta" else None
            kind = "skeleton" if name == "skeleton" else "tensor"
            writer.add(key_of(raw), len(raw), reading(raw), item=item, base=ref, kind=kind)
        same = BaseRef("ab" * 32, reading(contents["alone"][:500]), depth=1)
        again = contents["alone"][:500]
        writer.add(key_of(again), 500, reading(again), item=2, base=same, kind="residual")
        path = writer.commit()
    return path, {**contents, "same": again}, base


def test_all_comes_back(sample: tuple[Path, dict[str, bytes], bytes]) -> None:
    path, contents, base = sample
    recipe = recipe_of(contents, base)

    with Pack.open(path) as pack:
        assert list(pack.objects) == [key_of(raw) for raw in contents.values()]
        assert {n: pack.get(key_of(raw), recipe) for n, raw in contents.items()} == contents
        assert pack.verify(recipe) == ()
        assert not pack.rebuilt


def test_objects_say_what_they_are(sample: tuple[Path, dict[str, bytes], bytes]) -> None:
    path, contents, base = sample

    with Pack.open(path) as pack:
        delta = pack.objects[key_of(contents["delta"])]
        same = pack.objects[key_of(contents["same"])]
        skeleton = pack.objects[key_of(contents["skeleton"])]

    assert (delta.base, delta.depth, delta.codec, delta.item) == (key_of(base), 1, "delta_ans", 4)
    assert delta.stored < 0.6 * delta.size
    assert (same.kind, same.depth, same.blocks[0].mode, same.blocks[0].stored) == ("residual", 2, "same", 0)  # fmt: skip
    assert skeleton.kind == "skeleton"
    assert skeleton.stored < 0.7 * skeleton.size
    assert path.name == f"{blake3(path.read_bytes()).hexdigest()}.pack"
    assert path.parent.name == path.name[:2]


@given(start=st.integers(0, 12_000), size=st.integers(0, 12_000))
def test_any_range_can_be_read(
    sample: tuple[Path, dict[str, bytes], bytes], start: int, size: int
) -> None:
    path, contents, base = sample
    start, size = min(start, 12_000), min(size, 12_000 - min(start, 12_000))
    out = bytearray(size)

    with Pack.open(path) as pack:
        pack.read(key_of(contents["delta"]), start, memoryview(out), by_key(base))

    assert out == contents["delta"][start : start + size]


def test_a_range_over_two_blocks_reads_only_those(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 3, 3 * layout.BLOCK_VALUES + 5, np.uint8).tobytes()
    with PackWriter(tmp_path, threads=2) as writer:
        made = writer.add(key_of(raw), len(raw), reading(raw))
        path = writer.commit()
    with path.open("r+b") as file:  # block 0 is damaged, and never looked at
        file.seek(made.blocks[0].offset + 9)
        file.write(b"\xff\xfe\xfd")
    begin, end = layout.BLOCK_VALUES + 3, 3 * layout.BLOCK_VALUES + 2
    out = bytearray(end - begin)

    with Pack.open(path) as pack:
        pack.read(made.key, begin, memoryview(out))
        with pytest.raises(IntegrityError, match="block 0 of 4"):
            pack.read(made.key, 0, memoryview(bytearray(5)))

    assert out == raw[begin:end]
    assert [b.mode for b in made.blocks] == ["codec", "codec", "codec", "raw"]


def _told(path: Path, contents: dict[str, bytes], recipe) -> bool:
    """Read all of a damaged pack; True if the damage was told. Wrong bytes are a failure."""
    try:
        pack = Pack.open(path)
    except MemcardError:
        return True
    with pack:
        for raw in contents.values():
            with suppress(MemcardError):
                assert pack.get(key_of(raw), recipe) == raw
        return bool(pack.verify(recipe))


def _damaged(sample, folder: Path, places) -> int:
    """Flip one bit at each of the places in turn; return how many were told."""
    path, contents, base = sample
    recipe = recipe_of(contents, base)
    whole, broken = bytearray(path.read_bytes()), folder / path.name
    told = 0
    for place, bit in places:
        whole[place] ^= 1 << bit
        broken.write_bytes(whole)
        told += _told(broken, contents, recipe)
        whole[place] ^= 1 << bit
    return told


def test_one_flipped_bit_is_told_and_never_handed_on(sample, tmp_path: Path) -> None:
    size, rng = sample[0].stat().st_size, random.Random(0)
    places = [(rng.randrange(size), rng.randrange(8)) for _ in range(300)]

    assert _damaged(sample, tmp_path, places) == 300


@pytest.mark.slow
def test_one_flipped_bit_in_any_byte_is_told(sample, tmp_path: Path) -> None:
    size = sample[0].stat().st_size
    places = [(place, place % 8) for place in range(size)]

    assert len(places) > 2000
    assert _damaged(sample, tmp_path, places) == size


def test_a_pack_that_is_cut_off_gives_what_is_left_and_says_so(sample, tmp_path: Path) -> None:
    path, contents, base = sample
    whole, cut = path.read_bytes(), tmp_path / path.name
    with Pack.open(path) as pack:
        last = list(pack.objects.values())[-1]
    cut.write_bytes(whole[: last.at + 3])

    with Pack.open(cut) as pack:
        left = list(pack.objects)
        faults = pack.verify(by_key(base))
        got = pack.get(key_of(contents["delta"]), by_key(base))

    assert left == [key_of(raw) for name, raw in contents.items() if name != "same"]
    assert got == contents["delta"]
    assert "cut off" in faults[0] or "does not end" in faults[0]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99])
def test_no_length_makes_a_reader_hand_on_wrong_bytes(sample, tmp_path: Path, share: float) -> None:
    path, contents, base = sample
    whole, cut = path.read_bytes(), tmp_path / path.name
    cut.write_bytes(whole[: int(share * len(whole))])

    assert _told(cut, contents, recipe_of(contents, base))


def test_a_lost_footer_is_rebuilt_with_all_objects(sample, tmp_path: Path) -> None:
    path, contents, base = sample
    whole = bytearray(path.read_bytes())
    whole[-100:] = bytes(100)
    broken = tmp_path / path.name
    broken.write_bytes(whole)

    with Pack.open(path) as sound, Pack.open(broken) as pack:
        assert pack.rebuilt
        assert dict(pack.objects) == dict(sound.objects)
        assert pack.get(key_of(contents["delta"]), by_key(base)) == contents["delta"]


def test_a_damaged_head_loses_one_object_when_the_footer_is_lost_too(sample, tmp_path) -> None:
    path, contents, _ = sample
    with Pack.open(path) as pack:
        first = pack.objects[key_of(contents["alone"])]
    whole = bytearray(path.read_bytes())
    whole[-8:] = bytes(8)
    whole[first.at + 20] ^= 1
    broken = tmp_path / path.name
    broken.write_bytes(whole)

    with Pack.open(broken) as pack:
        assert set(pack.objects) == {key_of(r) for name, r in contents.items() if name != "alone"}


def test_a_newer_version_is_refused_with_the_remedy(sample, tmp_path: Path) -> None:
    whole = bytearray(sample[0].read_bytes())
    struct.pack_into("<I", whole, 8, layout.VERSION + 1)
    newer = tmp_path / "newer.pack"
    newer.write_bytes(whole)

    with pytest.raises(UnsupportedError, match=r"version 2; this memcard knows 1\. Update"):
        Pack.open(newer)


def test_a_file_that_is_no_pack_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pack"
    path.write_bytes(b"PK" * 100)

    with pytest.raises(CorruptError, match="no pack"):
        Pack.open(path)


def _with_footer(path: Path, raw: bytes, count: int, target: Path) -> Path:
    """Replace the footer of a pack by one whose digest is right."""
    whole = path.read_bytes()
    (place,) = struct.unpack_from("<Q", whole, len(whole) - layout.TRAILER.size)
    target.write_bytes(whole[:place] + raw + layout.trailer(place, raw, count))
    return target


def test_hostile_footers_cost_no_memory_and_are_refused(sample, tmp_path: Path) -> None:
    with Pack.open(sample[0]) as pack:
        objects = tuple(pack.objects.values())
    good = layout.footer(objects)
    huge = layout.footer(
        (replace(objects[0], size=layout.SIZE_MOST, blocks=layout.Blocks(b"", 0)),)
    )
    behind = layout.footer((replace(objects[0], at=1 << 60),))
    hostile = {
        "too few objects": (good, len(objects) + 1),
        "an object of 16 TiB without blocks": (huge, 1),
        "an object behind the end": (behind, 1),
        "the same twice": (good + good, 2 * len(objects)),
        "cut off": (good[:-7], len(objects)),
        "zeros": (bytes(1000), 1),
    }

    for name, (raw, count) in hostile.items():
        path = _with_footer(sample[0], raw, count, tmp_path / "hostile.pack")
        tracemalloc.start()
        with Pack.open(path) as pack:
            assert pack.rebuilt, name
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20, name


def test_an_object_without_its_codec_says_what_to_do(sample, tmp_path: Path) -> None:
    path, contents, _ = sample
    with Pack.open(path) as pack:
        objects = [replace(pack.objects[key_of(contents["alone"])], codec="planes_new")]
    renamed = _with_footer(path, layout.footer(objects), len(objects), tmp_path / "x.pack")

    with Pack.open(renamed) as pack, pytest.raises(UnsupportedError, match="update memcard"):
        pack.get(key_of(contents["alone"]))


def test_a_difference_is_not_read_without_its_base(sample) -> None:
    path, contents, base = sample
    wrong = close_pair(3000, seed=9)[0]

    with Pack.open(path) as pack:
        with pytest.raises(MismatchError, match=key_of(base)):
            pack.get(key_of(contents["delta"]))
        with pytest.raises(IntegrityError, match="is damaged"):
            pack.get(key_of(contents["delta"]), lambda key, at, out: reading(wrong)(at, out))
        with pytest.raises(NotFoundError, match="no object"):
            pack.get("00" * 32)


def test_nothing_appears_before_commit_and_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    raw = b"some bytes" * 100

    def interrupted() -> None:
        with PackWriter(tmp_path) as writer:
            writer.add(key_of(raw), len(raw), reading(raw))
            assert list(tmp_path.glob("**/*.pack")) == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_changed_since_their_digest_was_taken_are_refused(tmp_path: Path) -> None:
    raw = b"some bytes" * 100

    with PackWriter(tmp_path) as writer:
        with pytest.raises(IntegrityError, match="has changed since"):
            writer.add(key_of(raw), len(raw), reading(raw[::-1]))
        with pytest.raises(UsageError, match="begin another"):
            writer.commit()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"key": "xyz"}, "no key"),
        ({"item": 3}, "not values of 3 bytes"),
        ({"size": 7, "item": 2}, "not values of 2 bytes"),
        ({"base": BaseRef("00" * 32, reading(b""), depth=4)}, "against one that stands alone"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(tmp_path: Path, change, why: str) -> None:
    arguments = {"key": "00" * 32, "size": 8, "read": reading(bytes(8)), **change}

    with PackWriter(tmp_path) as writer, pytest.raises(UsageError, match=why):
        writer.add(**arguments)


def test_a_pack_without_objects_is_not_written(tmp_path: Path) -> None:
    with PackWriter(tmp_path) as writer, pytest.raises(UsageError, match="without objects"):
        writer.commit()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with PackWriter(tmp_path) as writer:
        writer.add(key_of(b"x"), 1, reading(b"x"))
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match="space"):
            writer.commit()

    assert list(tmp_path.iterdir()) == []


def test_the_same_objects_make_the_same_file_on_any_number_of_threads(tmp_path: Path) -> None:
    base, new = close_pair((1 << 20) * 2 + 100, "f2")
    paths = []
    for threads in (1, 3):
        with PackWriter(tmp_path / str(threads), threads=threads) as writer:
            ref = BaseRef(key_of(base), reading(base))
            writer.add(key_of(new), len(new), reading(new), item=2, base=ref)
            paths.append(writer.commit())

    assert paths[0].name == paths[1].name


def test_an_object_is_written_once(tmp_path: Path) -> None:
    with PackWriter(tmp_path) as writer:
        first = writer.add(key_of(b"x" * 500), 500, reading(b"x" * 500))
        size = writer.size

        assert writer.add(first.key, 500, reading(b"x" * 500)) is first
        assert writer.size == size
        assert first.key in writer


def test_an_object_moves_to_another_pack_as_it_is(sample, tmp_path: Path) -> None:
    path, contents, base = sample
    key = key_of(contents["delta"])

    with Pack.open(path) as pack, PackWriter(tmp_path) as writer:
        writer.add(key_of(b"first"), 5, reading(b"first"))
        pack.copy(key, writer)
        moved = writer.commit()

    with Pack.open(moved) as pack:
        assert pack.get(key, by_key(base)) == contents["delta"]
        assert pack.verify(by_key(base)) == ()


def test_chains_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    base, middle = close_pair(2000)
    top = close_pair(2000, seed=3)[1]
    with PackWriter(tmp_path) as writer:
        ref = BaseRef(key_of(base), reading(base))
        made = writer.add(key_of(middle), 8000, reading(middle), item=4, base=ref)
        ref = BaseRef(made.key, reading(middle), depth=made.depth)
        writer.add(key_of(top), 8000, reading(top), item=4, base=ref, codec="delta_ans")
        path = writer.commit()
    plain = by_key(base)

    def raw(key: str, offset: int, out: memoryview) -> bool:
        if key != key_of(base):
            return False
        plain(key, offset, out)
        return True

    out = bytearray(8000)
    with Pack.open(path) as pack:
        reader_of(lambda key: pack if key in pack.objects else None, raw)(
            key_of(top), 0, memoryview(out)
        )
        circle = {**pack.objects, key_of(middle): replace(pack.objects[made.key], base=key_of(top))}
        pack.objects = circle
        read = reader_of(lambda key: pack if key in circle else None, lambda *_: False)
        with pytest.raises(CorruptError, match="serves as base"):
            read(key_of(top), 0, memoryview(out[:4]))
        with pytest.raises(NotFoundError, match="neither in a pack nor"):
            read("00" * 32, 0, memoryview(out[:4]))

    assert out == top


def test_an_estimate_tells_if_a_difference_pays() -> None:
    base, new = close_pair(200_000)
    other = close_pair(200_000, seed=5)[0]

    alone, delta = estimate(reading(new), len(new), 4, reading(base))
    _, foreign = estimate(reading(new), len(new), 4, reading(other))

    assert delta < 0.75 * alone
    assert foreign > alone
    assert estimate(reading(b""), 0, 4) == (1.0, 1.0)


def test_memory_does_not_grow_with_the_object(tmp_path: Path) -> None:
    size, zero = 96 << 20, bytes(1 << 20)
    whole = blake3()
    for _ in range(96):
        whole.update(zero)
    tracemalloc.start()

    with PackWriter(tmp_path) as writer:
        writer.add(whole.hexdigest(), size, lambda at, out: None)
        path = writer.commit()
    with Pack.open(path) as pack:
        assert pack.verify() == ()

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.parametrize("count", [9_000, 20_000, 27_648, 36_864, 65_537, 100_000])
def test_an_estimate_does_not_count_a_value_twice(count: int) -> None:
    """Stretches that overlapped made noise look compressible, at sizes a little above one stretch."""
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(count) * 0.05).astype("f4")
    near = (values + rng.standard_normal(count) * 1e-6).astype("f4").tobytes()

    def reader(raw: bytes) -> Callable[[int, memoryview], None]:
        def read(at: int, out: memoryview) -> None:
            out[:] = raw[at : at + len(out)]

        return read

    alone, delta = estimate(reader(near), 4 * count, 4, reader(values.tobytes()))

    assert 0.8 < alone < 0.9
    assert 0.3 < delta < 0.4
