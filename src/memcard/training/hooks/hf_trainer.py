"""The Trainer of transformers: saves between two batches, and goes on between the same two.

The Trainer resumes from a folder with ``trainer_state.json`` and drops as many batches as it was told it had
trained on. It gets such a folder, made from the save, and as many placeholders to drop; the batches after
them come from ``Checkpointer.loop``. Everything else is put back when its training begins.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import IterableDatasetShard

from memcard.errors import MemcardError, UnsupportedError, UsageError
from memcard.training._prepared import undivided
from memcard.training.checkpointer import Checkpointer
from memcard.training.hooks._serving import Reported, Serving, extras
from memcard.training.saves import OpenSave, numbered

STATE: Final = "trainer_state.json"
NEEDED: Final = ("_init_training_state", "_load_from_checkpoint", "get_train_dataloader", "train")
# What the Trainer counts between two logs, and begins anew when it resumes.
COUNTS: Final = ("_tr_loss", "_globalstep_last_logged", "current_flos")
EXTRA: Final = "trainer"


def attach(
    kind: type[Checkpointer], trainer: Any, folder: str | Path, **options: Any
) -> MemcardCallback:
    """Let a Trainer save and resume.

    Args:
        kind: of Checkpointer.
        trainer: of transformers.
        folder: of the run.
        options: of ``Checkpointer``; model, optimizer and scheduler are those of the trainer.

    Raises:
        UnsupportedError: this cannot be done with the trainer; the reason is named.
    """
    missing = [name for name in NEEDED if not hasattr(trainer, name)]
    if missing:
        raise UnsupportedError(
            f"This {type(trainer).__name__} has no {', '.join(missing)}. It needs a Trainer of transformers 5."
        )
    how = [n for n in ("fsdp", "deepspeed") if getattr(trainer, f"is_{n}_enabled", False)]
    if how:
        raise UnsupportedError(
            f"The trainer divides the weights among its processes ({how[0]}), so no process has them whole. "
            "Save such a training with torch.distributed.checkpoint."
        )
    if trainer.args.auto_find_batch_size:
        raise UnsupportedError(
            "auto_find_batch_size begins anew with smaller batches in the middle of a run. Leave it off and set "
            "per_device_train_batch_size."
        )
    callback = MemcardCallback(kind, trainer, Path(folder).expanduser(), options)
    trainer.add_callback(callback)
    return callback


class MemcardCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
    """Saves what a Trainer does; made by ``attach``.

    Attributes:
        checkpointer: of this training; None before.
    """

    def __init__(
        self, kind: type[Checkpointer], trainer: Any, folder: Path, options: Mapping[str, Any]
    ) -> None:
        self._kind, self._trainer, self._folder, self._options = kind, trainer, folder, options
        self.checkpointer: Checkpointer | None = None
        self._serving: Serving | None = None
        self._reported: Reported | None = None
        self._skipped = 0  # batches that the trainer is going to drop
        self._theirs: dict[str, Callable[..., Any]] = {n: getattr(trainer, n) for n in NEEDED}
        trainer.train = self._train
        trainer.get_train_dataloader = self._loader
        trainer._init_training_state = self._init_state
        trainer._load_from_checkpoint = self._load

    # --- in place of the trainer's

    def _train(self, resume_from_checkpoint: Any = None, *arguments: Any, **options: Any) -> Any:
        if isinstance(resume_from_checkpoint, (str, Path)):
            raise UsageError(
                f"train(resume_from_checkpoint={str(resume_from_checkpoint)!r}): this trainer resumes from the "
                f"saves in {self._folder} by itself. Call train() without it."
            )
        for _ in range(1 + len(numbered(self._folder))):
            try:
                with TemporaryDirectory(prefix="memcard-") as place:
                    state = saved_state(self._folder)
                    if state is not None:
                        Path(place, STATE).write_text(state, "utf-8")
                    begin = None if state is None else place
                    return self._theirs["train"](begin, *arguments, **options)
            except _Older:
                continue
            except BaseException as error:
                self._end(error)
                raise
        raise RuntimeError("a save was damaged again and again while it was being read")

    def _loader(self) -> DataLoader[Any]:
        loader = self._theirs["get_train_dataloader"]()
        undivided(getattr(loader, "batch_sampler", None))  # before its length is asked for
        self._serving = Serving(loader, self._report)
        rows = _Rows(self, self._serving, loader.dataset)
        # its own generator: else making an iterator would draw from the one of the training
        return DataLoader(rows, batch_size=None, collate_fn=_unchanged, generator=torch.Generator())

    def _init_state(self, *arguments: Any, **options: Any) -> tuple[int, int]:
        epochs, self._skipped = self._theirs["_init_training_state"](*arguments, **options)
        return epochs, self._skipped

    def _load(self, *_: Any, **__: Any) -> None:
        """Do nothing: the weights come with everything else, when the training begins."""

    # --- what the trainer calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the run, and put everything back."""
        if self._serving is None:
            raise RuntimeError("the trainer began without a loader")
        trainer, options = self._trainer, dict(self._options)
        extra = extras(options.pop("extra", None), EXTRA, Progress(trainer))
        found = {
            "model": trainer.model,
            "optimizer": getattr(trainer.optimizer, "optimizer", trainer.optimizer),
            "scheduler": trainer.lr_scheduler,
            "scaler": getattr(trainer.accelerator, "scaler", None),
            "extra": extra,
        }
        ck = self.checkpointer = self._kind(self._folder, **found | options)
        if ck.resume() != state.global_step:
            self._end(None)
            raise _Older
        self._reported = Reported(ck, state.global_step)
        self._serving.begin(ck)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Take what was logged as metrics."""
        if self._reported is not None:
            self._reported.measured(logs or {})

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save the end, if the trainer is going to put the best weights in place of the last."""
        over = control.should_training_stop or state.global_step >= state.max_steps
        if over and args.load_best_model_at_end:
            self._save_end()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save the end, and wait until all is on the disk."""
        if not args.load_best_model_at_end:
            self._save_end()
        self._end(None)

    def _save_end(self) -> None:
        if self.checkpointer is not None and self._serving is not None:
            self._report()
            self._serving.end()
            if self._trainer.state.global_step:
                self.checkpointer.save()

    def _report(self) -> None:
        if self._reported is not None:
            self._reported.step(self._trainer.state.global_step)

    def _end(self, error: BaseException | None) -> None:
        ck, self.checkpointer, self._reported = self.checkpointer, None, None
        if ck is not None:
            ck.__exit__(type(error) if error is not None else None, error, None)

    def to_drop(self) -> int:
        """Return how many batches the trainer is going to drop; asked once."""
        skipped, self._skipped = self._skipped, 0
        return skipped


class _Older(Exception):  # noqa: N818  # not an error: the newest save was damaged, begin with the one before
    """The save that was resumed from is not the one whose state the trainer has."""


class _Rows(IterableDatasetShard):  # type: ignore[misc]
    """Batches as if they were samples; to the Trainer it has the length of the data set.

    It is of this class because the Trainer then looks at ``dataset`` for the number of samples.
    """

    def __init__(self, callback: MemcardCallback, serving: Serving, dataset: Any) -> None:
        self.dataset = dataset
        self._callback, self._serving = callback, serving

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order knows its epochs."""

    def __len__(self) -> int:
        return len(self._serving)

    def __iter__(self) -> Iterator[Any]:
        """Serve placeholders for what will be dropped, then batches."""
        yield from (None for _ in range(self._callback.to_drop()))
        yield from self._serving


class Progress:
    """The TrainerState, and what is counted between two logs."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        trainer = self._trainer
        plain = dataclasses.asdict(trainer.state)
        for one in [*trainer.callback_handler.callbacks, trainer.control]:
            if isinstance(one, ExportableState):
                plain["stateful_callbacks"][type(one).__name__] = one.state()
        counts = {name: getattr(trainer, name) for name in COUNTS if hasattr(trainer, name)}
        return {"state": json.dumps(plain), "counts": counts}  # as the Trainer writes it

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what the Trainer has begun anew; the TrainerState it has read itself."""
        for name, value in state["counts"].items():
            now = getattr(self._trainer, name, None)
            there = now.device if isinstance(now, torch.Tensor) else None
            setattr(self._trainer, name, value if there is None else value.to(there))
        # The mean at the end is over the steps of this call: what was summed before must not count.
        self._trainer._total_loss_scalar = -float(state["counts"].get("_tr_loss", 0.0))


def saved_state(folder: Path) -> str | None:
    """Return the TrainerState of the newest save as JSON; None without one. Only the header is read."""
    for _, path in reversed(numbered(folder)):
        try:
            with OpenSave(path) as opened:
                return str(opened.tree["objects"][f"extra.{EXTRA}"]["state"]["state"])
        except (MemcardError, OSError, KeyError):
            continue
    return None


def _unchanged(batch: Any) -> Any:
    return batch


PLUGIN = attach
