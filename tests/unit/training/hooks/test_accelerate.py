"""What was prepared with Accelerate is saved and resumed without being given."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: F401  # Accelerate looks for it

import memcard
from memcard.errors import UnsupportedError
from memcard.training.ema import EMA
from memcard.training.hooks.accelerate import DIVIDED
from memcard.training.saves import OpenSave, name_of


class Count:
    def __init__(self):
        self.value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def train(folder, *, stop=None, steps=9, own=None):
    """Train up to a step, or stop there as a killed process does; return losses and the accelerator."""
    torch.manual_seed(3)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
    loader = DataLoader(torch.randn(10, 4), 2, shuffle=True)
    model, optimizer, scheduler, loader = accelerator.prepare(model, optimizer, scheduler, loader)
    registered = Count()
    accelerator.register_for_checkpointing(registered)
    ck = memcard.Checkpointer.for_accelerator(
        accelerator, folder, ema=EMA(model, 0.9), every=2, library=False, signals=False, extra=own
    )
    ck.resume()
    losses = {}
    for step, x in ck.loop(loader, steps=steps):
        with accelerator.accumulate(model):
            loss = model(x).square().mean()
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        losses[step] = loss.item()
        registered.value += 1
        if step == stop:
            break
        ck.step(step)
    ck.close()
    return losses, accelerator, registered


def test_a_resumed_training_goes_on_exactly(tmp_path):
    whole, accelerator, registered = train(tmp_path / "a")
    train(tmp_path / "b", stop=4)

    rest, again, counted = train(tmp_path / "b")

    # the second step is an update; the third is the end of that turn's accumulation
    assert rest == {step: whole[step] for step in rest}
    assert min(rest) == 3
    assert again.step == accelerator.step
    assert counted.value == registered.value == 9


def test_everything_prepared_is_in_the_save(tmp_path):
    train(tmp_path / "a", steps=2, own=Count())

    with OpenSave(tmp_path / "a" / name_of(2)) as save:
        objects = save.tree["objects"]

    assert set(objects) == {
        "model", "optimizer", "scheduler", "ema",
        "extra.accelerator", "extra.registered_0", "extra.own",
    }  # fmt: skip


def test_what_is_given_is_not_taken_from_the_accelerator(tmp_path):
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(nn.Linear(2, 2))
    other = nn.Linear(3, 3)

    with memcard.Checkpointer.for_accelerator(
        accelerator, tmp_path, model=other, library=False, signals=False
    ) as ck:
        ck.save(1, wait=True)

    with OpenSave(tmp_path / name_of(1)) as save:
        assert save.file.specs["model.weight"].shape == (3, 3)


@pytest.mark.parametrize("how", DIVIDED)
def test_divided_weights_are_refused(tmp_path, how, monkeypatch):
    accelerator = Accelerator(cpu=True)
    kind = type("Kind", (), {"value": how})
    monkeypatch.setattr(type(accelerator), "distributed_type", kind)

    with pytest.raises(UnsupportedError, match=how):
        memcard.Checkpointer.for_accelerator(accelerator, tmp_path)
