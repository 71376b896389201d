"""A training that is killed again and again, at random times or at every call that changes the disk.

Every tensor of the state is filled with the number of the step, so a state of two steps shows. Run as a
program: ``training_killed.py random TRIALS FOLDER [SEED]`` kills with SIGKILL at random times inside saves;
``training_killed.py FAULT STEP FOLDER`` strikes at every STEP-th call (faults of ``faults.disk``). Prints JSON.
"""

from __future__ import annotations

import io
import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from faults.disk import KILLED, Disk, Fault
from memcard.errors import DiskError
from memcard.training.checkpointer import Checkpointer
from memcard.training.keep import Keep
from memcard.training.saves import NAME

_WIDTH = 300  # 300 x 300 floats in three tensors: 1 MB a save
_MIXED, _LOST, _ERROR = 3, 4, 5


class Training:
    """Weights, a moment and a buffer that are the number of the step."""

    def __init__(self, folder: Path, hear: Callable[[int], None] = lambda step: None) -> None:
        self.model = torch.nn.Linear(_WIDTH, _WIDTH, bias=False)
        self.model.register_buffer("seen", torch.zeros(_WIDTH, _WIDTH))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.checkpointer = Checkpointer(
            folder,
            model=self.model,
            optimizer=self.optimizer,
            every=1,
            keep=Keep(last=2),
            signals=False,
            on_saved=lambda save: hear(save.step),
        )

    def fill(self, step: int) -> None:
        with torch.no_grad():
            self.model.weight.fill_(step)
            self.model.seen.fill_(step)
        state = self.optimizer.state[self.model.weight]
        state["momentum_buffer"] = torch.full((_WIDTH, _WIDTH), float(step))

    def is_of(self, step: int) -> bool:
        """Whether all of the state is of one step."""
        if step == 0:
            return True
        moment = self.optimizer.state[self.model.weight]["momentum_buffer"]
        return all(bool((t == step).all()) for t in (self.model.weight, self.model.seen, moment))


def _child(folder: Path, pipe: int, durable: int) -> None:
    """Resume, say what was found, and save until someone kills this."""
    torch.set_num_threads(1)
    training = Training(folder, lambda step: _say(pipe, f"saved {step}"))
    with redirect_stderr(io.StringIO()):
        step = training.checkpointer.resume()
    if not training.is_of(step):
        os._exit(_MIXED)
    if step < durable:
        os._exit(_LOST)
    _say(pipe, f"resumed {step}")
    while True:
        step += 1
        training.fill(step)
        _say(pipe, f"begun {step}")
        training.checkpointer.save(step)


def _say(pipe: int, text: str) -> None:
    os.write(pipe, f"{text}\n".encode())


def at_random(trials: int, folder: Path, seed: int) -> dict[str, Any]:
    """Kill so many times; each process resumes what the one before left."""
    chance, faults = random.Random(seed), list[str]()
    durable, begun, lost, inside = 0, 0, list[int](), 0
    for trial in range(trials):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            try:
                _child(folder, write, durable)
            except BaseException:  # noqa: BLE001  # told by the exit code
                traceback.print_exc()
            os._exit(_ERROR)
        os.close(write)
        lines = _until_killed(pid, read, chance.uniform(0.002, 0.06))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(read)
        if code != -signal.SIGKILL:
            what = {_MIXED: "a mixed state", _LOST: "a save that was durable is gone"}
            faults.append(f"trial {trial}: {what.get(code, f'exit code {code}')}")
            break
        for word, number in (line.split() for line in lines):
            if word == "resumed" and trial:
                lost.append(begun - int(number))
            durable = max(durable, int(number)) if word == "saved" else durable
            begun = int(number) if word == "begun" else begun
        inside += any(folder.glob(".step-*.part"))
    return {
        "trials": trials,
        "faults": faults,
        "inside a save": inside,
        "steps": durable,
        "most steps lost": max(lost, default=0),
    }


def _until_killed(pid: int, pipe: int, after: float) -> list[str]:
    """Read what the child says; kill it a while after its second step began."""
    raw, end = b"", time.monotonic() + 60.0
    armed = False
    while time.monotonic() < end:
        if select.select([pipe], [], [], 0.001)[0]:
            part = os.read(pipe, 65536)
            if not part:
                break
            raw += part
        if not armed and raw.count(b"begun") > 1:
            armed, end = True, time.monotonic() + after
    os.kill(pid, signal.SIGKILL)
    while part := os.read(pipe, 65536):
        raw += part
    whole = raw[: raw.rfind(b"\n") + 1]
    return whole.decode().splitlines()


def everywhere(fault: Fault, stride: int, folder: Path) -> dict[str, Any]:
    """Strike at every ``stride``-th call of a training of three saves, each in a child of its own."""
    faults, places = list[str](), 0
    for at in range(1, 2000, stride):
        run = folder / f"run-{at}"
        code = _forked(lambda at=at, run=run: _struck(fault, at, run))  # type: ignore[misc]
        if code == 0 and not (run / "struck").exists():
            shutil.rmtree(run)
            break
        places += 1
        allowed = {0, DiskError.exit_code} if fault not in ("kill", "torn") else {KILLED}
        if code not in allowed:
            faults.append(f"{fault} at call {at}: exit code {code}")
        names = [p.name for p in run.glob("*step*")] if run.exists() else []
        if code != KILLED and not all(NAME.fullmatch(name) for name in names):
            faults.append(f"{fault} at call {at}: left {names}")
        after = _forked(lambda run=run: _looked_at(run))  # type: ignore[misc]
        if after:
            faults.append(f"{fault} at call {at}: afterwards exit code {after}")
        shutil.rmtree(run, ignore_errors=True)
    return {"places": places, "faults": faults}


def _struck(fault: Fault, at: int, run: Path) -> None:
    disk = Disk(at, fault)
    run.mkdir()
    disk.install()
    with redirect_stderr(io.StringIO()):
        try:
            training = Training(run)
            for step in (1, 2, 3):
                training.fill(step)
                training.checkpointer.save(step)
            training.checkpointer.close()
        finally:
            disk.over = True
            if disk.count >= at:
                (run / "struck").touch()


def _looked_at(run: Path) -> None:
    """Whatever happened: it resumes, the state is whole, and the training can go on to its end."""
    (run / "struck").unlink(missing_ok=True)
    training = Training(run)
    with redirect_stderr(io.StringIO()):
        step = training.checkpointer.resume()
    if not training.is_of(step):
        os._exit(_MIXED)
    training.fill(4)
    training.checkpointer.save(4, wait=True)
    training.checkpointer.close()
    if list(run.glob(".step-*")):
        os._exit(_ERROR)


def _forked(task: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        code = 0
        try:
            task()
        except DiskError as error:
            code = error.exit_code
        except BaseException:  # noqa: BLE001  # shown, and told by the exit code
            traceback.print_exc()
            code = 1
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@cache
def _import_all() -> None:
    torch.set_num_threads(1)
    # Imports torch's compiler, which is slow and looks for a disk that works: before the children.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


def prepare(words: list[str]) -> None:
    """Do what is worth to be done once."""
    _import_all()


def command(words: list[str]) -> None:
    """Run the words of a command line."""
    verb, number, place = words[0], int(words[1]), Path(words[2])
    if verb == "random":
        result = at_random(number, place, int(words[3]) if len(words) > 3 else 0)
    else:
        result = everywhere(cast("Fault", verb), number, place)
    print(json.dumps(result))


if __name__ == "__main__":
    prepare(sys.argv[1:])
    command(sys.argv[1:])
