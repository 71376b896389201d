"""EMA updates: memcard, the floor and other programs, side by side.

    python benchmarks/training_ema.py [--rounds N] [--threads N] [--ours]

100 M parameters in 510 tensors (sizes of a UNet: many small ones, a few of millions), fp32, then bf16. The floor
is one flat ``lerp_`` over as many values: 12 bytes per parameter through memory. All rows run once per
round, in turn; the best round and the medians are printed. ``cpu`` is the time of all threads, ``x`` the ratio to
the floor's. With several threads on a busy machine only the best round says something. Needs 6 GB of memory. Peers that are not installed are
left out (``pip install ema-pytorch``).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from memcard.training.decays import POST_HOC
from memcard.training.ema import EMA

Row = tuple[str, Callable[[], object]]
DECAY = 0.9999


def sizes() -> list[tuple[int, ...]]:
    """List 510 shapes of together 100 million values."""
    found: list[tuple[int, ...]] = []
    for _ in range(10):
        found += [(320,)] * 17 + [(640,)] * 13
        found += [(320, 320)] * 8 + [(640, 640)] * 8 + [(320, 320, 3, 3)] * 3 + [(1280, 1280)] * 2
    return found


def model_of(dtype: torch.dtype) -> nn.ParameterList:
    """Return a model of those shapes."""
    return nn.ParameterList([nn.Parameter(torch.randn(s, dtype=dtype)) for s in sizes()])


def flat(count: int) -> list[Row]:
    """Return the floors: an fp32 average of fp32 values, whatever the model's dtype."""
    shadow, new = torch.zeros(count), torch.randn(count)
    return [
        ("floor: one flat fp32 lerp_", lambda: shadow.lerp_(new, 1 - DECAY)),
        ("fp32 memcpy", lambda: shadow.copy_(new)),
    ]


def ours(model: nn.Module) -> list[Row]:
    """Return the rows of memcard."""
    one, two = EMA(model, DECAY), EMA(model, POST_HOC)
    for ema in (one, two):
        ema.update()  # makes the plan
    return [("memcard EMA", one.update), ("memcard EMA, two widths at once", two.update)]


def peers(model: nn.ParameterList, dtype: torch.dtype) -> list[Row]:
    """Return the rows of other programs; those that are not there are left out."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    rows: list[Row] = []
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    averaged.update_parameters(model)  # the first call copies
    rows.append(("torch AveragedModel (foreach)", lambda: averaged.update_parameters(model)))
    try:
        peer = import_module("ema_pytorch").EMA
    except ImportError:
        pass
    else:
        lucid = peer(
            model, beta=DECAY, update_every=1, update_after_step=0, include_online_model=False
        )
        lucid.update()
        rows.append(("ema-pytorch EMA", lucid.update))
    try:
        diffusers = import_module("diffusers.training_utils").EMAModel
    except ImportError:
        pass
    else:
        for foreach in (False, True):
            kept = diffusers(model.parameters(), decay=DECAY, foreach=foreach)
            kept.step(model.parameters())
            title = f"diffusers EMAModel{', foreach' if foreach else ''}"
            rows.append((title, lambda kept=kept: kept.step(model.parameters())))
    note = "" if dtype == torch.float32 else ", average in bf16"
    return [(title + note, run) for title, run in rows]


def measure(rows: list[Row], rounds: int) -> None:
    """Run all rows in turn and print medians."""
    wall: dict[str, list[float]] = {title: [] for title, _ in rows}
    cpu: dict[str, list[float]] = {title: [] for title, _ in rows}
    for _ in range(rounds):
        for title, run in rows:
            begun, used = time.perf_counter(), _cpu()
            run()
            wall[title].append(time.perf_counter() - begun)
            cpu[title].append(_cpu() - used)
    first = rows[0][0]
    print(f"{'':48}{'best ms':>9}{'x':>7}{'wall ms':>9}{'x':>7}{'cpu ms':>9}{'x':>7}")
    for title, _ in rows:
        shown = ""
        for values, of in ((wall, min), (wall, statistics.median), (cpu, statistics.median)):
            taken = of(values[title])
            shown += f"{taken * 1e3:9.1f}{taken / of(values[first]):7.2f}"
        print(f"{title:48}{shown}")


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ours", action="store_true", help="leave the peers out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for dtype in (torch.float32, torch.bfloat16):
        model = model_of(dtype)
        count = sum(p.numel() for p in model.parameters())
        tensors: list[Tensor] = list(model.parameters())
        print(
            f"\n{dtype}: {count / 1e6:.1f} M parameters in {len(tensors)} tensors, {options.threads} threads"
        )
        rows = [*flat(count), *ours(model)]
        measure(rows if options.ours else [*rows, *peers(model, dtype)], options.rounds)


if __name__ == "__main__":
    main()
