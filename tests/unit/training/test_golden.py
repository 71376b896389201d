"""Save files of version 1 are read for ever: tests/golden/training_v1, see docs/spec/training.md.

Made by ``python tests/unit/training/test_golden.py FOLDER`` with memcard 0.1.0 and torch 2.13.0.
"""

import json
import random
import shutil
import sys
from collections import Counter, OrderedDict
from pathlib import Path

import torch
from torch import nn

from fixtures.training import state_bits
from memcard.training.checkpointer import Checkpointer
from memcard.training.run_log import read_log, read_run
from memcard.training.saves import OpenSave, name_of

GOLDEN = Path(__file__).parents[2] / "golden" / "training_v1"


class Bag:
    """Holds every kind of value that a save knows."""

    def __init__(self, value=None):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def everything():
    return {
        "plain": [None, True, -3, 1 << 80, 0.1, -0.0, "käfer 🦋"],
        "odd": [float("nan"), float("inf"), float("-inf"), 1 - 2j],
        "kinds": ((), (1, (2,)), {3, 1}, frozenset({"a"}), OrderedDict(b=1, a=2), Counter({7: 2})),
        "keys": {1: "one", "$tensor": "no tensor", (1, 2): "pair"},
        "bytes": [b"\x00\xff", bytes(range(256)) * 5],
        "torch": [torch.float16, torch.device("cuda:1"), torch.Size([2, 3])],
        "tensors": [torch.arange(6.0).reshape(2, 3), torch.empty(0, 2), torch.tensor(True)],
        "complex": [torch.tensor([1 + 2j]), torch.tensor([3 - 4j], dtype=torch.complex128)],
        "narrow": [
            torch.ones(3).bfloat16(),
            torch.ones(2).to(torch.float8_e4m3fn),
            torch.tensor(5).to(torch.uint16),
        ],
    }


def made(fill):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3, bias=False))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(
                torch.arange(parameter.numel()).reshape(parameter.shape) * fill + number
            )
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[1].parameters()}]
    )
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4]),
        "extra": {"bag": Bag(everything() if fill else None)},
    }


def make(folder):
    """Write the golden run."""
    parts = made(0.25)
    torch.manual_seed(11)
    random.seed(12)
    with Checkpointer(folder, **parts, every=1, signals=False, settings={"lr": 0.5}) as ck:
        for step in (1, 2, 3):
            for parameter in parts["model"].parameters():
                parameter.grad = torch.full_like(parameter, 0.125 * step)
            parts["optimizer"].step()
            parts["scheduler"].step()
            ck.step(step, {"loss": 1 / step, "norm": float("inf")})
    (folder / ".lock").unlink()
    for step in (1, 2):
        (folder / name_of(step)).unlink()
    text = json.dumps(facts(parts), indent=1)
    (folder / "expected.json").write_text(text + "\n")


def facts(parts):
    """What is to come out of the save, as text."""
    states = {name: thing.state_dict() for name, thing in parts.items() if name != "extra"}
    states["extra"] = parts["extra"]["bag"].state_dict()
    return {name: repr(state_bits(state)) for name, state in states.items()} | {
        "python": random.random(),
        "torch": torch.rand(3).tolist(),
    }


def test_a_run_of_version_1_goes_on(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(GOLDEN, run)
    parts = made(0)
    for parameter in parts["model"].parameters():
        assert parameter.detach().std() < 1e-6 or parameter.numel() == 1

    with Checkpointer(run, **parts, signals=False) as ck:
        assert ck.resume() == 3

    expected = json.loads((GOLDEN / "expected.json").read_text())
    assert facts(parts) == expected


def test_what_a_run_of_version_1_says_of_itself():
    run, log = read_run(GOLDEN), read_log(GOLDEN)
    with OpenSave(GOLDEN / name_of(3)) as found:
        found.verify()
        save = found.save

    assert (run.id, run.settings, run.keep["last"]) == (save.run, {"lr": 0.5}, 3)
    assert [(point.step, point.metrics["norm"]) for point in log] == [
        (i, float("inf")) for i in (1, 2, 3)
    ]
    assert (save.step, save.world, save.metrics["loss"]) == (3, 1, 1 / 3)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
