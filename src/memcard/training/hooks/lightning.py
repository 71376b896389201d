"""Lightning: a callback that saves between two batches, and goes on between the same two.

The train loader is replaced by one that Checkpointer.loop serves. Lightning's loops keep their own counters;
they are in the save, with the states of all callbacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.training_epoch_loop import RestartStage
from lightning.pytorch.trainer.connectors import data_connector
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from memcard.errors import UnsupportedError
from memcard.training.checkpointer import Checkpointer
from memcard.training.data import ExactSampler
from memcard.training.hooks._serving import Reported, Serving, extras, few


class MemcardCheckpoint(Callback):
    """Saves a training of Lightning so that ``trainer.fit`` goes on exactly where it was.

    Args:
        kind: of Checkpointer.
        folder: of the run.
        options: of ``Checkpointer``; model, optimizers and schedulers are those of the trainer.

    Attributes:
        checkpointer: of this fit; None before.
    """

    def __init__(self, kind: type[Checkpointer], folder: str | Path, **options: Any) -> None:
        self._kind, self._folder, self._options = kind, folder, options
        self.checkpointer: Checkpointer | None = None
        self._serving: Serving | None = None
        self._reported: Reported | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the run, and put everything back."""
        options = dict(self._options)
        extra = extras(options.pop("extra", None), "trainer", Progress(trainer))
        found = {
            "model": pl_module,
            "optimizer": few(list(trainer.optimizers)),
            "scheduler": few([config.scheduler for config in trainer.lr_scheduler_configs]),
            "extra": extra,
        }
        loader = _train_loader(trainer)
        self._serving = _Loader(loader, lambda: self._report(trainer))
        ck = self.checkpointer = self._kind(self._folder, **found | options)
        self._reported = Reported(ck, ck.resume())
        self._serving.begin(ck)
        source = trainer.fit_loop._data_source
        source.instance, source.name = self._serving, ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the loops that they stand before a batch, not amid what follows one."""
        loop = trainer.fit_loop.epoch_loop
        if loop.restarting and self.checkpointer is not None and self._resumed:
            # They know no such place and would go through the end of the last batch again: step
            # schedulers, and count it once more.
            loop._restart_stage = RestartStage.NONE
            if not loop._should_accumulate():
                loop._batches_that_stepped -= 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take metrics as often as Lightning logs them: reading them stops a GPU."""
        if self._reported is not None and trainer._logger_connector.should_update_logs:
            self._reported.measured(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the metrics of the validation."""
        if self._reported is not None and not trainer.sanity_checking:
            self._reported.measured(trainer.callback_metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end."""
        if self.checkpointer is not None and self._serving is not None:
            self._report(trainer)
            self._serving.end()
            if trainer.global_step:
                self.checkpointer.save()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the last save."""
        ck, self.checkpointer = self.checkpointer, None
        if ck is not None:
            ck.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save if Lightning ends because of a signal: it does so between two batches."""
        ck, self.checkpointer = self.checkpointer, None
        if ck is None or self._serving is None:
            return
        if not isinstance(exception, SIGTERMException):
            ck.__exit__(type(exception), exception, None)
            return
        self._report(trainer)
        self._serving.end()
        ck.save()
        try:
            ck.close()
        except SystemExit as end:
            exception.code = end.code  # of a shell for this signal; Lightning's is 0

    def _report(self, trainer: Trainer) -> None:
        if self._reported is not None:
            self._reported.step(trainer.global_step)

    @property
    def _resumed(self) -> bool:
        ck = self.checkpointer
        return ck is not None and ck.resumed is not None and ck.resumed.step > 0


class _Loader(Serving):
    """Looks to Lightning like a loader that can be resumed; its position is in the save already."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""


class Progress:
    """The counters of the loops, and what the callbacks and the precision keep."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Return all of it; callbacks without a state are left out."""
        trainer: Any = self._trainer
        states = {one.state_key: one.state_dict() for one in trainer.callbacks}
        return {
            "loops": trainer.fit_loop.state_dict(),
            "callbacks": {key: state for key, state in states.items() if state},
            "precision": trainer.precision_plugin.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the counters; callbacks that were not there before keep their state."""
        trainer: Any = self._trainer
        trainer.fit_loop.load_state_dict(state["loops"])
        for one in trainer.callbacks:
            if one.state_key in state["callbacks"]:
                one.load_state_dict(state["callbacks"][one.state_key])
        if state["precision"]:
            trainer.precision_plugin.load_state_dict(state["precision"])


def _train_loader(trainer: Trainer) -> Any:
    """Return the loader as Lightning would use it: with a sampler for several processes."""
    loader = data_connector._request_dataloader(trainer.fit_loop._data_source)
    if not isinstance(loader, DataLoader):
        raise UnsupportedError(
            f"The train loader is a {type(loader).__name__}. Give Lightning one DataLoader of torch; several "
            "data sets can be put together with torch.utils.data.ConcatDataset."
        )
    if isinstance(loader.sampler, ExactSampler):
        return loader  # it divides the samples among the processes itself
    return data_connector._process_dataloader(
        trainer, TrainerFn.FITTING, RunningStage.TRAINING, loader
    )


PLUGIN = MemcardCheckpoint
