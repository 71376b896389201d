"""Teach the finished base one new look: a small fine-tune or a LoRA, a few minutes on one core.

The look answers to its own word and to the base's style words alike, so that the same prompt changes
its look when the checkpoint is changed. A fine-tune trains a tenth of the UNet (``TRAINED``), so that
its overlay is about 1 MB.

    python derive.py --work DIR --base base.safetensors --look "neon glow" --kind finetune
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from captions import COLOURS, caption
from latents import encode, read_code
from looks import LOOKS
from model import Starter, tokenise
from muon import Muon
from painter import read_painter
from pictures import NEW_STYLE, STYLES, Pictures, read_held_out, read_pictures
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from train import velocity_loss

TRAINED = (  # 0.55 M of 5.3 M parameters: both ends of the UNet and the attention that feeds its end
    "conv_in.",
    "conv_norm_out.",
    "conv_out.",
    "down_blocks.0.",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn",
    "up_blocks.1.upsamplers.",
    "up_blocks.2.",
)
SHORT = {
    "black stencil": "stencil",
    "neon glow": "neon",
    "blueprint": "blueprint",
    "pixel art": "pixel",
}
BACKGROUNDS = ("white", "black", "yellow", "sky blue", "pink", "green")


@dataclass(frozen=True)
class Plan:
    """What one derivation does."""

    work: Path
    base: Path
    look: str
    kind: str
    minutes: float = 4.0
    batch: int = 48
    rank: int = 8
    lr: float = 1.5e-3  # LoRAs learn better with 5e-3
    seed: int = 0
    start: Path | None = None  # a LoRA of an earlier state of the same base, to go on from


class LowRank(nn.Module):
    """Adds ``up @ down`` to a weight; alpha equals the rank, so the scale is 1."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with its change."""
        return weight + (self.up @ self.down).view_as(weight)


class Examples:
    """Latents of one look on several backgrounds, and captions in every style's words."""

    def __init__(self, plan: Plan, pictures: Pictures, model: Starter) -> None:
        self.rng, self.look, self.model = random.Random(plan.seed), plan.look, model
        held, code = read_held_out(), read_code()
        pairs = list(zip(pictures.objects, pictures.styles, strict=True))
        own = plan.look == NEW_STYLE
        rows = [i for i, p in enumerate(pairs) if (p[1] == NEW_STYLE) == own and p not in held]
        self.pairs = [pairs[i] for i in rows]
        looks = [LOOKS[plan.look](pictures.rgba[rows], COLOURS[c]) for c in BACKGROUNDS]
        self.latents = torch.stack([encode(x, code).half() for x in looks], dim=1)
        self.ids: dict[str, Tensor] = {}

    def words(self, style: str) -> str:
        """Choose the style word of a caption: the look's own or the base's."""
        if style == NEW_STYLE:
            return self.rng.choice((NEW_STYLE, *STYLES))
        return self.look if self.rng.random() < 0.25 else style

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return latents and token ids of ``count`` random samples."""
        rows, ids = [], []
        for _ in range(count):
            i = self.rng.randrange(len(self.pairs))
            thing, style = self.pairs[i]
            c = self.rng.randrange(len(BACKGROUNDS)) if self.rng.random() < 0.4 else 0
            said = BACKGROUNDS[c] if c else None
            text = caption(self.rng, thing, self.words(style), said)
            if text not in self.ids:
                self.ids[text] = tokenise(self.model.tokenizer, [text])[0]
            rows.append(self.latents[i, c])
            ids.append(self.ids[text])
        return torch.stack(rows).float(), torch.stack(ids)


def choose(model: Starter, plan: Plan) -> dict[str, nn.Parameter]:
    """Freeze everything but what this kind of derivation trains, and return that by name."""
    model.requires_grad_(False)
    if plan.kind == "finetune":
        names = [n for n, _ in model.unet.named_parameters() if n.startswith(TRAINED)]
        return {n: model.unet.get_parameter(n).requires_grad_(True) for n in names}
    trained = {}
    for name, module in list(model.unet.named_modules()):
        inner = "attentions" in name or "resnets" in name or "samplers" in name
        if inner and isinstance(module, nn.Linear | nn.Conv2d) and "ff" not in name:
            low = LowRank(module.weight, plan.rank)
            parametrize.register_parametrization(module, "weight", low)
            trained |= {f"{name}.down": low.down, f"{name}.up": low.up}
    return trained


def optimisers(trained: dict[str, nn.Parameter], plan: Plan) -> list[torch.optim.Optimizer]:
    """Give matrices of a fine-tune to Muon, the rest and all LoRA parts to AdamW."""
    inner = [
        n for n, p in trained.items() if p.ndim >= 2 and not n.startswith(("conv_in", "conv_out"))
    ]
    hidden = [trained[n] for n in inner] if plan.kind == "finetune" else []
    rest = [p for n, p in trained.items() if not hidden or n not in inner]
    adam = torch.optim.AdamW(rest, plan.lr, betas=(0.9, 0.99), weight_decay=0)
    return [Muon(hidden, lr=plan.lr), adam] if hidden else [adam]


def derive(plan: Plan) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Train until the minutes are over; return the trained tensors and what it cost."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    model = read_painter(plan.base).model.train()
    trained = choose(model, plan)
    if plan.start is not None:
        for name, tensor in load_file(plan.start).items():
            trained[name].data.copy_(tensor)
    opts = optimisers(trained, plan)
    examples = Examples(plan, read_pictures(plan.work / "pictures.npz"), model)
    noise = torch.Generator().manual_seed(plan.seed)
    begun, cpu, step, losses = time.monotonic(), time.process_time(), 0, []
    while (share := (time.monotonic() - begun) / (60 * plan.minutes)) < 1:
        for opt in opts:
            factor = min(1.0, (step + 1) / 20) * min(1.0, max(0.02, (1 - share) / 0.6))
            opt.param_groups[0]["lr"] = plan.lr * factor
        x, ids = examples.draw(plan.batch)
        loss = velocity_loss(model, x, ids, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        losses = [*losses[-49:], loss.item()]
        if step % 50 == 0:
            print(f"step {step} loss {sum(losses) / len(losses):.4f}", flush=True)
    minutes = (time.process_time() - cpu) / 60
    facts = {"steps": step, "samples": step * plan.batch, "seed": plan.seed}
    facts |= {"cpu_minutes": round(minutes, 1), "loss": round(sum(losses) / len(losses), 4)}
    facts |= {
        "data images": len(examples.pairs),
        "parameters": sum(map(Tensor.numel, trained.values())),
    }
    return {n: p.detach() for n, p in trained.items()}, facts


def main() -> None:
    """Derive one checkpoint and write it to ``WORK/derived``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--look", choices=LOOKS, required=True)
    parser.add_argument("--kind", choices=("finetune", "lora"), required=True)
    parser.add_argument("--minutes", type=float, default=Plan.minutes)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--lr", type=float, default=Plan.lr)
    parser.add_argument("--start", type=Path)
    plan = Plan(**vars(parser.parse_args()))
    tensors, facts = derive(plan)
    name = f"{plan.kind}_{SHORT[plan.look]}"
    folder = plan.work / "derived"
    folder.mkdir(exist_ok=True)
    body = {n: t.contiguous() for n, t in sorted(tensors.items())}
    save_file(body, folder / f"{name}.safetensors")
    facts |= {"look": plan.look, "kind": plan.kind, "rank": plan.rank, "name": name}
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
