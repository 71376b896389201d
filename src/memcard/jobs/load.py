"""Load a checkpoint into torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memcard.jobs.open import open as open_checkpoint

if TYPE_CHECKING:
    import torch


def load(ref: str | Path, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """Load all tensors of a checkpoint, of any format, as ``torch.load`` and ``load_file`` do.

    Nothing in the file is executed. On the CPU the tensors are windows on the file, which is read as
    they are touched; what is written to them stays in this process. See ``memcard.open`` for one
    tensor at a time.

    Args:
        ref: as for ``memcard.open``.
        device: where the tensors go, such as ``cuda`` or ``cuda:1``.

    Returns:
        Name to tensor, in file order. Tied weights share their memory.

    Raises:
        FormatError: the file cannot be read as a checkpoint, or holds a dtype that torch has not.
        NotFoundError: nothing has this name.
        UsageError: torch is not installed.
    """
    with open_checkpoint(ref) as checkpoint:
        tensors = checkpoint.tensors()
    if str(device) == "cpu":
        return tensors
    from memcard.maths.torch_bridge import to_device

    return to_device(tensors, device)
