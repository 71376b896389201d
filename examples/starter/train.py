"""Train the starter's UNet and text encoder together on the fixed latents, on one or two CPU cores.

One process per core with one thread each; two processes average their gradients. Killed at any moment and
started again, it goes on from its last save and ends in the same bits; raw and averaged (EMA) weights of each
step are in one save.

    python train.py --work DIR --steps 7500 [--ranks 2] [--init MODEL.safetensors]
"""

from __future__ import annotations

import argparse
import os
import random
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from captions import COLOURS, caption
from latents import encode_on_colours
from model import Starter, new_starter, read_starter, tokenise
from muon import Muon
from pictures import STYLES, read_held_out, read_pictures
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from training_run import AVERAGE, Cost, run_folder, settle

import memcard
from memcard.training.decays import WarmUp

COLOUR_NAMES = tuple(COLOURS)
WHITE = COLOUR_NAMES.index("white")


@dataclass(frozen=True)
class Plan:
    """What one training run does."""

    work: Path
    steps: int
    ranks: int = 1
    batch: int = 64  # per step, over all ranks
    lr: float = 2e-3
    adam_lr: float = 1e-3
    ema: float = 0.999
    decay_from: float = 0.7  # share of the steps after which the learning rate falls
    final_lr: float = 0.12  # share of the peak: raw weights stay rougher than the EMA
    seed: int = 0
    muon: bool = True
    init: Path | None = None
    save_every: int | None = None  # steps; None: as often as costs 1 % of the time

    def settings(self) -> dict[str, object]:
        """Return what ``memcard runs`` shows."""
        return {n: str(v) if isinstance(v, Path) else v for n, v in asdict(self).items()}


class Lessons(Dataset):
    """A sample for each picture that may be learnt: its latent and the token ids of a caption.

    Background and words are drawn from the generator that ``memcard.exact`` offers: they depend on the seed
    and the place in the order alone, so no state of theirs has to be saved.
    """

    def __init__(self, work: Path, model: Starter) -> None:
        pictures, held = read_pictures(work / "pictures.npz"), read_held_out()
        pairs = list(zip(pictures.objects, pictures.styles, strict=True))
        rows = [i for i, pair in enumerate(pairs) if pair[1] in STYLES and pair not in held]
        self.latents = encode_on_colours(pictures.rgba[rows])
        self.pairs, self.tokenizer = [pairs[i] for i in rows], model.tokenizer
        self.ids: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(
        self, i: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ``[16, 16, 16]`` and ``[24]``."""
        rng = random.Random(int(torch.randint(1 << 62, (), generator=generator)))
        named = rng.random() < 0.5
        c = rng.randrange(len(COLOUR_NAMES)) if named else WHITE
        text = caption(rng, *self.pairs[i], COLOUR_NAMES[c] if named else None)
        if text not in self.ids:
            self.ids[text] = tokenise(self.tokenizer, [text])[0]
        return self.latents[i, c], self.ids[text]


def velocity_loss(model: Starter, x: Tensor, ids: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity, time steps spread evenly over the batch."""
    count = len(x)
    spread = (torch.arange(count) + torch.rand(count)) / count
    t = (spread * 1000).long().clamp(max=999)
    eps = torch.randn(x.shape)
    signal = model.alphas[t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - model.alphas[t]).sqrt().view(-1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        states = model.text(ids)[0]
        v = model.unet(signal * x + sigma * eps, t, states).sample.float()
    return functional.mse_loss(v, signal * eps - sigma * x)


def optimisers(model: Starter, plan: Plan) -> dict[str, torch.optim.Optimizer]:
    """Split the parameters: hidden matrices to Muon, the rest to AdamW."""
    hidden, rest = [], []
    for name, p in model.named_parameters():
        inner = p.ndim >= 2 and "embedding" not in name and "conv_in" not in name
        (hidden if plan.muon and inner and "conv_out" not in name else rest).append(p)
    adam = torch.optim.AdamW(rest, plan.adam_lr, betas=(0.9, 0.99), weight_decay=1e-3)
    return {"muon": Muon(hidden, lr=plan.lr), "adam": adam} if hidden else {"adam": adam}


def learning_rate(plan: Plan, step: int) -> float:
    """Factor of the peak for update number ``step``: 60 of warm-up, flat, then linear to ``final_lr``."""
    fall = (1 - (step - 1) / plan.steps) / (1 - plan.decay_from)
    return min(1.0, step / 60) * min(1.0, max(plan.final_lr, fall))


def average(params: list[Tensor], ranks: int) -> None:
    """Average the gradients over the ranks."""
    if ranks == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in params])
    dist.all_reduce(flat)
    parts = flat.div(ranks).split([p.numel() for p in params])
    for p, part in zip(params, parts, strict=True):
        p.grad.copy_(part.view_as(p))


def train(plan: Plan, rank: int) -> None:
    """Run one rank until all steps are done."""
    settle(plan.work, plan.seed)  # the first weights and the order are equal on all ranks
    model = read_starter(plan.init) if plan.init else new_starter()
    opts, cost = optimisers(model, plan), Cost()
    ema = memcard.EMA(model, {AVERAGE: WarmUp(plan.ema)})
    lessons = Lessons(plan.work, model)
    order = memcard.ExactSampler(lessons, plan.seed)
    loader = DataLoader(lessons, batch_size=plan.batch // plan.ranks, sampler=order)
    torch.manual_seed(plan.seed + rank)  # of the noise
    with memcard.Checkpointer(
        run_folder(plan.work, "base"),
        model=model,
        optimizer=opts,
        ema=ema,
        extra=cost,
        keep=memcard.Keep(last=2),
        every=plan.save_every,
        settings=plan.settings(),
    ) as saver:
        saver.resume()
        loop(plan, saver, loader, model, opts, ema, cost)


def loop(
    plan: Plan,
    saver: memcard.Checkpointer,
    loader: DataLoader,
    model: Starter,
    opts: dict[str, torch.optim.Optimizer],
    ema: memcard.EMA,
    cost: Cost,
) -> None:
    """Take the steps that are left; the last one is saved."""
    params = list(model.parameters())
    peak = {"muon": plan.lr, "adam": plan.adam_lr}
    first = plan.ranks == 1 or dist.get_rank() == 0
    for step, (x, ids) in saver.loop(loader, steps=plan.steps):
        factor = learning_rate(plan, step)
        for name, opt in opts.items():
            opt.param_groups[0]["lr"] = peak[name] * factor
        loss = velocity_loss(model, x.float(), ids)
        loss.backward()
        average(params, plan.ranks)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for opt in opts.values():
            opt.step()
            opt.zero_grad(set_to_none=True)
        ema.update()
        cost.add(len(x), plan.ranks, loss.item())
        saver.step(step, {"lr": factor, **cost.metrics()})
        if first and step % 25 == 0:
            print(f"step {step} {cost}", flush=True)
    saver.save(wait=True)


def run_rank(rank: int, plan: Plan, port: int) -> None:
    """Join the other ranks, then train."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(plan.ranks))
    dist.init_process_group("gloo", rank=rank, world_size=plan.ranks)
    train(plan, rank)
    dist.destroy_process_group()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--lr", type=float, default=Plan.lr)
    parser.add_argument("--adam-lr", type=float, default=Plan.adam_lr)
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--decay-from", type=float, default=Plan.decay_from)
    parser.add_argument("--final-lr", type=float, default=Plan.final_lr)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--save-every", type=int)
    plan = Plan(**vars(parser.parse_args()))
    if plan.ranks == 1:
        train(plan, 0)
    else:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(run_rank, (plan, port), nprocs=plan.ranks)


if __name__ == "__main__":
    main()
