"""Packing the tensors of a delta: which codec, which blocks are the base's, and the digests of all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from blake3 import blake3

from memcard.codecs import CODECS
from memcard.core.checkpoint import Checkpoint
from memcard.jobs._delta_file import BLOCK, SAME, Entry, check_of, item_of

_TINY = 64  # bytes; below that the planes' own lengths cost more than they save


def packed(old: Checkpoint, new: Checkpoint, threads: int) -> Iterator[tuple[Entry, list[bytes]]]:
    """Pack the tensors on several threads, and yield them in order; few wait at a time."""
    waiting: deque[Future[tuple[Entry, list[bytes]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for name in new.specs:
            waiting.append(pool.submit(_pack, old, new, name))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _pack(old: Checkpoint, new: Checkpoint, name: str) -> tuple[Entry, list[bytes]]:
    spec = new.specs[name]
    there = old.specs.get(name)
    alike = there is not None and (there.dtype, there.nbytes) == (spec.dtype, spec.nbytes)
    whole, whole_base, codec = blake3(), blake3(), ""
    blocks: list[bytes] = []
    checks: list[str] = []
    for start in range(0, spec.nbytes, BLOCK):
        part = memoryview(bytearray(min(BLOCK, spec.nbytes - start)))
        new.readinto(name, part, start)
        whole.update(part)
        checks.append(check_of(part))
        base = None
        if alike:
            base = memoryview(bytearray(len(part)))
            old.readinto(name, base, start)
            whole_base.update(base)
        if base is not None and base == part:
            blocks.append(b"")
            continue
        codec = codec or _choose(part, item_of(spec), base)
        blocks.append(CODECS[codec].encode(part, item_of(spec), base))
    base_digest = whole_base.hexdigest() if alike else ""
    sizes = tuple(map(len, blocks))
    made = codec or (SAME if alike else "raw")
    return Entry(name, spec, made, whole.hexdigest(), base_digest, sizes, tuple(checks)), blocks


def _choose(part: memoryview, item: int, base: memoryview | None) -> str:
    """Return the codec for a tensor: the one that is best on the first block that changed."""
    if len(part) < _TINY:
        return "raw"
    # What hides signs is for moments of optimizers, which are not what deltas are made of.
    names = [name for name in CODECS if name != "turned_ans"]
    usable = [name for name in names if base is not None or not CODECS[name].needs_base]
    return min(usable, key=lambda name: (len(CODECS[name].encode(part, item, base)), name))
