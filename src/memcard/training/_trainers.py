"""Checkpointers for other people's trainers. Each lies in ``memcard.training.hooks`` and is loaded by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

from memcard.core.registry import Registry

HOOKS: Final[Registry[Any]] = Registry("memcard.training.hooks")


class ForTrainers:
    """The doors of ``Checkpointer`` to Accelerate, Lightning and the Trainer of transformers."""

    @classmethod
    def for_accelerator(cls, accelerator: Any, folder: str | Path, **options: Any) -> Self:
        """Return a Checkpointer of everything that was prepared with an Accelerator.

        Models, optimizers, schedulers, scaler and objects registered for checkpointing need not be given.
        Call it after ``prepare``; iterate the prepared loader with ``loop``.

        Args:
            accelerator: of ``accelerate``.
            folder: of the run.
            options: of ``Checkpointer``, such as ``ema``, ``extra``, ``keep`` and ``every``.

        Raises:
            UnsupportedError: the weights are divided among the processes (FSDP, DeepSpeed, Megatron).
            UsageError, LockedError, DiskError: as ``Checkpointer``.
        """
        made: Self = HOOKS["accelerate"](cls, accelerator, folder, **options)
        return made

    @classmethod
    def for_lightning(cls, folder: str | Path, **options: Any) -> Any:
        """Return a Lightning callback; with it ``trainer.fit`` goes on where the newest save stands.

        Args:
            folder: of the run.
            options: of ``Checkpointer``: ``ema``, ``extra``, ``keep``, ``every`` and so on. Model, optimizers,
                schedulers, loops and the states of callbacks are found by themselves.
        """
        return HOOKS["lightning"](cls, folder, **options)

    @classmethod
    def for_hf_trainer(cls, trainer: Any, folder: str | Path, **options: Any) -> Any:
        """Let a Trainer of transformers save and resume; with it ``trainer.train()`` goes on.

        A callback alone cannot do that: it cannot say at which batch an epoch begins. So ``train`` and
        ``get_train_dataloader`` of this one object are replaced.

        Args:
            trainer: a ``transformers.Trainer`` or of a class derived from it.
            folder: of the run.
            options: of ``Checkpointer``: ``ema``, ``extra``, ``keep``, ``every`` and so on.

        Returns:
            The callback that was added to the trainer.

        Raises:
            UnsupportedError: the weights are divided among the processes, or the trainer is of another kind.
        """
        return HOOKS["hf_trainer"](cls, trainer, folder, **options)
