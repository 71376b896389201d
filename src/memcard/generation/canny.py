"""The edges of a picture, white on black, as models that follow a drawing were shown them.

Gradients by Sobel, along each only the steepest point, weak ones only where they continue a strong one. The
arithmetic is in whole numbers, as OpenCV's ``Canny`` has it (3 x 3, sum of absolutes), so that the drawing is the
one such models were trained with.

Source: Canny 1986, "A Computational Approach to Edge Detection"; OpenCV ``modules/imgproc/src/canny.cpp``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from memcard.errors import UsageError

LOW: Final = 100  # as ControlNet's own annotator and most tools have it
HIGH: Final = 200
_TAN_22: Final = 13573  # tangent of 22.5 degrees, times 2**15


def canny(pixels: Tensor, *, low: int = LOW, high: int = HIGH) -> Tensor:
    """Return the edges of a picture.

    Args:
        pixels: 0..1, [height, width, 3].
        low: steps of 256 between neighbours, over a 3 x 3 kernel: an edge goes on above this.
        high: and begins above this; at least ``low``.

    Returns:
        0 or 1, the shape of ``pixels``, float32.

    Raises:
        UsageError: ``high`` is below ``low``, or one is below 0.
    """
    if not 0 <= low <= high:
        raise UsageError(f"edges from {low} to {high}: give two numbers, the first not the larger.")
    image = (pixels * 255).round().clamp(0, 255).to(torch.int32).cpu().numpy()
    dx, dy = _steepest(*_sobel(image))
    size = np.abs(dx) + np.abs(dy)
    ridge = _ridges(dx, dy, size) & (size > low)
    found = _connected(ridge, ridge & (size > high))
    return torch.from_numpy(found.astype(np.float32))[..., None].expand(pixels.shape).contiguous()


def _sobel(image: Any) -> tuple[Any, Any]:
    """Return gradients along width and height, [height, width, channels]; the border repeats."""
    wide = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    columns = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    return rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]


def _steepest(dx: Any, dy: Any) -> tuple[Any, Any]:
    """Return the gradients of the channel in which they are the largest; the first of equals."""
    best = (np.abs(dx) + np.abs(dy)).argmax(axis=2)[..., None]
    return np.take_along_axis(dx, best, 2)[..., 0], np.take_along_axis(dy, best, 2)[..., 0]


def _ridges(dx: Any, dy: Any, size: Any) -> Any:
    """Return where the gradient is larger than at both neighbours along it, one of eight."""
    around = np.pad(size, 1)
    high, wide = size.shape

    def at(down: int, right: int) -> Any:
        return around[1 + down : 1 + down + high, 1 + right : 1 + right + wide]

    x, y = np.abs(dx).astype(np.int64), np.abs(dy).astype(np.int64) << 15
    flat, steep = y < x * _TAN_22, y > x * _TAN_22 + (x << 16)
    across = (size > at(0, -1)) & (size >= at(0, 1))
    along = (size > at(-1, 0)) & (size >= at(1, 0))
    falling = (size > at(-1, -1)) & (size > at(1, 1))
    rising = (size > at(-1, 1)) & (size > at(1, -1))
    diagonal = np.where((dx ^ dy) < 0, rising, falling)
    return np.where(flat, across, np.where(steep, along, diagonal))


def _connected(ridge: Any, strong: Any) -> Any:
    """Return the points of ``ridge`` that touch one of ``strong``, by way of others, in eight directions."""
    wide = ridge.shape[1] + 2
    open_, found = np.pad(ridge, 1).ravel(), np.pad(strong, 1).ravel()
    steps = np.array([i * wide + j for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j])
    front = np.flatnonzero(found)
    while len(front):
        near = (front[:, None] + steps).ravel()
        front = np.unique(near[open_[near] & ~found[near]])
        found[front] = True
    return found.reshape(-1, wide)[1:-1, 1:-1]
