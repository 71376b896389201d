"""Generate pictures with starter weights in batches, without the rest of memcard.

Plain classifier-free guidance with DPM-Solver++ 2M, the settings the starter recommends.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from model import CONFIG, Starter, tokenise
from safetensors.torch import load_file
from torch import Tensor

BATCH = 96


@dataclass
class Painter:
    """A starter with its VAE."""

    model: Starter
    vae: AutoencoderKL

    @torch.no_grad()
    def paint(
        self, texts: list[str], *, cfg: float = 3.0, steps: int = 20, seed: int = 0
    ) -> Tensor:
        """Return ``[n, 3, 64, 64]`` in 0..1; picture i uses the seed ``seed + i``."""
        starts = range(0, len(texts), BATCH)
        done = [self._batch(texts[i : i + BATCH], cfg, steps, seed + i) for i in starts]
        return torch.cat(done)

    def _batch(self, texts: list[str], cfg: float, steps: int, seed: int) -> Tensor:
        noise = [torch.Generator().manual_seed(seed + i) for i in range(len(texts))]
        z = torch.cat([torch.randn(1, 16, 16, 16, generator=g) for g in noise])
        facts = json.loads((CONFIG / "scheduler/scheduler_config.json").read_text())
        facts.pop("_class_name")
        scheduler = DPMSolverMultistepScheduler.from_config(facts)
        scheduler.set_timesteps(steps)
        both = [*[""] * len(texts), *texts] if cfg != 1 else texts
        states = self.model.text(tokenise(self.model.tokenizer, both))[0]
        for t in scheduler.timesteps:
            x = torch.cat([z, z]) if cfg != 1 else z
            with torch.autocast("cpu", torch.bfloat16):
                v = self.model.unet(x, t, states).sample.float()
            if cfg != 1:
                empty, full = v.chunk(2)
                v = empty + cfg * (full - empty)
            z = scheduler.step(v, t, z).prev_sample
        return (self.vae.decode(z / self.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def read_painter(base: Path, *overlays: Path, config: Path = CONFIG) -> Painter:
    """Read a base single file and lay overlays (fine-tune, raw, VAE) over it in order."""
    tensors = load_file(base)
    for path in overlays:
        tensors |= load_file(path)
    tensors = {name: t.float() for name, t in tensors.items()}
    model = Starter(config)
    shape = json.loads((config / "unet/config.json").read_text())
    model.unet.load_state_dict(convert_ldm_unet_checkpoint(dict(tensors), shape))
    text = convert_ldm_clip_checkpoint(dict(tensors))
    model.text.load_state_dict({n.removeprefix("text_model."): t for n, t in text.items()})
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(config / "vae"))
    vae_shape = json.loads((config / "vae/config.json").read_text())
    vae.load_state_dict(convert_ldm_vae_checkpoint(dict(tensors), vae_shape))
    return Painter(model.eval(), vae.eval())


@torch.no_grad()
def add_lora(painter: Painter, path: Path, strength: float) -> None:
    """Add ``strength * alpha / rank * up @ down`` of a kohya LoRA file to the UNet's weights."""
    stored = {name: t.float() for name, t in load_file(path).items()}
    known = {"lora_unet_" + n.replace(".", "_"): m for n, m in painter.model.unet.named_modules()}
    for name in sorted({key.split(".", 1)[0] for key in stored}):
        down, up = stored[f"{name}.lora_down.weight"], stored[f"{name}.lora_up.weight"]
        scale = strength * stored[f"{name}.alpha"].item() / len(down)
        weight = known[name].weight
        weight += scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
