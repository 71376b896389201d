"""Reading many packs at once, choosing by a few values, and telling whose fault a wrong value is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from memcard.errors import IntegrityError, UsageError
from memcard.store import pack as packs
from memcard.store._pack_writer import ReadValues
from memcard.store.layout import Layout
from memcard.store.objects import Objects, pack_path
from memcard.store.pack import BaseRef, Pack, PackWriter, cost, sampled


def key_of(raw: bytes) -> str:
    return blake3(raw).hexdigest()


def reading(raw: bytes) -> ReadValues:
    def read(offset: int, out: memoryview) -> None:
        out[:] = raw[offset : offset + len(out)]

    return read


def values(seed: int, count: int = 4000, size: float = 0.05) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(count) * size).astype("f4")


def write(folder: Path, raw: bytes, base: bytes | None = None, depth: int = 0, **more: bool) -> str:
    """Write a pack of one object; return its name."""
    ref = None if base is None else BaseRef(key_of(base), reading(base), depth)
    with PackWriter(folder) as writer:
        writer.add(key_of(raw), len(raw), reading(raw), item=4, base=ref, **more)
        return writer.commit().stem


@pytest.fixture
def home(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.mark.parametrize(("seed", "based"), [(0, True), (7, False)])
def test_a_base_is_used_where_it_makes_the_object_smaller(
    seed: int, based: bool, home: Layout
) -> None:
    base = values(0)
    new = values(seed) + values(1, size=1e-5)

    name = write(home.packs, new.tobytes(), base.tobytes(), weigh=True)

    with Objects(home, [name]) as objects:
        one = objects.get(key_of(new.tobytes()))
        assert one is not None
        assert (one.base is not None, one.depth) == (based, int(based))


def test_more_packs_can_be_read_than_stay_open(
    home: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "_MOST_OPEN", 2)
    raws = [values(i, 100).tobytes() for i in range(6)]
    for raw in raws:
        write(home.packs, raw)

    with Objects.everything(home) as objects:
        for raw in [*raws, *raws[::-1]]:
            out = bytearray(len(raw))
            objects.read(key_of(raw), 0, memoryview(out))
            assert out == raw
        opened = [p for raw in raws if (p := objects.pack_of(key_of(raw))) and p._fd >= 0]
        assert len(opened) <= 2


def test_a_closed_pack_is_not_read(home: Layout) -> None:
    raw = values(0, 100).tobytes()
    name = write(home.packs, raw)
    pack = Pack.open(pack_path(home, name))
    pack.close()

    with pytest.raises(UsageError, match="closed"):
        pack.get(key_of(raw))


def test_a_damaged_pack_is_left_out_of_everything(home: Layout) -> None:
    sound, other = values(0).tobytes(), values(1).tobytes()
    write(home.packs, sound)
    pack_path(home, write(home.packs, other)).write_bytes(b"no pack at all, but a name of one")

    with Objects.everything(home) as objects:
        assert key_of(sound) in objects
        assert key_of(other) not in objects


def test_what_is_built_on_an_object_is_counted(home: Layout) -> None:
    base = values(0).tobytes()
    write(home.packs, base)
    for seed in (1, 2):
        write(home.packs, (values(0) + values(seed, size=1e-5)).tobytes(), base)

    with Objects.everything(home) as objects:
        assert objects.built_on() == {key_of(base): 2}


@pytest.mark.parametrize("damaged", ["base", "middle", "top"])
def test_the_error_names_the_pack_that_is_damaged(damaged: str, home: Layout) -> None:
    raws = {"base": values(0).tobytes()}
    raws["middle"] = (values(0) + values(1, size=1e-5)).tobytes()
    raws["top"] = (values(0) + values(2, size=1e-5)).tobytes()
    names = {"base": write(home.packs, raws["base"])}
    names["middle"] = write(home.packs, raws["middle"], raws["base"])
    names["top"] = write(home.packs, raws["top"], raws["middle"], 1)
    path = pack_path(home, names[damaged])
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 16
    path.chmod(0o644)
    path.write_bytes(raw)

    with Objects.everything(home) as objects, pytest.raises(IntegrityError) as error:
        objects.read(key_of(raws["top"]), 0, memoryview(bytearray(len(raws["top"]))))

    assert str(error.value).startswith(str(path))


def test_checking_decodes_every_block(home: Layout) -> None:
    raw = values(0, (1 << 20) + 50).tobytes()
    name = write(home.packs, raw)
    with Pack.open(pack_path(home, name)) as pack:
        pack.check(key_of(raw))
        last = pack.objects[key_of(raw)].blocks[1]
    path = pack_path(home, name)
    damaged = bytearray(path.read_bytes())
    damaged[last.offset + last.stored // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(damaged)

    with Pack.open(path) as pack, pytest.raises(IntegrityError, match="block 1 of 2"):
        pack.check(key_of(raw))


@pytest.mark.parametrize("count", [0, 5, 1 << 14, (1 << 14) + 1, 3 << 20])
def test_a_sample_is_of_the_first_block_and_has_no_value_twice(count: int) -> None:
    raw = np.arange(count, dtype="<u4").tobytes()

    found = np.frombuffer(sampled(reading(raw), len(raw), 4), "<u4")

    assert len(found) == min(count, 1 << 14)
    assert len(set(found.tolist())) == len(found)
    assert not len(found) or found.max() < 1 << 20


def test_the_cost_is_a_share_of_the_size() -> None:
    base, rng = values(0), np.random.default_rng(0)

    assert cost(b"", 4) == 1.0
    assert cost(rng.bytes(4000), 4) == 1.0
    assert 0.6 < cost(base.tobytes(), 4) < 1.0
    assert cost(base.tobytes(), 4, base.tobytes()) < 0.02
