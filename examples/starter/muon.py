"""Muon: momentum whose matrices are made orthogonal before they are applied.

One optimiser step moves every direction of a weight matrix equally far, which memorises a small
picture set in fewer samples than AdamW (docs/starter.md has the measurement). Convolution kernels are
treated as matrices ``[out, in * kh * kw]``. Embeddings, norms, biases and the first and last layer
stay with AdamW, as the source advises.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale
``0.2 * sqrt(max(rows, columns))`` is from Liu et al. 2025, arXiv:2502.16982.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalise(stack: Tensor) -> Tensor:
    """Return the nearest semi-orthogonal matrices of ``[n, rows, columns]``, singular values ~1.

    Computed in bfloat16: three times faster here (0.13 s against 0.38 s for all 141 matrices).
    """
    a, b, c = NEWTON_SCHULZ
    x = (stack / (stack.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for parameters of two or more dimensions."""

    def __init__(self, params: list[Tensor], *, lr: float = 2e-3, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move all parameters; equal shapes are orthogonalised in one batch."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                memory = self.state[p].setdefault("momentum", torch.zeros_like(p))
                memory.lerp_(p.grad, 1 - group["momentum"])
                nesterov = p.grad.lerp(memory, group["momentum"]).flatten(1)
                shapes.setdefault(tuple(nesterov.shape), []).append((p, nesterov))
            for (rows, columns), pairs in shapes.items():
                moves = orthogonalise(torch.stack([move for _, move in pairs]))
                scale = 0.2 * max(rows, columns) ** 0.5
                for (p, _), move in zip(pairs, moves, strict=True):
                    p.add_(move.view_as(p), alpha=-group["lr"] * scale)
