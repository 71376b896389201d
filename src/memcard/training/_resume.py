"""Which save a training goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memcard.errors import FormatError, IntegrityError, UnsupportedError
from memcard.training.saves import OpenSave, numbered


@dataclass(frozen=True, slots=True)
class Resumed:
    """What ``Checkpointer.resume`` did.

    Attributes:
        step: the training goes on after; 0 if it begins.
        path: of the save that was used; None if there was none.
        skipped: newer saves that could not be used, each with the reason.
        notes: what is not as it was, one sentence each.
        seconds: it took.
    """

    step: int
    path: Path | None = None
    skipped: Mapping[Path, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    seconds: float = 0.0


def newest(
    folder: Path, refuse_other: Callable[[OpenSave], None], skipped: dict[Path, str]
) -> OpenSave | None:
    """Return the newest save of which every byte is right, open; None if there is no save.

    Args:
        folder: of the run.
        refuse_other: raises if a save does not fit; asked before its tensors are read.
        skipped: takes up newer ones that are damaged, with the reason.

    Raises:
        IntegrityError: there are saves, and all of them are damaged.
        UnsupportedError: one is of another version, or of another program.
    """
    for _, path in reversed(numbered(folder)):
        try:
            return _verified(path, refuse_other)
        except UnsupportedError:
            raise
        except (FormatError, IntegrityError, OSError) as error:
            skipped[path] = str(error)
    if skipped:
        raise IntegrityError(
            f"{folder}: none of its {len(skipped)} saves can be used: {' '.join(skipped.values())} To begin "
            "anew, move them away or choose another folder."
        )
    return None


def _verified(path: Path, refuse_other: Callable[[OpenSave], None]) -> OpenSave:
    opened = OpenSave(path)
    try:
        refuse_other(opened)
        opened.verify()
    except BaseException:
        opened.close()
        raise
    return opened
