"""Accelerate: a Checkpointer that takes what an Accelerator has prepared.

The order of prepared loaders is made exact in ``memcard.training._prepared``, for any Checkpointer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from memcard.errors import UnsupportedError
from memcard.training._prepared import undivided
from memcard.training.checkpointer import Checkpointer
from memcard.training.hooks._serving import extras, few

DIVIDED: Final = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP")


def checkpointer(
    kind: type[Checkpointer], accelerator: Any, folder: str | Path, **options: Any
) -> Checkpointer:
    """Return a Checkpointer of everything that was prepared.

    Args:
        kind: of Checkpointer.
        accelerator: of ``accelerate``; ``prepare`` was called.
        folder: of the run.
        options: of ``Checkpointer``; what is given here is not taken from the accelerator.

    Raises:
        UnsupportedError: the weights are divided among the processes.
    """
    how = accelerator.distributed_type.value
    if how in DIVIDED:
        raise UnsupportedError(
            f"The accelerator divides the weights among its processes ({how}), so no process has them "
            "whole. Save such a training with torch.distributed.checkpoint."
        )
    for loader in accelerator._dataloaders:
        undivided(getattr(loader, "batch_sampler", None))
    extra = extras(options.pop("extra", None), "accelerator", Counter(accelerator))
    registered = getattr(accelerator, "_custom_objects", [])
    found = {
        "model": few(accelerator._models),
        "optimizer": few([one.optimizer for one in accelerator._optimizers]),
        "scheduler": few([one.scheduler for one in accelerator._schedulers]),
        "scaler": accelerator.scaler,
        "extra": extra | {f"registered_{i}": one for i, one in enumerate(registered)},
    }
    return kind(folder, **found | options)


class Counter:
    """The count of batches that says when accumulated gradients are used."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def state_dict(self) -> dict[str, int]:
        """Return the count."""
        return {"step": self._accelerator.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Set the count."""
        self._accelerator.step = state["step"]


PLUGIN = checkpointer
