"""``trainer.train()`` goes on between the two batches where it was, with the Trainer's own state and logs."""

import gc
import logging
import os
import signal
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from transformers import Trainer, TrainingArguments

import memcard
from memcard.errors import UnsupportedError, UsageError
from memcard.training.saves import OpenSave, listed, numbered

logging.disable(logging.INFO)


@pytest.fixture(scope="module", autouse=True)
def _collected_quickly():
    gc.freeze()  # each Trainer collects garbage, among all that transformers has imported
    yield
    gc.unfreeze()


class Killed(Exception):  # noqa: N818
    pass


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3))

    def forward(self, x):
        return {"loss": self.net(x).square().mean()}


class Rows(Dataset):
    def __init__(self):
        self.x = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index] + 0.1 * torch.randn(4)}


class Stream(IterableDataset):
    def __iter__(self):
        yield from ({"x": x} for x in torch.zeros(10, 4))


class Told(Trainer):
    stop = send = None

    def training_step(self, *arguments, **options):
        if self.state.global_step + 1 == self.stop:
            raise Killed
        if self.send is not None and self.state.global_step + 1 == self.send[0]:
            os.kill(os.getpid(), self.send[1])
        loss = super().training_step(*arguments, **options)
        self.losses.append((self.state.global_step + 1, loss.item()))
        return loss


def make(folder, dataset=None, *, saves=None, **options):
    torch.manual_seed(3)
    settings = {"num_train_epochs": 2, "logging_steps": 3} | options
    args = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=2,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **settings,
    )
    trainer = Told(model=Model(), args=args, train_dataset=dataset or Rows())
    trainer.losses = []
    memcard.Checkpointer.for_hf_trainer(
        trainer, folder / "run", **{"every": 2, "library": False, "signals": False} | (saves or {})
    )
    return trainer


def train(folder, stop=None, send=None, **options):
    trainer = make(folder, **options)
    trainer.stop, trainer.send = stop, send
    with suppress(Killed):
        trainer.train()
    return trainer


def history(trainer):
    return [row for row in trainer.state.log_history if "train_runtime" not in row]


@pytest.mark.parametrize("stop", [3, 6, 8])
def test_a_resumed_training_goes_on_exactly(tmp_path, stop):
    whole = train(tmp_path / "a")
    train(tmp_path / "b", stop)

    rest = train(tmp_path / "b")

    begin = (stop - 1) // 2 * 2
    assert rest.losses == [one for one in whole.losses if one[0] > begin]
    assert history(rest) == history(whole)
    assert (rest.state.global_step, rest.state.epoch) == (10, 2.0)
    assert all(
        map(torch.equal, whole.model.state_dict().values(), rest.model.state_dict().values())
    )


def test_accumulated_gradients_go_on_exactly(tmp_path):
    whole = train(tmp_path / "a", gradient_accumulation_steps=2)
    train(tmp_path / "b", 6, gradient_accumulation_steps=2)

    rest = train(tmp_path / "b", gradient_accumulation_steps=2)

    # 5 batches are 3 updates, the last of one batch
    assert rest.losses == [one for one in whole.losses if one[0] > 4]
    assert len(whole.losses) == 10


def test_a_finished_training_has_nothing_to_do_and_can_be_prolonged(tmp_path):
    whole = train(tmp_path / "a", num_train_epochs=3, lr_scheduler_type="constant")
    train(tmp_path / "b", lr_scheduler_type="constant")

    nothing = train(tmp_path / "b", lr_scheduler_type="constant")
    more = train(tmp_path / "b", num_train_epochs=3, lr_scheduler_type="constant")

    assert nothing.losses == []
    assert more.losses == [one for one in whole.losses if one[0] > 10]


def test_a_damaged_save_is_left_for_the_one_before(tmp_path):
    whole = train(tmp_path / "a")
    train(tmp_path / "b", 8)
    newest = numbered(tmp_path / "b" / "run")[-1][1]
    with newest.open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\xff")

    rest = train(tmp_path / "b")

    assert rest.losses == [one for one in whole.losses if one[0] > 4]
    assert history(rest) == history(whole)


def test_a_signal_saves_and_ends(tmp_path):
    whole = train(tmp_path / "a")

    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "b", send=(3, signal.SIGTERM), saves={"every": 100, "signals": True})
    rest = train(tmp_path / "b")

    assert ended.value.code == 143
    assert rest.losses == [one for one in whole.losses if one[0] > 3]


def test_the_mean_loss_at_the_end_is_of_the_steps_of_this_call(tmp_path):
    train(tmp_path / "a", 8)

    rest = train(tmp_path / "a")

    mean = sum(loss for _, loss in rest.losses) / len(rest.losses)
    assert rest.state.log_history[-1]["train_loss"] == pytest.approx(mean)


def test_the_number_of_samples_is_the_one_of_the_data_set(tmp_path):
    trainer = make(tmp_path)

    assert trainer.num_examples(trainer.get_train_dataloader()) == 10
    assert len(trainer.get_train_dataloader()) == 5


def test_the_metrics_are_in_the_save(tmp_path):
    train(tmp_path, saves={"every": 3})

    assert "loss" in next(save for save in listed(tmp_path / "run") if save.step == 9).metrics


def test_everything_of_the_trainer_is_in_the_save(tmp_path):
    train(tmp_path)

    with OpenSave(numbered(tmp_path / "run")[-1][1]) as save:
        assert set(save.tree["objects"]) == {"model", "optimizer", "scheduler", "extra.trainer"}


def test_its_own_checkpoints_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"train\(\) without it"):
        make(tmp_path).train(resume_from_checkpoint="checkpoint-5")


def test_what_cannot_be_exact_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="no length"):
        make(tmp_path, Stream(), max_steps=5).train()
    with pytest.raises(UnsupportedError, match="auto_find_batch_size"):
        make(tmp_path, auto_find_batch_size=True)
    with pytest.raises(UnsupportedError, match="transformers 5"):
        memcard.Checkpointer.for_hf_trainer(object(), tmp_path)
