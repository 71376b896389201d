"""Train the starter's UNet and text encoder together on the fixed latents, on one or two CPU cores.

One process per core with one thread each; two processes average their gradients. Training stops by
the clock, resumes from its last state, and keeps raw and averaged (EMA) weights of the same step.

    python train.py --work DIR --minutes 60 [--ranks 2] [--init MODEL.safetensors]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from captions import COLOURS, caption
from latents import encode_on_colours
from model import Starter, new_starter, read_starter, tokenise
from muon import Muon
from pictures import STYLES, read_held_out, read_pictures
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

COLOUR_NAMES = tuple(COLOURS)
WHITE = COLOUR_NAMES.index("white")


@dataclass(frozen=True)
class Plan:
    """What one training run does."""

    work: Path
    minutes: float
    ranks: int = 1
    batch: int = 64  # per step, over all ranks
    lr: float = 2e-3
    adam_lr: float = 1e-3
    ema: float = 0.999
    decay_from: float = 0.7  # share of the minutes after which the learning rate falls
    final_lr: float = 0.12  # share of the peak: raw weights stay rougher than the EMA
    seed: int = 0
    muon: bool = True
    init: Path | None = None


class Lessons:
    """Draws training samples: latents, token ids, by a generator of its own per rank."""

    def __init__(
        self, latents: Tensor, pairs: list[tuple[str, str]], model: Starter, seed: int
    ) -> None:
        self.latents, self.pairs, self.model = latents, pairs, model
        self.rng = random.Random(seed)
        self.noise = torch.Generator().manual_seed(seed)
        self.order: list[int] = []
        self.ids: dict[str, Tensor] = {}

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return ``count`` latents and their token ids, every picture equally often."""
        rows, ids = [], []
        for _ in range(count):
            if not self.order:
                self.order = self.rng.sample(range(len(self.pairs)), len(self.pairs))
            i = self.order.pop()
            named = self.rng.random() < 0.5
            c = self.rng.randrange(len(COLOUR_NAMES)) if named else WHITE
            text = caption(self.rng, *self.pairs[i], COLOUR_NAMES[c] if named else None)
            if text not in self.ids:
                self.ids[text] = tokenise(self.model.tokenizer, [text])[0]
            rows.append(self.latents[i, c])
            ids.append(self.ids[text])
        return torch.stack(rows).float(), torch.stack(ids)


def velocity_loss(model: Starter, x: Tensor, ids: Tensor, noise: torch.Generator) -> Tensor:
    """Mean squared error of the predicted velocity, time steps spread evenly over the batch."""
    count = len(x)
    spread = (torch.arange(count) + torch.rand(count, generator=noise)) / count
    t = (spread * 1000).long().clamp(max=999)
    eps = torch.randn(x.shape, generator=noise)
    signal = model.alphas[t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - model.alphas[t]).sqrt().view(-1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        states = model.text(ids)[0]
        v = model.unet(signal * x + sigma * eps, t, states).sample.float()
    return functional.mse_loss(v, signal * eps - sigma * x)


def optimisers(model: Starter, plan: Plan) -> list[torch.optim.Optimizer]:
    """Split the parameters: hidden matrices to Muon, the rest to AdamW."""
    hidden, rest = [], []
    for name, p in model.named_parameters():
        inner = p.ndim >= 2 and "embedding" not in name and "conv_in" not in name
        (hidden if plan.muon and inner and "conv_out" not in name else rest).append(p)
    adam = torch.optim.AdamW(rest, plan.adam_lr, betas=(0.9, 0.99), weight_decay=1e-3)
    return [Muon(hidden, lr=plan.lr), adam] if hidden else [adam]


def learning_rate(plan: Plan, step: int, share: float) -> float:
    """Factor of the peak: 60 steps of warm-up, flat, then linear to ``final_lr``."""
    fall = (1 - share) / (1 - plan.decay_from)
    return min(1.0, (step + 1) / 60) * min(1.0, max(plan.final_lr, fall))


def average(params: list[Tensor], clock: float, ranks: int) -> float:
    """Average gradients over the ranks; return the clock of rank 0, so that all stop together."""
    if ranks == 1:
        return clock
    first = clock if dist.get_rank() == 0 else 0.0
    flat = torch.cat([p.grad.flatten() for p in params] + [torch.tensor([first])])
    dist.all_reduce(flat)
    parts = flat[:-1].div(ranks).split([p.numel() for p in params])
    for p, part in zip(params, parts, strict=True):
        p.grad.copy_(part.view_as(p))
    return flat[-1].item()


class State:
    """Everything needed to go on: weights, their average, optimiser memory, step and clock."""

    def __init__(self, model: Starter, opts: list[torch.optim.Optimizer], folder: Path) -> None:
        self.model, self.opts, self.folder = model, opts, folder
        self.names, self.params = zip(*model.named_parameters(), strict=True)
        self.ema = [p.detach().clone() for p in self.params]
        self.step, self.samples, self.seconds, self.cpu = 0, 0, 0.0, 0.0
        self.losses: list[float] = []

    def write(self) -> None:
        """Write state.safetensors and state.json, each by rename."""
        tensors = {f"raw.{n}": p.detach() for n, p in zip(self.names, self.params, strict=True)}
        tensors |= {f"ema.{n}": p for n, p in zip(self.names, self.ema, strict=True)}
        name_of = {id(p): n for n, p in zip(self.names, self.params, strict=True)}
        for opt in self.opts:
            for p, memory in opt.state.items():
                for key, value in memory.items():
                    tensors[f"opt.{key}.{name_of[id(p)]}"] = value
        part = self.folder / "state.part"
        save_file({n: t.contiguous() for n, t in tensors.items()}, part)
        part.replace(self.folder / "state.safetensors")
        facts = {k: getattr(self, k) for k in ("step", "samples", "seconds", "cpu")}
        facts["loss"] = sum(self.losses[-200:]) / max(1, len(self.losses[-200:]))
        part.write_text(json.dumps(facts))
        part.replace(self.folder / "state.json")

    @torch.no_grad()
    def read(self) -> None:
        """Read what ``write`` wrote into the model, the average and the optimisers."""
        tensors = load_file(self.folder / "state.safetensors")
        facts = json.loads((self.folder / "state.json").read_text())
        self.step, self.samples = facts["step"], facts["samples"]
        self.seconds, self.cpu = facts["seconds"], facts["cpu"]
        for n, p, e in zip(self.names, self.params, self.ema, strict=True):
            p.copy_(tensors[f"raw.{n}"])
            e.copy_(tensors[f"ema.{n}"])
        by_name = dict(zip(self.names, self.params, strict=True))
        owner = {id(p): o for o in self.opts for g in o.param_groups for p in g["params"]}
        for key, value in tensors.items():
            if key.startswith("opt."):
                _, kind, name = key.split(".", 2)
                p = by_name[name]
                owner[id(p)].state[p][kind] = value

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the average towards the raw weights."""
        keep = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 1 - keep)


def train(plan: Plan, rank: int) -> None:
    """Run one rank until the minutes are over."""
    torch.set_flush_denormal(True)  # denormals made some CPU steps six times slower
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    model = read_starter(plan.init) if plan.init else new_starter()
    state = State(model, optimisers(model, plan), plan.work)
    if (plan.work / "state.json").exists():
        state.read()
    pictures = read_pictures(plan.work / "pictures.npz")
    held = read_held_out()
    pairs = list(zip(pictures.objects, pictures.styles, strict=True))
    rows = [i for i, pair in enumerate(pairs) if pair[1] in STYLES and pair not in held]
    latents = encode_on_colours(pictures.rgba[rows])
    seed = plan.seed + 1000 * state.step + rank
    lessons = Lessons(latents, [pairs[i] for i in rows], model, seed)
    loop(plan, rank, state, lessons)


def loop(plan: Plan, rank: int, state: State, lessons: Lessons) -> None:
    """Take steps until the clock says stop; rank 0 logs and saves every four minutes."""
    params = list(state.params)
    peak = [plan.lr, plan.adam_lr] if plan.muon else [plan.adam_lr]
    begun, used, cpu, saved = time.monotonic(), state.seconds, state.cpu, time.monotonic()
    first_cpu = time.process_time()
    while state.seconds < plan.minutes * 60:
        share = state.seconds / (plan.minutes * 60)
        for opt, lr in zip(state.opts, peak, strict=True):
            opt.param_groups[0]["lr"] = lr * learning_rate(plan, state.step, share)
        x, ids = lessons.draw(plan.batch // plan.ranks)
        loss = velocity_loss(lessons.model, x, ids, lessons.noise)
        loss.backward()
        state.seconds = average(params, used + time.monotonic() - begun, plan.ranks)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for opt in state.opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        state.step, state.samples = state.step + 1, state.samples + plan.batch
        state.cpu = cpu + plan.ranks * (time.process_time() - first_cpu)
        state.follow(plan.ema)
        state.losses = [*state.losses[-199:], loss.item()]
        if rank == 0 and state.step % 25 == 0:
            recent = sum(state.losses[-100:]) / len(state.losses[-100:])
            print(f"step {state.step} {state.seconds:.0f}s loss {recent:.4f}", flush=True)
        if rank == 0 and time.monotonic() - saved > 240:
            state.write()
            saved = time.monotonic()
    if rank == 0:
        state.write()


def run_rank(rank: int, plan: Plan, port: int) -> None:
    """Join the other ranks, then train."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=plan.ranks)
    train(plan, rank)
    dist.destroy_process_group()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--lr", type=float, default=Plan.lr)
    parser.add_argument("--adam-lr", type=float, default=Plan.adam_lr)
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--decay-from", type=float, default=Plan.decay_from)
    parser.add_argument("--init", type=Path)
    plan = Plan(**vars(parser.parse_args()))
    if plan.ranks == 1:
        train(plan, 0)
    else:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(run_rank, (plan, port), nprocs=plan.ranks)


if __name__ == "__main__":
    main()
