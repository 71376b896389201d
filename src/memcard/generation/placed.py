"""Pictures that stand in a clip while the rest of it is denoised.

Each token of a clip may hold on to a picture, wholly or in part. A token that keeps the share k waits
until the noise of the others has come down to 1 - k, its own level; the denoiser is told its own level
meanwhile. One that keeps all never changes, but for a little noise that helps the motion go on from it.

Source: Lightricks LTX-Video, ``pipeline_ltx_video.py``; diffusers ``pipeline_ltx_condition.py`` and
``pipeline_ltx_image2video.py``, whose arithmetic this is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Generator, Tensor

from memcard.generation.engine import Cond

_NEAR: Final = 1e-6  # levels nearer to each other than this are one


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures for a clip, before they are latents.

    Attributes:
        first: 0..1, [height, width, 3], in the size of the clip.
        kept: share of it that is kept, 0..1.
        last: the same for its last frame; None: it may end as it likes.
    """

    first: Tensor
    kept: float = 1.0
    last: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A clip with pictures in it, before the first step.

    Attributes:
        latents: what the run begins with, [1, tokens, channels].
        kept: share of a picture that each token keeps, 0..1, [1, tokens]; 0 where there is none.
        beside: what the denoiser is told about them, beside the words.
        extra: tokens in front that are not of the clip itself.
        stir: noise that tokens which keep all get in each step, times the square of its level.
    """

    latents: Tensor
    kept: Tensor
    beside: Cond
    extra: int = 0
    stir: float = 0.0

    def stirred(self, latents: Tensor, level: Tensor, source: Generator) -> Tensor:
        """Return the latents that a step at a noise level, 0..1, begins with."""
        if not self.stir:
            return latents
        drawn = torch.randn(latents.shape, generator=source, dtype=torch.float32).to(latents)
        fresh = self.latents + self.stir * drawn * (level**2)
        return torch.where((self.kept > 1 - _NEAR).unsqueeze(-1), fresh, latents)

    def waited(self, before: Tensor, after: Tensor, level: Tensor) -> Tensor:
        """Return what a step at a noise level made of the latents: nothing of tokens that wait."""
        moves = (level - _NEAR < 1 - self.kept).unsqueeze(-1)
        return torch.where(moves, after, before)

    def own(self, latents: Tensor) -> Tensor:
        """Return the latents of the clip itself."""
        return latents[:, self.extra :]
