"""Sharded saves that are struck at every call that changes the disk: what is listed afterwards is whole.

Every tensor is filled with the number of the step, so a state of two steps shows. Run as a program:
``struck.py FAULT STRIDE FOLDER`` strikes at every STRIDE-th call (faults of ``faults.disk``);
``struck.py random TRIALS FOLDER`` kills two processes with SIGKILL at random times, or one of them. Prints JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from faults.disk import KILLED, Disk, Fault
from fixtures.dcp_ranks import box, load, save_as
from memcard.errors import DiskError
from memcard.training.hooks.dcp import MemcardWriter, saves, verify

_STEPS = (1, 2, 3)
_BROKEN = 5


def state(step: int) -> list[dict[str, Any]]:
    """What two processes have: halves of one tensor, and values."""
    whole = torch.full((300, 40), float(step))
    return [
        {"w": box(whole, rows, (0, 40)), "v": torch.full((9,), float(step)), "step": step}
        for rows in ((0, 151), (151, 300))
    ]


def everywhere(fault: Fault, stride: int, folder: Path) -> dict[str, Any]:
    """Strike at every ``stride``-th call of a training of three saves, each in a child of its own."""
    faults, places = list[str](), 0
    for at in range(1, 2000, stride):
        run = folder / f"run-{at}"
        code = forked(lambda at=at, run=run: struck(fault, at, run))  # type: ignore[misc]
        if code == 0 and not (folder / "struck").exists():
            break
        (folder / "struck").unlink(missing_ok=True)
        places += 1
        if code != (KILLED if fault in ("kill", "torn") else 0):
            faults.append(f"{fault} at call {at}: exit code {code}")
        if after := forked(lambda run=run: look(run)):  # type: ignore[misc]
            faults.append(f"{fault} at call {at}: afterwards exit code {after}")
        shutil.rmtree(run, ignore_errors=True)
    return {"places": places, "faults": faults}


def struck(fault: Fault, at: int, run: Path) -> None:
    """Save three times; a save that fails is left out, as a training would."""
    run.mkdir()
    disk = Disk(at, fault)
    disk.install()
    failed = 0
    for step in _STEPS:
        before = saves(run)
        try:
            save_as(run / f"step-{step}", state(step))
        except DiskError:
            failed += 1
            assert saves(run) in (before, [run / f"step-{step}", *before])
    disk.over = True
    if disk.count >= at:
        (run.parent / "struck").touch()
        assert failed or fault in ("kill", "torn") or len(saves(run)) == len(_STEPS)


def look(run: Path) -> None:
    """What is listed is whole and of one step, and the next save works and leaves nothing else."""
    found = saves(run)
    for path in found:
        verify(path)
        read: dict[str, Any] = {"w": torch.zeros(300, 40), "v": torch.zeros(9), "step": 0}
        load(path, read)
        step = int(path.name.removeprefix("step-"))
        if not (read["w"].eq(step).all() and read["v"].eq(step).all() and read["step"] == step):
            os._exit(_BROKEN)
    save_as(run / "step-4", state(4))
    if set(run.iterdir()) != {*found, run / "step-4"}:
        os._exit(_BROKEN)


def at_random(trials: int, folder: Path) -> dict[str, Any]:
    """Kill so many times; what the killed ones left is looked at, and the next ones go on with it."""
    chance, faults, inside = random.Random(trials), list[str](), 0
    run = folder / "run"
    run.mkdir()
    for trial in range(trials):
        store = folder / f"store-{trial}"
        pids = [start(lambda rank=rank, store=store: train(rank, store, run)) for rank in (0, 1)]
        wait_for_a_save(run)
        time.sleep(chance.uniform(0, 0.1))
        victims = chance.choice([pids, pids[:1], pids[1:]])
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        if any(
            pid in victims and code != -signal.SIGKILL
            for pid, code in zip(pids, codes, strict=True)
        ):
            faults.append(f"trial {trial}: ended by itself with {codes}")
        inside += any(run.glob(".*.part"))
        if after := forked(lambda: look(run)):
            faults.append(f"trial {trial}: afterwards exit code {after}")
        shutil.rmtree(run / "step-4", ignore_errors=True)
        for path in saves(run)[:-1]:
            shutil.rmtree(path)
    return {"trials": trials, "inside a save": inside, "faults": faults}


def train(rank: int, store: Path, run: Path) -> None:
    """Save again and again, as one of two processes that talk to each other."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    step = max([4, *(int(path.name.removeprefix("step-")) for path in saves(run))])
    dist.barrier()
    while True:
        step += 1
        dcp.save(state(step)[rank], storage_writer=MemcardWriter(run / f"step-{step}"))


def wait_for_a_save(run: Path) -> None:
    before, end = len(saves(run)), time.monotonic() + 60
    while len(saves(run)) == before and time.monotonic() < end:
        time.sleep(0.002)


def forked(task: Callable[[], object]) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(start(task), 0)[1])


def start(task: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            task()
        except BaseException:  # noqa: BLE001  # shown, and told by the exit code
            traceback.print_exc()
            code = 1
        os._exit(code)
    return pid


@cache
def _warm() -> None:
    """Import and compile what the children need."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="memcard-warm-") as folder:
        run = Path(folder, "run")
        run.mkdir()
        save_as(run / "step-1", state(1))
        look(run)


def prepare(words: list[str]) -> None:
    """Do what is worth to be done once."""
    _warm()


def command(words: list[str]) -> None:
    """Run the words of a command line."""
    verb, number, place = words[0], int(words[1]), Path(words[2])
    if verb == "random":
        result = at_random(number, place)
    else:
        result = everywhere(cast("Fault", verb), number, place)
    print(json.dumps(result))


if __name__ == "__main__":
    prepare(sys.argv[1:])
    command(sys.argv[1:])
