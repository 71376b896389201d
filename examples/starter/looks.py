"""Looks for the derived checkpoints: pure image transformations of the permitted pictures.

Each look takes RGBA pictures and a background colour and returns ``[n, 3, 64, 64]`` in -1..1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pictures import composite
from torch import Tensor
from torch.nn import functional

Colour = tuple[int, int, int]


def soften(x: Tensor, radius: float) -> Tensor:
    """Blur with a Gaussian of ``radius`` pixels."""
    reach = max(1, round(3 * radius))
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    bell = torch.exp(-0.5 * (at / radius) ** 2)
    bell = (bell / bell.sum()).repeat(x.shape[1], 1, 1, 1)
    x = functional.pad(x, (reach,) * 4, mode="replicate")
    x = functional.conv2d(x, bell.view(-1, 1, 1, 2 * reach + 1), groups=x.shape[1])
    return functional.conv2d(x, bell.view(-1, 1, 2 * reach + 1, 1), groups=x.shape[1])


def outlines(rgba: NDArray[np.uint8]) -> Tensor:
    """Return ``[n, 1, 64, 64]`` in 0..1: bright where colour or transparency changes."""
    x = torch.from_numpy(rgba.astype(np.float32) / 255).permute(0, 3, 1, 2)
    x = torch.cat([x[:, :3] * x[:, 3:] + 0.5 * (1 - x[:, 3:]), x[:, 3:]], dim=1)
    x = functional.pad(soften(x, 0.6), (1, 1, 1, 1), mode="replicate")
    dx = x[..., 1:-1, 2:] - x[..., 1:-1, :-2]
    dy = x[..., 2:, 1:-1] - x[..., :-2, 1:-1]
    strength = (dx**2 + dy**2).sqrt().amax(dim=1, keepdim=True)
    return ((strength - 0.12) * 2.2).clamp(0, 1)


def stencil(rgba: NDArray[np.uint8], colour: Colour) -> Tensor:
    """Lay the (already one-coloured) stencil picture on the background."""
    return torch.from_numpy(composite(rgba, colour))


def neon(rgba: NDArray[np.uint8], colour: Colour) -> Tensor:
    """Glowing outlines in the object's own, saturated colours on a dark tint of the background."""
    lines = outlines(rgba)
    x = torch.from_numpy(composite(rgba, (120, 120, 160))) / 2 + 0.5
    hue = soften(x, 1.5)
    low, high = hue.amin(dim=1, keepdim=True), hue.amax(dim=1, keepdim=True)
    hue = ((hue - 0.85 * low) / (high - 0.85 * low + 0.05)).clamp(0, 1) * 0.9 + 0.1
    light = lines * hue
    night = torch.tensor([0.04, 0.02, 0.12]).view(1, 3, 1, 1)
    night = night + 0.10 * torch.tensor(colour).view(1, 3, 1, 1) / 255 * (sum(colour) < 720)
    return (night + light + 1.1 * soften(light, 2.0)).clamp(0, 1) * 2 - 1


def blueprint(rgba: NDArray[np.uint8], colour: Colour) -> Tensor:
    """White construction lines on blue paper with a grid, whatever the background."""
    del colour
    paper = torch.tensor([0.10, 0.28, 0.62]).view(1, 3, 1, 1).expand(len(rgba), 3, 64, 64).clone()
    paper[..., ::8, :] += 0.10
    paper[..., :, ::8] += 0.10
    body = torch.from_numpy(rgba[..., 3:].astype(np.float32) / 255).permute(0, 3, 1, 2)
    paper = paper * (1 - 0.25 * body)
    lines = outlines(rgba)
    return (paper * (1 - lines) + lines * 0.97).clamp(0, 1) * 2 - 1


def pixel_art(rgba: NDArray[np.uint8], colour: Colour) -> Tensor:
    """16x16 squares, five levels per channel, dark outline; a square is one 4x4 latent patch."""
    body = torch.from_numpy(rgba[..., 3:].astype(np.float32) / 255).permute(0, 3, 1, 2)
    body = (functional.avg_pool2d(body, 4) > 0.4).float()
    inner = 1 - functional.max_pool2d(functional.pad(1 - body, (1, 1, 1, 1), value=1.0), 3, 1)
    rim = body * (1 - inner)
    small = functional.avg_pool2d(torch.from_numpy(composite(rgba, colour)) / 2 + 0.5, 4)
    back = torch.tensor(colour).view(1, 3, 1, 1) / 255
    levels = ((((small - 0.5) * 1.2 + 0.5).clamp(0, 1)) * 4).round() / 4
    squares = (levels * body + back * (1 - body)) * (1 - 0.72 * rim)
    return functional.interpolate(squares, scale_factor=4, mode="nearest") * 2 - 1


LOOKS: dict[str, Callable[[NDArray[np.uint8], Colour], Tensor]] = {
    "black stencil": stencil,
    "neon glow": neon,
    "blueprint": blueprint,
    "pixel art": pixel_art,
}
