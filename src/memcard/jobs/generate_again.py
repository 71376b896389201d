"""Make a picture as another one was made, or as the command line says it: with less said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard.core.atomic import replacing
from memcard.core.progress import Listener, Notice, silent
from memcard.errors import UsageError
from memcard.jobs._generate_plan import Plan, plan
from memcard.jobs._pictures import Result
from memcard.jobs.generate import run

if TYPE_CHECKING:
    from PIL.Image import Image


def run_again(
    prompt: str | None = None,
    checkpoint: str | None = None,
    *,
    progress: Listener = silent,
    **said: Any,
) -> Result:
    """Run ``generate`` with what a picture says about itself, and what is said here above that.

    Arguments and errors are those of ``completed``, and of ``run`` beside them.
    """
    return run(**completed(prompt, checkpoint, progress=progress, **said), progress=progress)


def plan_again(
    prompt: str | None = None,
    checkpoint: str | None = None,
    *,
    progress: Listener = silent,
    **said: Any,
) -> Plan:
    """Say what ``run_again`` would use; without a prompt, what any would be painted with."""
    if prompt is None and said.get("source") is None:
        prompt = ""
    given = completed(prompt, checkpoint, progress=progress, **{**said, "preview": None})
    return plan(**given, progress=progress)


def completed(
    prompt: str | None = None,
    checkpoint: str | None = None,
    *,
    source: str | Path | None = None,
    auto: bool = False,
    preview: str | Path | None = None,
    progress: Listener = silent,
    **said: Any,
) -> dict[str, Any]:
    """Return arguments of ``run``: those of a picture, and what is said here above them.

    Args:
        prompt: None: the picture's.
        checkpoint: None: the picture's; the starter without one.
        source: a picture of any tool that ``read_image`` knows.
        auto: let ``pick`` choose the checkpoint for the prompt.
        preview: a file that shows the picture as far as it is.
        progress: hears what could not be followed.
        said: arguments of ``run``; None and () mean not said.

    Raises:
        UsageError: there is neither a prompt nor a picture.
        NotFoundError: files that the picture was made with are not at hand; names them all.
    """
    given = {"prompt": prompt, "checkpoint": checkpoint, **said}
    given = {key: value for key, value in given.items() if value not in (None, ())}
    if source is not None:
        given = _arguments(source, given, progress)
    if "prompt" not in given:
        raise UsageError("say what to paint: memcard generate PROMPT, or --from IMAGE.")
    if auto and "checkpoint" not in given:
        given["checkpoint"] = _chosen(given["prompt"], progress)
    if preview is not None:
        given["preview"] = _writer(Path(preview).expanduser())
    return given


def _chosen(prompt: str, progress: Listener) -> str:
    """Return the checkpoint that suits a prompt; say which."""
    from memcard.jobs.pick import best

    found = best(prompt, progress=progress)
    progress(Notice(f"{found} is chosen; `memcard pick` says why."))
    return found


def _arguments(source: str | Path, given: dict[str, Any], progress: Listener) -> dict[str, Any]:
    """Return the arguments of a picture with those that are given above them."""
    from memcard.jobs.image_info import read_image, request_of

    info = read_image(source)
    request = request_of(info, folder=Path(source).expanduser().parent, given=tuple(given))
    arguments = request.checked()
    for note in request.notes:
        progress(Notice(note))
    return {**arguments, **given}


def _writer(path: Path) -> Callable[[Image], None]:
    """Return what keeps a picture in a file that is whole at any moment."""

    def write(image: Image) -> None:
        with replacing(path) as file:
            image.save(file, "PNG")

    return write
