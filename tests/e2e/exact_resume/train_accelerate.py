"""The training of ``train.py`` with Accelerate: prepared, accumulated, averaged by memcard's own EMA."""

import os
import random
import signal
import warnings
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader
from train import BATCH, EPOCHS, Images, finals

from memcard.jobs.checkpointer import Checkpointer
from memcard.training.data import ExactSampler
from memcard.training.ema import EMA
from memcard.training.keep import Keep


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
    given=True,
    **options,
):
    folder = Path(folder)
    torch.set_num_threads(1)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=accumulate,
        dataloader_config=DataLoaderConfiguration(**options),
    )
    if options.get("dispatch_batches"):
        warnings.filterwarnings("ignore", ".*are read again")
    rank = accelerator.process_index
    torch.manual_seed(7 + rank)
    random.seed(7 + rank)
    np.random.seed(7 + rank)

    model = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=39)
    images = Images(aug)
    order = {"sampler": ExactSampler(images, seed=3)} if sampler == "exact" else {"shuffle": True}
    loader = DataLoader(images, batch_size=BATCH, num_workers=workers, **order)
    model, optimizer, scheduler, loader = accelerator.prepare(model, optimizer, scheduler, loader)
    ema = EMA(accelerator.unwrap_model(model), 0.95)

    keep = {"every": every, "keep": Keep(last=2)}
    if given:
        ck = Checkpointer.for_accelerator(accelerator, folder / "run", ema=ema, **keep)
    else:
        ck = Checkpointer(
            folder / "run", model=model, optimizer=optimizer, scheduler=scheduler, ema=ema, **keep
        )
    ck.resume()
    for step, x in ck.loop(loader, epochs=epochs):
        with accelerator.accumulate(model):
            noise = torch.randn_like(x) * float(np.random.rand())
            loss = ((model(x + noise) - noise) ** 2).mean() * (0.5 + random.random())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            ema.update()
        with (folder / f"losses-{rank}.txt").open("a") as log:
            log.write(f"{step} {loss.item().hex()}\n")
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        ck.step(step)
    ck.close()
    bare = accelerator.unwrap_model(model)
    finals(folder, rank, bare, ema, optimizer.optimizer, [scheduler.scheduler])
    accelerator.end_training()
