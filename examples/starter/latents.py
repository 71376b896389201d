"""Turn pictures into the 16-channel latents the starter is trained on.

The latent space is a fixed linear code: principal components of 4x4 patches (48 numbers to 16, 30 dB),
each divided by the square root of its standard deviation. It is known in closed form, so the UNet can
train before any VAE exists; the VAE's encoder and decoder were regressed onto the same latents later.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from captions import COLOURS
from numpy.typing import NDArray
from pictures import composite
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).parent
CODE = "latent_code.safetensors"  # mean [48], basis [48, 16], root_std [16], scale []


def read_code() -> dict[str, Tensor]:
    """Read the linear code that defines the latent space of all starter weights."""
    return load_file(HERE / CODE)


def encode(pictures: Tensor, code: dict[str, Tensor]) -> Tensor:
    """Encode ``[n, 3, 64, 64]`` in -1..1 as ``[n, 16, 16, 16]``."""
    patches = functional.pixel_unshuffle(pictures, 4).permute(0, 2, 3, 1)
    z = (patches - code["mean"]) @ code["basis"] / code["root_std"] * code["scale"]
    return z.permute(0, 3, 1, 2).contiguous()


def decode(latents: Tensor, code: dict[str, Tensor]) -> Tensor:
    """Invert ``encode`` up to what 16 of 48 components lose (30 dB)."""
    z = (latents / code["scale"]).permute(0, 2, 3, 1) * code["root_std"]
    patches = z @ code["basis"].T + code["mean"]
    return functional.pixel_shuffle(patches.permute(0, 3, 1, 2), 4).clamp(-1, 1)


def encode_on_colours(rgba: NDArray[np.uint8]) -> Tensor:
    """Encode every picture on every named background: ``[n, colours, 16, 16, 16]``, float16.

    600 pictures on 12 backgrounds take 60 MB, which is cheaper than compositing in each step.
    """
    code = read_code()
    coloured = (torch.from_numpy(composite(rgba, rgb)) for rgb in COLOURS.values())
    return torch.stack([encode(pictures, code).half() for pictures in coloured], dim=1)
