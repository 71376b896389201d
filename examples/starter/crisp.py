"""Train a second decoder for the same latents: crisper edges, stronger contrast and colour.

It starts from the default decoder, learns sharpened targets with a gradient loss, and sees slightly
noisy latents, so that it also cleans what the UNet leaves behind. The encoder is not touched.

Killed and started again it goes on from its last save, and ends in the same bits.

    python crisp.py --work DIR --base base.safetensors --steps 500
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from captions import COLOURS
from diffusers import AutoencoderKL
from latents import encode, read_code
from looks import soften
from painter import read_painter
from pictures import STYLES, composite, read_pictures
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from training_run import Cost, facts_of, newest, read_tensors, run_folder, settle

import memcard

TRAINED = ("decoder", "post_quant")
BATCH, LR = 12, 1e-3


def sharpen(x: Tensor) -> Tensor:
    """Return the target: a strong unsharp mask, 45 % more saturation, 20 % more contrast."""
    x = x + 1.5 * (x - soften(x, 1.0))
    grey = x.mean(dim=1, keepdim=True)
    return ((grey + 1.45 * (x - grey)) * 1.2).clamp(-1, 1)


def edge_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of horizontal and vertical gradients."""
    d = a - b
    return (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()


class Pictures(Dataset):
    """A sample for each picture of the base's styles: on a colour, ``[3, 64, 64]`` in -1..1."""

    def __init__(self, work: Path) -> None:
        pictures = read_pictures(work / "pictures.npz")
        rows = [i for i, style in enumerate(pictures.styles) if style in STYLES]
        self.rgba = pictures.rgba[rows]

    def __len__(self) -> int:
        return len(self.rgba)

    def __getitem__(self, i: int, generator: torch.Generator | None = None) -> Tensor:
        """Lay the picture on a colour drawn from the generator that ``memcard.exact`` offers."""
        colours = list(COLOURS.values())
        colour = colours[int(torch.randint(len(colours), (), generator=generator))]
        return torch.from_numpy(composite(self.rgba[[i]], colour))[0]


def train(work: Path, base: Path, steps: int, seed: int = 0) -> Path:
    """Train until all steps are done, from the last save if there is one; return the run's folder."""
    settle(work, seed)
    code, vae, cost = read_code(), read_painter(base).vae.train(), Cost()
    trained = [p for n, p in vae.named_parameters() if n.startswith(TRAINED)]
    opt = torch.optim.AdamW(trained, LR, weight_decay=0)
    pictures, folder = Pictures(work), run_folder(work, "vae_crisp")
    loader = DataLoader(pictures, BATCH, sampler=memcard.ExactSampler(pictures, seed))
    settings = {"base": base.name, "steps": steps, "batch": BATCH, "lr": LR, "seed": seed}
    kept = memcard.Keep(last=2)
    with memcard.Checkpointer(
        folder, model=vae, optimizer=opt, extra=cost, keep=kept, settings=settings
    ) as saver:
        saver.resume()
        for step, x in saver.loop(loader, steps=steps):
            share = (step - 1) / steps
            opt.param_groups[0]["lr"] = LR * min(1.0, step / 30) * max(0.02, 1 - share)
            loss = loss_of(vae, x, code)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            cost.add(len(x), 1, loss.item())
            saver.step(step, cost.metrics())
            if step % 50 == 0:
                print(f"step {step} {cost}", flush=True)
        saver.save(wait=True)
    return folder


def loss_of(vae: AutoencoderKL, x: Tensor, code: dict[str, Tensor]) -> Tensor:
    """Return how far the decoded pictures are from the sharpened ones, in values and in edges."""
    z = encode(x, code)
    z = z + 0.08 * torch.rand(len(z), 1, 1, 1) * torch.randn_like(z)
    with torch.autocast("cpu", torch.bfloat16):
        y = vae.decode(z).sample.float()
    return functional.l1_loss(y, sharpen(x)) + edge_loss(y, sharpen(x))


def main() -> None:
    """Train and write ``WORK/derived/vae_crisp.safetensors``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    run = train(args.work, args.base, args.steps)
    tensors = read_tensors(newest(run).path, "model.")
    folder = args.work / "derived"
    folder.mkdir(exist_ok=True)
    found = {n: t for n, t in sorted(tensors.items()) if n.startswith(TRAINED)}
    save_file(found, folder / "vae_crisp.safetensors")
    facts = {"kind": "vae", "name": "vae_crisp", "seed": 0, **facts_of(run)}
    facts["data images"] = len(Pictures(args.work))
    (folder / "vae_crisp.json").write_text(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
