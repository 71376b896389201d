"""What becomes of a save after the training went on: written, noted, thinned out, or refused by the disk."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

from memcard.errors import DiskError
from memcard.training._folder import RunFolder
from memcard.training._pace import Pace
from memcard.training._writer import Job, Outcome, Writer
from memcard.training.run_log import RunLog
from memcard.training.saves import Save

OnSaved: TypeAlias = Callable[[Save], None]

_MOST_FAILURES: Final = 3  # saves in a row that the disk may refuse
_WORTH_SAYING: Final = 1.0  # seconds of waiting


class Background:
    """The saves of one run on their way to the disk; at most one is under way.

    Args:
        run: the folder, held.
        log: of the run.
        pace: hears how long a save took.
        on_saved: called with each save that is durable, behind the back of the training.
        on_removed: called with each save that went by the rules.

    Attributes:
        durable: seconds until the last save was on the disk, from the start of writing.
    """

    def __init__(
        self,
        run: RunFolder,
        log: RunLog,
        pace: Pace,
        on_saved: OnSaved | None,
        on_removed: OnSaved | None,
    ) -> None:
        self._run, self._log, self._pace = run, log, pace
        self._on_saved, self._on_removed = on_saved, on_removed
        self._writer = Writer()
        self._failures, self._hooks_failed = 0, False
        self.durable = 0.0

    @property
    def busy(self) -> bool:
        """Whether a save is under way."""
        return self._writer.busy

    def has(self, path: Path) -> bool:
        """Whether a save of this name is under way or there already."""
        return self._writer.has(path) or any(save.path == path for save in self._run.saves)

    def start(self, job: Job, save: Save) -> None:
        """Write a save; ``collect`` or ``make_way`` comes before."""
        self._writer.start(job, lambda outcome: self._written(save, outcome))

    def make_way(self, step: int) -> None:
        """Let the save before finish; there is one buffer."""
        start = time.monotonic()
        self.collect(wait=True)
        waited = time.monotonic() - start
        if waited > _WORTH_SAYING:
            say(
                f"step {step} waited {waited:.1f} s for the save before it to be written; the disk is slower "
                "than the saves come. Save less often (every=)."
            )
            self._log.event("waited", step=step, seconds=round(waited, 2))

    def collect(self, *, wait: bool = False, strict: bool = False) -> None:
        """Take note of how the last save ended.

        Args:
            wait: until it has.
            strict: raise at the first refusal of the disk.

        Raises:
            DiskError: the third refusal in a row.
            Exception: what else went wrong.
        """
        outcome = self._writer.take(wait=wait)
        if outcome is None:
            return
        self.durable = outcome.seconds
        self._pace.took(outcome.seconds)
        if isinstance(outcome.error, DiskError):
            self.refused(outcome.error, strict=strict)
        elif outcome.error is not None:
            self._log.event("failed", error=str(outcome.error))
            raise outcome.error
        else:
            self._failures = 0

    def refused(self, error: DiskError, *, strict: bool = False) -> None:
        """Say that the disk refused a save; raise if it was not the first time, or if ``strict``."""
        self._failures += 1
        self._log.event("failed", error=str(error))
        if strict or self._failures >= _MOST_FAILURES:
            raise error
        say(
            f"SAVE FAILED ({self._failures} of {_MOST_FAILURES} in a row): {error} The training goes on; the "
            "saves before are not affected."
        )

    def _written(self, save: Save, outcome: Outcome) -> None:
        done = replace(save, size=outcome.size)
        self._run.add(done)
        seconds = round(outcome.seconds, 4)
        self._log.event("saved", step=save.step, size=outcome.size, seconds=seconds)
        self._hook(self._on_saved, done)
        self._run.thin_out(self._removed)

    def _removed(self, save: Save) -> None:
        self._log.event("removed", step=save.step)
        self._hook(self._on_removed, save)

    def _hook(self, call: OnSaved | None, save: Save) -> None:
        if call is None:
            return
        try:
            call(save)
        except Exception as error:  # noqa: BLE001  # a foreign function must not stop a training
            if not self._hooks_failed:
                say(
                    f"after a save: {error} The saves themselves are not affected; this is said once."
                )
            self._hooks_failed = True


def say(text: str) -> None:
    """Tell the user, who may be looking at a log."""
    sys.stderr.write(f"memcard: {text}\n")
    sys.stderr.flush()
