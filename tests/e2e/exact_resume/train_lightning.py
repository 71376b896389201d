"""The training of ``train.py`` with Lightning: with a validation within epochs that draws random numbers."""

import logging
import os
import random
import signal
import warnings
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader
from train import BATCH, EPOCHS, Images, finals

from memcard.jobs.checkpointer import Checkpointer
from memcard.training.data import ExactSampler
from memcard.training.ema import EMA
from memcard.training.keep import Keep

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Denoiser(lightning.LightningModule):
    def __init__(self, log, kill_at, plateau):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 8))
        self.ema = EMA(self.net, 0.95)
        self.log_file, self.kill_at, self.plateau = log, kill_at, plateau

    def training_step(self, x, batch_idx):
        noise = torch.randn_like(x) * float(np.random.rand())
        loss = ((self.net(x + noise) - noise) ** 2).mean() * (0.5 + random.random())
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        with self.log_file.open("a") as log:
            log.write(f"{step} {loss.item().hex()}\n")
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step > self.ema.steps:  # not while gradients are accumulated
            self.ema.update()

    def validation_step(self, x, batch_idx):
        noise = torch.randn_like(x) * random.random()
        loss = ((self.net(x + noise) - noise) ** 2).mean() + np.random.rand()
        self.log("val_loss", loss, sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3)
        if self.plateau:
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            how = {"scheduler": scheduler, "monitor": "val_loss", "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": how | {"frequency": 4}}
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=39)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def run(
    folder,
    *,
    kill_at=None,
    sampler="shuffle",
    aug="worker",
    workers=2,
    every=5,
    epochs=EPOCHS,
    plateau=False,
    validate=True,
    **options,
):
    folder = Path(folder)
    several = torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if several else 0
    torch.set_num_threads(1)
    torch.manual_seed(7)
    random.seed(7 + rank)
    np.random.seed(7 + rank)
    images = Images(aug)
    order = {"sampler": ExactSampler(images, seed=3)} if sampler == "exact" else {"shuffle": True}
    loader = DataLoader(images, batch_size=BATCH, num_workers=workers, **order)
    model = Denoiser(folder / f"losses-{rank}.txt", kill_at, plateau)
    saving = Checkpointer.for_lightning(
        folder / "run", ema=model.ema, every=every, keep=Keep(last=2)
    )
    callbacks = [saving]
    warnings.filterwarnings("ignore", ".*no `val_dataloader`")
    if validate:
        callbacks.append(EarlyStopping("val_loss", patience=100))
        options |= {"val_check_interval": 4}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **options,
    )
    trainer.fit(model, loader, DataLoader(Images("none"), batch_size=26) if validate else None)
    loops = trainer.fit_loop.state_dict()
    counts = [loops[f"epoch_loop.{n}"] for n in ("state_dict", "batch_progress")]
    counts += [loops["epoch_progress"], trainer.global_step, trainer.current_epoch]
    stopping = {k: v for c in callbacks for k, v in c.state_dict().items()}
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    finals(folder, rank, model, model.ema, trainer.optimizers[0], schedulers, [counts, stopping])
