"""How far a merged checkpoint is from each of its parents, block by block: facts and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memcard.core.atomic import replacing
from memcard.core.progress import Listener, silent
from memcard.errors import UsageError
from memcard.jobs._report_rows import MergeReport
from memcard.jobs.diff import check_picture, diff


def check_report(path: str | Path, *, dry_run: bool = False) -> None:
    """Refuse a report that cannot be drawn, before anything is merged.

    Raises:
        NotFoundError: the folder is not there.
        UsageError: pillow is not installed, the name does not end in .png, or nothing will be written.
    """
    if dry_run:
        raise UsageError("a report compares the result, and a dry run writes none.")
    check_picture(path)


def merge_report(
    out: str | Path, parents: Sequence[str | Path], *, progress: Listener = silent
) -> MergeReport:
    """Compare a merged checkpoint with what it was made from; each parent is read once.

    Args:
        out: the result.
        parents: what went in; the same file twice counts once.
        progress: hears how far each comparison is.

    Raises:
        FormatError: one of them cannot be read as a checkpoint.
        NotFoundError: one of them is not there.
    """
    names = tuple(dict.fromkeys(map(str, parents)))
    return MergeReport(str(out), names, tuple(diff(p, out, progress=progress) for p in names))


def draw_report(report: MergeReport, path: str | Path) -> None:
    """Write a report as PNG; a file of this name is replaced.

    Raises:
        NotFoundError, UsageError: as ``check_report``.
    """
    check_report(path)
    from memcard.jobs._report_picture import picture

    with replacing(Path(path).expanduser()) as file:
        picture(report).save(file, "PNG", optimize=True)
