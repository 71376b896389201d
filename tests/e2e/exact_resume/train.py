"""A small training as users write it, with everything random that a training can have.

``run(**options)`` trains from where the folder stands to the end, or dies by SIGKILL on the way. Every loss
goes to ``losses.txt`` of the folder at once, and the final state to ``final.json``, as digests.
"""

import json
import os
import random
import signal
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    WeightedRandomSampler,
    get_worker_info,
)

from memcard.training.checkpointer import Checkpointer
from memcard.training.data import ExactSampler, exact
from memcard.training.keep import Keep

SAMPLES, BATCH, EPOCHS = 52, 4, 3  # 13 batches per epoch
own = np.random.default_rng(11)  # as many scripts have it: at the top of the module


class Images(Dataset):
    """Vectors that are augmented while they are loaded: not at all, at random, or by their index."""

    def __init__(self, aug):
        self.aug = aug
        self.x = torch.randn(SAMPLES, 8, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i]
        if self.aug == "worker":
            x = x + 0.1 * torch.randn(8) + 0.1 * random.random() + 0.1 * np.random.rand()
            x = x * float(own.uniform(0.9, 1.1))
        elif self.aug == "pure":
            x = x + 0.1 * torch.randn(8, generator=torch.Generator().manual_seed(int(i)))
        return x


class Stream(IterableDataset):
    """The same as a stream: each worker has every n-th sample; knows its position if it is asked to."""

    def __init__(self, images):
        self.images = images
        self.at, self.resumed = 0, False

    def __iter__(self):
        worker = get_worker_info()
        part = range(worker.id, SAMPLES, worker.num_workers) if worker else range(SAMPLES)
        self.at = self.at if self.resumed else 0
        self.resumed = False
        while self.at < len(part):
            self.at += 1
            yield self.images[part[self.at - 1]]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at, self.resumed = state["at"], True


class MyEma:
    """An average of the weights, as people write it themselves."""

    def __init__(self, model, decay=0.95):
        self.decay = decay
        self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def update(self, model):
        for k, v in model.state_dict().items():
            self.shadow[k].lerp_(v.detach(), 1 - self.decay)

    def state_dict(self):
        return {"decay": self.decay, "shadow": self.shadow}

    def load_state_dict(self, state):
        self.decay = state["decay"]
        for k, v in state["shadow"].items():
            self.shadow[k].copy_(v)


def noisy_collate(samples):
    x = torch.stack(samples)
    return x + 0.01 * torch.randn(len(x), 1)


def make_loader(kind, images, workers, options):
    common = {"batch_size": BATCH, "num_workers": workers, **options}
    match kind:
        case "shuffle":
            return DataLoader(images, shuffle=True, **common)
        case "exact":
            return DataLoader(exact(images), sampler=ExactSampler(images, seed=3), **common)
        case "weighted":
            weights = torch.linspace(1, 2, SAMPLES)
            return DataLoader(images, sampler=WeightedRandomSampler(weights, SAMPLES), **common)
        case "distributed":
            return DataLoader(images, sampler=DistributedSampler(images, seed=3), **common)
        case "subset":
            return DataLoader(Subset(images, range(3, SAMPLES)), shuffle=True, **common)
        case "collate":
            return DataLoader(images, shuffle=True, collate_fn=noisy_collate, **common)
        case "stream":
            return DataLoader(Stream(images), **common)
    from torchdata.stateful_dataloader import StatefulDataLoader

    if kind == "stateful":
        return StatefulDataLoader(images, shuffle=True, **common)
    return StatefulDataLoader(Stream(images), **common)


def run(
    folder,
    *,
    kill_at=None,
    loader="shuffle",
    workers=2,
    aug="worker",
    after=False,
    accumulate=1,
    every=5,
    epochs=EPOCHS,
    pause=0.0,
    pass_data=False,
    **options,
):
    folder = Path(folder)
    several = torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if several else 0
    world = torch.distributed.get_world_size() if several else 1
    torch.set_num_threads(1)
    torch.manual_seed(7)
    random.seed(7 + rank)
    np.random.seed(7 + rank)

    model = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 8))
    if world > 1:
        model = nn.parallel.DistributedDataParallel(model)
        torch.manual_seed(100 + rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=39)
    per_epoch = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    ema = MyEma(model.module if world > 1 else model)
    batches = make_loader(loader, Images(aug), workers, options)

    data = {"data": batches.sampler if loader == "exact" else batches} if pass_data else {}
    ck = Checkpointer(
        folder / "run", model=model, optimizer=optimizer, scheduler=[scheduler, per_epoch],
        ema=ema, scaler=scaler, keep=Keep(last=2), every=every, **data,
    )  # fmt: skip
    ck.resume()
    for step, x in ck.loop(batches, epochs=epochs):
        time.sleep(pause)
        level = float(np.random.rand())  # of the noise
        noise = torch.randn_like(x) * level
        loss = ((model(x + noise) - noise) ** 2).mean() * (0.5 + random.random()) / accumulate
        scaler.scale(loss).backward()
        if step % accumulate == 0:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        if not after:
            finish(scheduler, per_epoch, ck, ema, model, step)
        with (folder / f"losses-{rank}.txt").open("a") as log:
            log.write(f"{step} {loss.item().hex()}\n")
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        ck.step(step)
        if after:  # some only look at the save when everything else seems done
            finish(scheduler, per_epoch, ck, ema, model, step)
    ck.close()
    finals(folder, rank, model, ema.shadow, optimizer, [scheduler, per_epoch])
    if world > 1:
        torch.distributed.destroy_process_group()


def finals(folder, rank, model, ema, optimizer, schedulers, more=None):
    """Write down the digests of everything, and the random numbers that would come next."""
    final = {
        "model": digests(model.state_dict()),
        "ema": digests(ema if isinstance(ema, dict) else {**ema.state_dict(), "run": "any"}),
        "optimizer": digests(optimizer.state_dict()),
        "scheduler": digests([one.state_dict() for one in schedulers]),
        "more": digests(more),
        "random": [
            random.random().hex(),
            float(np.random.rand()).hex(),
            torch.rand(()).item().hex(),
        ],
    }
    (folder / f"final-{rank}.json").write_text(json.dumps(final, indent=1, default=str))


def finish(scheduler, per_epoch, ck, ema, model, step):
    """What comes after an update: learning rates, average, and a validation that draws random numbers."""
    scheduler.step()
    if ck.ends_epoch:
        per_epoch.step()
    ema.update(getattr(model, "module", model))
    if step % 5 == 0:
        random.random()
        np.random.rand()
        torch.rand(2)


def digests(value):
    if isinstance(value, torch.Tensor):
        return sha256(value.detach().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {str(k): digests(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [digests(v) for v in value]
    return value.hex() if isinstance(value, float) else value
