"""Packs share the memory of a thread: reading from many costs what reading from one does."""

from __future__ import annotations

import random
import threading
import tracemalloc
from contextlib import ExitStack
from pathlib import Path

from blake3 import blake3

from memcard.store import _pack_memory as memory
from memcard.store.pack import BaseRef, Pack, PackWriter, keeping, reader_of

BLOCK = 1 << 20
PACKS = 12


def compressible(seed: int) -> bytes:
    return bytes(random.Random(seed).choices(range(8), k=BLOCK))


def packed(folder: Path, raw: bytes, base: bytes | None = None) -> Path:
    def of(data: bytes, at: int, out: memoryview) -> None:
        out[:] = data[at : at + len(out)]

    ref = BaseRef(blake3(base).hexdigest(), lambda at, out: of(base, at, out), 0) if base else None
    with PackWriter(folder) as writer:
        writer.add(
            blake3(raw).hexdigest(), len(raw), lambda at, out: of(raw, at, out), item=1, base=ref
        )
        return writer.commit()


def test_many_packs_take_no_more_memory_than_one(tmp_path: Path) -> None:
    values = [compressible(seed) for seed in range(PACKS)]
    paths = [packed(tmp_path, raw) for raw in values]
    part = memoryview(bytearray(BLOCK // 2))
    with ExitStack() as stack:
        packs = [stack.enter_context(Pack.open(path)) for path in paths]
        keys = [blake3(raw).hexdigest() for raw in values]
        packs[0].read(keys[0], 1, part)
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for pack, key, raw in zip(packs, keys, values, strict=True):
            pack.read(key, 1, part)
            assert part == raw[1 : 1 + len(part)]
        peak = tracemalloc.get_traced_memory()[1]

    assert peak < 4 * BLOCK


def test_a_base_that_needs_packs_itself_keeps_what_it_filled(tmp_path: Path) -> None:
    """A recipe fills the base bit by bit, and reads differences of the same depth meanwhile."""
    old = compressible(0)
    one, two = (old[:-1] + bytes([7 - old[-1] + n]) for n in (0, 8))
    keys = [blake3(raw).hexdigest() for raw in (one, two)]
    with (
        Pack.open(packed(tmp_path, one, old)) as first,
        Pack.open(packed(tmp_path, two, old)) as second,
    ):

        def plain(key: str, at: int, out: memoryview) -> None:
            out[:] = old[at : at + len(out)]

        def bit_by_bit(key: str, at: int, out: memoryview) -> None:
            for start in range(0, len(out), BLOCK // 4):
                second.get(keys[1], plain)
                end = start + BLOCK // 4
                out[start:end] = old[at + start : at + end]

        assert first.get(keys[0], bit_by_bit) == one


def test_differences_upon_differences_take_no_more_memory_than_one(tmp_path: Path) -> None:
    values = [compressible(0)]
    for n in range(4):
        values.append(values[-1][:-1] + bytes([n]))
    keys = [blake3(raw).hexdigest() for raw in values]
    with PackWriter(tmp_path) as writer:
        for depth, (key, raw) in enumerate(zip(keys, values, strict=True)):

            def read(at: int, out: memoryview, raw: bytes = raw) -> None:
                out[:] = raw[at : at + len(out)]

            def below(at: int, out: memoryview, raw: bytes = values[max(0, depth - 1)]) -> None:
                out[:] = raw[at : at + len(out)]

            base = BaseRef(keys[depth - 1], below, depth - 1) if depth else None
            writer.add(key, BLOCK, read, base=base)
        path = writer.commit()
    peaks: dict[int, int] = {}

    def measure(depth: int) -> None:  # in a thread of its own, which has no memory yet
        out = memoryview(bytearray(BLOCK))
        tracemalloc.start()
        reader(keys[depth], 0, out)
        peaks[depth] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert out == values[depth]

    with Pack.open(path) as pack:
        reader = reader_of(lambda key: pack, lambda key, at, out: False)
        for depth in (4, 1, 4):
            thread = threading.Thread(target=measure, args=(depth,))
            thread.start()
            thread.join()

    assert peaks[4] < peaks[1] + BLOCK // 4


def test_the_last_blocks_that_stand_alone_are_kept_while_that_is_asked_for() -> None:
    blocks = [memoryview(bytes([n]) * 8) for n in range(3)]

    with keeping():
        for n, block in enumerate(blocks):
            memory.keep(f"key {n}", 0, block)
        found = [memory.kept_block(f"key {n}", 0, 8) for n in range(3)]
        other = memory.kept_block("key 2", 8, 8), memory.kept_block("key 2", 0, 4)

    assert found == [None, blocks[1], blocks[2]]
    assert other == (None, None)
    assert memory.kept_block("key 2", 0, 8) is None
    memory.keep("key 2", 0, blocks[2])
    assert memory.kept_block("key 2", 0, 8) is None


def test_a_thread_lets_all_its_memory_go() -> None:
    memory.scratch("mine", 1 << 16)
    tracemalloc.start()
    memory.scratch("more", 1 << 20)

    memory.release()

    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert left < 1 << 18
