"""One process of a sharded training (FSDP2 on gloo) that saves and loads with memcard's storage.

Run by torchrun: ``ranks.py FOLDER TASK…``; or, with forks for processes, ``command([PROCESSES, FOLDER, TASK…])``. A task is ``train``, ``save:NAME``, ``async:NAME`` or ``load:NAME``;
after a save or a load the first process appends a line of JSON to ``FOLDER/hashes.jsonl``: name, number of
processes, and a hash of the whole state, gathered from all processes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from memcard.training.hooks.dcp import MemcardReader, MemcardWriter

_PATIENCE = 200  # seconds


class Training:
    """A model whose shapes no number of processes divides, with AdamW and some plain values."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(65, 7),
            torch.nn.LayerNorm(7),
            torch.nn.Linear(7, 1),
            torch.nn.Linear(1, 65),
        )
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in self.model:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3 * seed)
        self.values: dict[str, Any] = {"step": seed, "note": f"seed {seed}", "rates": (0.5, seed)}

    def train(self) -> None:
        for _ in range(2):
            self.model(torch.randn(4, 65)).square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "values": self.values}

    def load(self, state: dict[str, Any]) -> None:
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        self.values = state["values"]


def hashed(value: Any) -> str:
    """Hash a nested state; every process has to call it."""
    found = hashlib.sha256()

    def add(path: str, part: Any) -> None:
        if isinstance(part, dict):
            for key in sorted(part):
                add(f"{path}.{key}", part[key])
        elif isinstance(part, torch.Tensor):
            whole = part.full_tensor() if isinstance(part, DTensor) else part
            found.update(f"{path} {whole.dtype} {tuple(whole.shape)}".encode())
            found.update(whole.detach().contiguous().numpy().tobytes())
        elif isinstance(part, list):
            for i, item in enumerate(part):
                add(f"{path}.{i}", item)
        else:
            found.update(f"{path} {part!r}".encode())

    add("", value)
    return found.hexdigest()


def main(folder: Path, tasks: list[str]) -> None:
    training = Training(seed=3)
    training.train()
    for task in tasks:
        verb, _, name = task.partition(":")
        if verb == "train":
            training.train()
            continue
        if verb == "save":
            dcp.save(training.state(), storage_writer=MemcardWriter(folder / name))
        elif verb == "async":
            before = hashed(training.state())
            # its thread and the training talk at the same time, so each needs a group of its own
            future: Any = dcp.async_save(
                training.state(),
                storage_writer=MemcardWriter(folder / name),
                process_group=dist.new_group(backend="gloo"),
            )
            training.train()  # what is saved is what it was before
            future.result()
            say(folder, name, before)
            continue
        else:
            training = Training(seed=5)
            training.train()
            state = training.state()
            dcp.load(state, storage_reader=MemcardReader(folder / name))
            training.load(state)
        say(folder, name, hashed(training.state()))
    dist.destroy_process_group()


def say(folder: Path, name: str, digest: str) -> None:
    if dist.get_rank() == 0:
        with (folder / "hashes.jsonl").open("a") as file:
            file.write(json.dumps([name, dist.get_world_size(), digest]) + "\n")
    dist.barrier()


def prepare(words: list[str]) -> None:
    """Everything is imported already."""
    torch.set_num_threads(1)


def command(words: list[str]) -> None:
    """Be so many processes, with what torchrun tells each."""
    world, folder, tasks = int(words[0]), Path(words[1]), words[2:]
    context = multiprocessing.get_context("fork")
    meet = tempfile.mktemp(prefix=".meet-", dir=folder)
    ranks = [
        context.Process(target=_rank, args=(rank, world, meet, folder, tasks))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(_PATIENCE)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    Path(meet).unlink(missing_ok=True)
    if any(codes):
        raise RuntimeError(f"the processes ended with {codes}")


def _rank(rank: int, world: int, meet: str, folder: Path, tasks: list[str]) -> None:
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in told.items()})
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    main(folder, tasks)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    main(Path(sys.argv[1]), sys.argv[2:])
    # All is written. torch's own threads may still run, and abort a process that takes itself down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
