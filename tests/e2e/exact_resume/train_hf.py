"""The training of ``train.py`` with the Trainer of transformers."""

import logging
import os
import random
import signal
from pathlib import Path

import numpy as np
import torch
from torch import nn
from train import BATCH, EPOCHS, Images, finals
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from memcard.jobs.checkpointer import Checkpointer
from memcard.training.data import ExactSampler
from memcard.training.ema import EMA
from memcard.training.keep import Keep

disable_progress_bar()
logging.disable(logging.INFO)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, x, labels=None):
        noise = torch.randn_like(x) * float(np.random.rand())
        return {"loss": ((self.net(x + noise) - noise) ** 2).mean() * (0.5 + random.random())}


class Rows(Images):
    def __getitem__(self, i):
        return {"x": super().__getitem__(i), "labels": torch.tensor(i)}


class Averages(TrainerCallback):
    def __init__(self, ema):
        self.ema = ema

    def on_step_end(self, args, state, control, **_):
        self.ema.update()


class Told(Trainer):
    """Writes down each loss, and dies on command."""

    def training_step(self, *arguments, **options):
        loss = super().training_step(*arguments, **options)
        step = self.state.global_step
        self.parts = self.parts + 1 if self.last == step else 0
        self.last = step
        with self.losses.open("a") as log:
            log.write(f"{step}.{self.parts} {loss.item().hex()}\n")
        if self.state.global_step + 1 == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss


def run(
    folder,
    *,
    kill_at=None,
    sampler="shuffle",
    aug="worker",
    workers=2,
    accumulate=1,
    every=5,
    epochs=EPOCHS,
    **options,
):
    folder = Path(folder)
    args = TrainingArguments(
        output_dir=str(folder / "out"),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulate,
        dataloader_num_workers=workers,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        logging_steps=3,
        save_strategy="no",
        report_to=[],
        seed=7,
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **options,
    )
    rank = args.process_index
    torch.set_num_threads(1)
    torch.manual_seed(7)
    random.seed(7 + rank)
    np.random.seed(7 + rank)
    model, images = Denoiser(), Rows(aug)
    ema = EMA(model, 0.95)
    evaluated = {"eval_dataset": Rows("none")} if options.get("eval_strategy") else {}
    trainer = Told(
        model=model, args=args, train_dataset=images, callbacks=[Averages(ema)], **evaluated
    )
    trainer.kill_at, trainer.last, trainer.parts = kill_at, -1, 0
    trainer.losses = folder / f"losses-{rank}.txt"
    if sampler == "exact":
        trainer._get_train_sampler = lambda *_: ExactSampler(images, seed=3)
    Checkpointer.for_hf_trainer(trainer, folder / "run", ema=ema, every=every, keep=Keep(last=2))
    trainer.train()
    left_out = ["runtime", "per_second", "train_loss"]  # they are of this call
    if args.world_size > 1:
        left_out.append("loss")  # what other ranks summed up since the last log is in no save
    history = [
        {k: v for k, v in row.items() if not any(word in k for word in left_out)}
        for row in trainer.state.log_history
    ]
    finals(
        folder, rank, model, ema, trainer.optimizer.optimizer, [trainer.lr_scheduler],
        [trainer.state.global_step, trainer.state.epoch, history],
    )  # fmt: skip
