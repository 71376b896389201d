"""What saving costs a training, beside its floors and peers.

    python benchmarks/training.py FOLDER [--millions 120] [--rounds 4] [--peers] [--json]

FOLDER lies on the disk that is to be measured. The model is a stack of transformer layers in fp32 with AdamW;
120 million parameters make a state of 1.45 GB. Floors of the same run: M, a copy of as many bytes between
buffers whose pages are there (the fastest of three ways); W, writing them and fsync (the faster of two ways).
Rows are medians of ROUNDS, the first save apart. Peers: torch.save, safetensors, torch.distributed.checkpoint,
once each.

One function per row; others add theirs to ``ROWS``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from memcard.formats._direct import DirectFile
from memcard.training.checkpointer import Checkpointer
from memcard.training.keep import Keep
from memcard.training.saves import OpenSave, name_of

Result = dict[str, Any]
_PIECE = 16 << 20


def seconds(call: Callable[[], object], rounds: int = 1) -> float:
    """Return the median time of a call."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


class Bench:
    """A model with a warm optimizer, and the floors."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.folder
        layers = max(1, round(options.millions / 7.09))
        layer = torch.nn.TransformerEncoderLayer(768, 12, 3072, dropout=0.1, batch_first=True)
        self.model = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch = torch.randn(1, 32, 768)
        self.train()
        self.size = 12 * sum(p.numel() for p in self.model.parameters())
        self.tensors = [
            *(p.detach() for p in self.model.parameters()),
            *(self.optimizer.state[p][key] for p in self.model.parameters() for key in ("exp_avg", "exp_avg_sq")),
        ]  # fmt: skip

    def train(self) -> None:
        """One step."""
        self.model(self.batch).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def floors(self) -> Result:
        """Return M and W."""
        source = torch.empty(self.size, dtype=torch.uint8).fill_(1)
        to = torch.empty_like(source).fill_(2)
        ways = {
            "one copy_": lambda: to.view(torch.float32).copy_(source.view(torch.float32)),
            "memmove": lambda: ctypes.memmove(to.data_ptr(), source.data_ptr(), self.size),
        }
        copies = {name: seconds(way, 3) for name, way in ways.items()}
        raw = memoryview(to.numpy())
        writes = {
            way: seconds(lambda way=way: self._write(raw, way == "direct"))
            for way in ("buffered", "direct")
        }  # type: ignore[misc]
        return {
            "M": min(copies.values()),
            "W": min(writes.values()),
            "copies": copies,
            "writes": writes,
        }

    def _write(self, raw: memoryview, direct: bool) -> None:
        path = self.folder / "floor"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.posix_fallocate(fd, 0, len(raw))
        past = DirectFile.of(path) if direct else None
        for at in range(0, len(raw), _PIECE):
            piece = raw[at : at + _PIECE]
            first, last = past.write(piece, at) if past is not None else (0, 0)
            os.pwrite(fd, piece[:first], at)
            os.pwrite(fd, piece[last:], at + last)
        if past is not None:
            past.__exit__(None, None, None)
        os.fsync(fd)
        os.close(fd)
        path.unlink()


def saving(bench: Bench) -> Result:
    """Stall and time until durable, nothing beside."""
    run = bench.folder / "run"
    stalls, durable = [], []
    with Checkpointer(
        run, model=bench.model, optimizer=bench.optimizer, every=1, keep=Keep(last=1)
    ) as ck:
        for step in range(1, bench.options.rounds + 2):
            start = time.perf_counter()
            ck.save(step)
            stalls.append(time.perf_counter() - start)
            ck._collect(wait=True)  # waiting for it is no part of the stall
            durable.append(ck.durable)
    return {
        "first stall": stalls[0],
        "stall": statistics.median(stalls[1:]),
        "durable": statistics.median(durable[1:]),
    }


def steps(bench: Bench) -> Result:
    """Work of one thread with and without a save being written; a full step here would outlast the writing."""
    run = bench.folder / "steps"
    layer, batch = bench.model.layers[0], torch.randn(1, 64, 768)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    work: Callable[[], object] = lambda: layer(batch).sum().backward()  # noqa: E731
    quiet, busy = [seconds(work) for _ in range(40)], list[float]()
    with Checkpointer(
        run, model=bench.model, optimizer=bench.optimizer, every=1000, keep=Keep(last=1)
    ) as ck:
        for number in range(1, bench.options.rounds + 2):
            ck.save(number)
            while ck._background.busy:
                busy.append(seconds(work))
            ck._collect(wait=True)
            quiet += [seconds(work) for _ in range(40)]
    torch.set_num_threads(threads)
    return {
        "step": statistics.mean(quiet),
        "step while writing": statistics.mean(busy),
        "measured": len(busy),
    }


def loading(bench: Bench) -> Result:
    """Load into a built model and a warm optimizer; the file is in the page cache."""
    run = bench.folder / "run"
    path = run / name_of(bench.options.rounds + 1)
    loads, hashes = [], []
    with Checkpointer(run, model=bench.model, optimizer=bench.optimizer) as ck:
        for _ in range(bench.options.rounds):
            with OpenSave(path) as found:
                hashes.append(seconds(found.verify))
                loads.append(seconds(lambda: ck._load(found)))
    return {"load": statistics.median(loads), "verify": statistics.median(hashes)}


def peers(bench: Bench) -> Result:
    """Blocking time of others, once each."""
    import torch.distributed.checkpoint as dcp
    from safetensors.torch import save_file

    state = {"model": bench.model.state_dict(), "optimizer": bench.optimizer.state_dict()}
    named = {str(i): t for i, t in enumerate(bench.tensors)}
    file, folder = bench.folder / "peer", bench.folder / "peer-dcp"
    found = {
        "torch.save": seconds(lambda: torch.save(state, file)),
        "torch.load into": seconds(lambda: _torch_load(bench, file)),
        "safetensors": seconds(lambda: save_file(named, file)),
        "dcp.save": seconds(lambda: dcp.save(state, checkpoint_id=folder, no_dist=True)),
    }
    file.unlink()
    shutil.rmtree(folder)
    return found


def _torch_load(bench: Bench, file: Path) -> None:
    found = torch.load(file, mmap=True, weights_only=True)  # noqa: TID251  # a peer
    bench.model.load_state_dict(found["model"])
    bench.optimizer.load_state_dict(found["optimizer"])


ROWS = {"saving": saving, "steps": steps, "loading": loading}
_FLOOR = {"stall": "M", "first stall": "M", "durable": "W", "load": "M", "verify": "M"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--millions", type=float, default=120.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.folder = options.folder / f"memcard-bench-{os.getpid()}"
    options.folder.mkdir(parents=True)
    try:
        bench = Bench(options)
        found = {"GB": bench.size / 1e9, **bench.floors()}
        for row in (*ROWS.values(), *([peers] if options.peers else [])):
            found |= row(bench)
    finally:
        shutil.rmtree(options.folder)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        floor = _FLOOR.get(name)
        beside = f"  {value / found[floor]:.2f} {floor}" if floor else ""
        print(f"{name:20} {value if isinstance(value, dict | int) else f'{value:.3f}'}{beside}")
    print(f"steps while writing: {found['step while writing'] / found['step']:.2f} x")


if __name__ == "__main__":
    main()
