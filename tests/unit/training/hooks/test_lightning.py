"""``trainer.fit`` goes on between the two batches where it was, with Lightning's own counters."""

import logging
import os
import signal
from contextlib import suppress

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import memcard
from memcard.errors import UnsupportedError
from memcard.training.saves import OpenSave, Save, listed

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Killed(Exception):  # noqa: N818
    pass


class Model(lightning.LightningModule):
    """Validates with random numbers after every second batch; its plateau scheduler hears of it."""

    def __init__(self, stop=None, send=None, scheduler=True):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3))
        self.losses, self.stop, self.send, self.scheduler = {}, stop, send, scheduler

    def training_step(self, x, batch_idx):
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if step == self.stop:
            raise Killed
        if self.send is not None and step == 3:
            os.kill(os.getpid(), self.send)
        loss = self.net(x).square().mean()
        self.losses[step] = loss.item()
        return loss

    def validation_step(self, x, batch_idx):
        self.log("val_loss", torch.rand(()) + self.net(x).mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters())
        if not self.scheduler:
            return optimizer
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        how = {"scheduler": plateau, "monitor": "val_loss", "interval": "step", "frequency": 2}
        return {"optimizer": optimizer, "lr_scheduler": how}


class Counts(Callback):
    def __init__(self):
        self.batches = 0

    def on_train_batch_end(self, *_):
        self.batches += 1

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state):
        self.batches = state["batches"]


def fit(folder, *, epochs=2, every=2, loader=None, **options):
    torch.manual_seed(3)
    model, counts = Model(**options), Counts()
    saving = memcard.Checkpointer.for_lightning(folder, every=every, library=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        val_check_interval=2,
        callbacks=[saving, counts],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    samples = torch.randn(10, 4)
    loader = DataLoader(samples, 2, shuffle=True) if loader is None else loader
    with suppress(Killed):
        trainer.fit(model, loader, DataLoader(samples, 5))
    return model, trainer, counts


@pytest.mark.parametrize("stop", [2, 4, 6, 7])
def test_a_resumed_fit_goes_on_exactly(tmp_path, stop):
    whole, trainer, counts = fit(tmp_path / "a")
    fit(tmp_path / "b", stop=stop)

    rest, again, counted = fit(tmp_path / "b")

    begin = (stop - 1) // 2 * 2
    assert rest.losses == {k: v for k, v in whole.losses.items() if k > begin}
    assert counted.batches == counts.batches == 10
    assert again.fit_loop.state_dict() == trainer.fit_loop.state_dict()
    schedulers = [t.lr_scheduler_configs[0].scheduler.state_dict() for t in (again, trainer)]
    assert schedulers[0] == schedulers[1]
    assert all(map(torch.equal, whole.state_dict().values(), rest.state_dict().values()))


def test_a_finished_fit_has_nothing_to_do_and_can_be_prolonged(tmp_path):
    whole, *_ = fit(tmp_path / "a", epochs=3)
    fit(tmp_path / "b", epochs=2)

    nothing, *_ = fit(tmp_path / "b", epochs=2)
    more, trainer, _ = fit(tmp_path / "b", epochs=3)

    assert nothing.losses == {}
    assert more.losses == {k: v for k, v in whole.losses.items() if k > 10}
    assert (trainer.current_epoch, trainer.global_step) == (3, 15)


def test_a_signal_saves_and_ends(tmp_path):
    whole, *_ = fit(tmp_path / "a", every=100)

    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "b", every=100, send=signal.SIGTERM)
    rest, *_ = fit(tmp_path / "b", every=100)

    assert ended.value.code == 143
    assert rest.losses == {k: v for k, v in whole.losses.items() if k > 3}


def test_the_metrics_of_a_validation_are_in_the_save(tmp_path):
    fit(tmp_path / "a", epochs=1)

    saves = [save for save in listed(tmp_path / "a") if isinstance(save, Save)]

    assert [sorted(save.metrics) for save in saves if save.step in (2, 4)] == [["val_loss"]] * 2


def test_everything_of_the_trainer_is_in_the_save(tmp_path):
    fit(tmp_path / "a", epochs=1)

    with OpenSave(next(s for s in listed(tmp_path / "a")).path) as save:
        objects = save.tree["objects"]

    assert set(objects) == {"model", "optimizer", "scheduler", "extra.trainer"}
    assert "Counts" in str(objects["extra.trainer"]["state"]["callbacks"])


class Endless(IterableDataset):
    def __iter__(self):
        yield from torch.randn(10, 4)


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (DataLoader(Endless(), 2), "no length"),
        ({"a": DataLoader(torch.zeros(4, 4))}, "one DataLoader"),
    ],
)
def test_what_cannot_be_exact_is_refused(tmp_path, loader, why):
    with pytest.raises(UnsupportedError, match=why):
        fit(tmp_path, loader=loader)
