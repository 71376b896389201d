"""Where the tokens of LTX-Video stand in space and time, and how pictures get a place among them.

Two ways, as the releases were trained. Up to 0.9.1 the first picture fills the first frame of the latents and
nothing else is known of it. From 0.9.5 on a picture may be kept in part, stand at a later frame too, and the
first one gets a little noise in each step.

Source: diffusers ``pipeline_ltx_image2video.py`` (up to 0.9.1), ``pipeline_ltx_condition.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Generator, Tensor

from memcard.generation.placed import Placed

STIR: Final = 0.15  # what the pipelines of 0.9.5 and later add to a picture that is kept whole


@dataclass(frozen=True, slots=True)
class Grid:
    """The latents of a clip.

    Attributes:
        frames, rows, columns: of the latents.
        time, side: frames and pixels that one of them stands for.
    """

    frames: int
    rows: int
    columns: int
    time: int
    side: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows and columns."""
        return self.frames, self.rows, self.columns

    @property
    def tokens(self) -> int:
        """How many there are."""
        return self.frames * self.rows * self.columns

    def places(self, fps: int, *, frames: int | None = None, first: int = 0) -> Tensor:
        """Return seconds, row and column of each token, [1, 3, tokens], float32.

        The first frame of the latents is one frame, each later one is ``time`` frames: so frame i of
        them begins 1 - ``time`` frames earlier than i times ``time``.

        Args:
            fps: frames per second.
            frames: of the latents; None: all.
            first: frame of the clip at which they begin.
        """
        sizes = (self.frames if frames is None else frames, self.rows, self.columns)
        at = torch.stack(torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij"))
        at = at.reshape(1, 3, -1) * torch.tensor([self.time, self.side, self.side])[None, :, None]
        at[:, 0] = (at[:, 0] + 1 - self.time).clamp(min=0) + first
        found = at.float()
        found[:, 0] = found[:, 0] * (1.0 / fps)
        return found


def packed(latents: Tensor) -> Tensor:
    """Return [1, frames * rows * columns, channels] of [1, channels, frames, rows, columns]."""
    return latents.flatten(2).transpose(1, 2)


def unpacked(latents: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Undo ``packed``."""
    return latents.transpose(1, 2).reshape(latents.shape[0], -1, *shape)


def place_first(noise: Tensor, picture: Tensor, share: float, grid: Grid) -> Placed:
    """Put a picture into the first frame of the latents.

    Args:
        noise: of the clip, [1, tokens, channels].
        picture: latents of one frame, [1, channels, 1, rows, columns].
        share: how much of it is kept, 0..1.
        grid: of the clip.
    """
    opened = unpacked(noise, grid.shape).clone()
    opened[:, :, :1] = torch.lerp(opened[:, :, :1], picture.to(noise), share)
    kept = torch.zeros(1, grid.tokens, device=noise.device)
    kept[:, : grid.rows * grid.columns] = share
    return Placed(packed(opened), kept, {"kept": kept})


def place_last(
    before: Placed, picture: Tensor, share: float, grid: Grid, at: int, fps: int, source: Generator
) -> Placed:
    """Put a picture at a later frame, as tokens of its own that stand where that frame does.

    Args:
        before: the clip.
        picture: latents of one frame, [1, channels, 1, rows, columns].
        share: how much of it is kept.
        grid: of the clip.
        at: number of the frame, from 0.
        fps: frames per second.
        source: of the noise that the rest of the picture is made of.
    """
    drawn = torch.randn(picture.shape, generator=source, dtype=torch.float32).to(before.latents)
    own = packed(torch.lerp(drawn, picture.to(drawn), share))
    kept = torch.cat([torch.full(own.shape[:2], share).to(before.kept), before.kept], dim=1)
    places = [grid.places(fps, frames=1, first=at), grid.places(fps)]
    beside = {"kept": kept, "places": torch.cat(places, dim=2).to(own.device)}
    return Placed(torch.cat([own, before.latents], dim=1), kept, beside, own.shape[1], before.stir)


def moments(moment: Tensor, batch: int, kept: Tensor | None) -> Tensor:
    """Return the time step that each token is told: its own where it holds on to a picture.

    Args:
        moment: of the run, 0..1000.
        batch: how many clips are asked about at once.
        kept: as of ``Placed``, [batch, tokens]; None: no picture is there.
    """
    if kept is None:
        return moment.expand(batch)
    own: Any = (1 - kept) * 1000.0
    return torch.minimum(moment.expand(batch).unsqueeze(-1).float(), own)
