"""Run many changed inputs through one reader; keep what must not happen."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from fuzz.mutate_bytes import mutate_bytes
from fuzz.oracle import OutOfTimeError, outcome, set_limits
from fuzz.targets import TARGETS, Target, put_tree

MOST = 1 << 16  # bytes of one input
KEEP = 300  # new inputs that gave a new answer are changed further, up to this many


def changed(target: Target, raw: bytes, rng: Random, seeds: list[bytes]) -> bytes:
    """Change one input; a change the mutator cannot write down becomes one of bytes."""
    try:
        made = target.mutate(raw, rng, seeds)
    except (struct.error, ValueError, OverflowError):
        made = raw if target.put is put_tree else mutate_bytes(raw, rng)
    return made if len(made) <= MOST else rng.choice(seeds)


def inputs(target: Target, rng: Random) -> Iterator[bytes]:
    """Yield changed seeds for ever; an input sent back with ``send`` joins the corpus."""
    seeds = target.seeds()
    pool = list(seeds)
    while True:
        raw = changed(target, rng.choice(pool if rng.random() < 0.5 else seeds), rng, seeds)
        for _ in range(rng.choice((0, 0, 0, 1, 3))):
            raw = changed(target, raw, rng, seeds)
        if (yield raw):
            if len(pool) >= len(seeds) + KEEP:
                pool.pop(rng.randrange(len(seeds), len(pool)))
            pool.append(raw)


def run(
    target: Target, seconds: float, seed: int, out: Path, most: int = sys.maxsize
) -> Counter[str]:
    """Fuzz in this process, which has to have its limits set; findings are written to ``out``."""
    rng = Random(seed)
    counts: Counter[str] = Counter()
    slowest, seen = 0.0, set[str]()
    stop = time.monotonic() + seconds
    feed = inputs(target, rng)
    raw = next(feed)
    current = out / f"{target.name}.current"
    while time.monotonic() < stop and counts.total() < most:
        current.write_bytes(raw)  # stays behind if the process dies
        start = time.monotonic()
        try:
            answer = outcome(target, raw, rng)
        except (Exception, OutOfTimeError) as error:  # noqa: BLE001  # every one is a finding
            answer = "FINDING " + type(error).__name__
            keep(out, target, raw, traceback.format_exc())
        slowest = max(slowest, time.monotonic() - start)
        counts[answer] += 1
        kind = f"{answer} {len(raw) // 64}"
        fresh = kind not in seen
        seen.add(kind)
        raw = feed.send(fresh)
    current.unlink()
    counts["slowest_ms"] = round(slowest * 1000)
    return counts


def keep(out: Path, target: Target, raw: bytes, trace: str) -> None:
    """Write an input and its trace, one per place in the code."""
    place = [line for line in trace.splitlines() if "memcard" in line or "Error" in line][-2:]
    stem = f"{target.name}-{hashlib.sha256(''.join(place).encode()).hexdigest()[:10]}"
    if not (out / stem).exists():
        (out / stem).write_bytes(raw)
        (out / f"{stem}.txt").write_text(trace)


def in_process(
    name: str, seconds: float, seed: int, out: Path, most: int = sys.maxsize
) -> Counter[str]:
    """Fuzz in a process of its own; one that dies is a finding, and the next begins.

    With ``most``, and seconds enough, the inputs are the same on every machine.
    """
    total: Counter[str] = Counter()
    stop = time.monotonic() + seconds
    tests = Path(__file__).resolve().parents[1]
    while (left := stop - time.monotonic()) > 0.5 and total.total() < most:
        script = "import sys; from fuzz.drive import child; child(*sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-c", script, name, str(left), str(seed), str(out), str(most)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(tests), "MALLOC_ARENA_MAX": "1"},
        )
        seed += 1
        if done.returncode == 0:
            found = json.loads(done.stdout)
            slowest = max(total["slowest_ms"], found.pop("slowest_ms"))
            total.update(found)
            total["slowest_ms"] = slowest
        else:
            total["FINDING process died"] += 1
            current = out / f"{name}.current"
            keep(
                out, TARGETS[name], current.read_bytes(), done.stderr + f" Error {done.returncode}"
            )
    return total


def child(name: str, seconds: str, seed: str, out: str, most: str) -> None:
    """Entry of the process."""
    set_limits()
    print(json.dumps(run(TARGETS[name], float(seconds), int(seed), Path(out), int(most))))
