"""Find the settings that suit a checkpoint: guidance, sampler, schedule, steps; with the evidence.

What is chosen is chosen on some prompts and seeds and checked on others, against the family's own settings.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memcard._version import __version__
from memcard.core.atomic import replacing
from memcard.core.card import Card
from memcard.core.extras import require
from memcard.core.progress import Listener, Notice, silent
from memcard.errors import MemcardError, UsageError
from memcard.jobs._tune_prompts import Prompts, prompts_for, read_prompts
from memcard.jobs._tune_result import Tuned
from memcard.jobs.card import card, set_card
from memcard.jobs.resolve import label, locate

__all__ = ["BUDGET", "Tuned", "read_budget", "read_prompts", "tune", "write_settings"]

if TYPE_CHECKING:
    from memcard.jobs._tune_cells import Cell, Cells
    from memcard.jobs._tune_painter import Painter
    from memcard.jobs._tune_race import Margin
    from memcard.jobs._tune_search import Search

BUDGET: Final = 150  # pictures
CLOSENESS: Final = 35.0  # dB
_LEAST: Final = 30
_MOST: Final = 2000
_SEARCHED: Final = ("cfg", "steps", "sampler", "schedule")
_ON_CARD: Final = {"cfg": "cfg", "steps": "steps", "sampler": "sampler", "schedule": "scheduler"}
_TIMES: Final = {"s": 1, "m": 60, "min": 60, "h": 3600}


def tune(
    ref: str | Path,
    loras: Sequence[tuple[str | Path, float]] = (),
    *,
    vae: str | Path | None = None,
    text_encoders: Sequence[str | Path] = (),
    prompts: Sequence[str] = (),
    budget: str | int = BUDGET,
    out: str | Path | None = None,
    seed: int = 1,
    closeness: float = CLOSENESS,
    clip: str | Path | None = None,
    write: bool = False,
    force: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    progress: Listener = silent,
    **fixed: Any,
) -> Tuned:
    """Find the settings for a checkpoint.

    Args:
        ref: path or name.
        loras: (path or name, strength) on top; what is found then is for both together.
        vae: another VAE, or only its decoder.
        text_encoders: files of parts that the checkpoint lacks.
        prompts: to search with; a third of them is held out. None: those of the card, else our own.
        budget: about how many pictures, or how long: ``300``, ``20m``, ``2h``.
        out: folder for the report and for what is measured; an interrupted search goes on from there.
        seed: of the first picture.
        closeness: dB from the converged picture at which steps are enough; at 30 a close look still sees it, at 40 none.
        clip: folder of a CLIP model of transformers; its score is then shown too.
        write: put the settings on the card if they are worth it; see ``write_settings``.
        force: begin anew in a folder with another search.
        device: as for ``memcard.jobs.generate.run``.
        dtype: as there.
        progress: hears what is found, and how far it is.
        fixed: settings that are not searched: width, height, negative, also cfg, steps, sampler, schedule.

    Raises:
        UsageError: a value is out of range, or the folder holds another search.
        MismatchError, NotFoundError, UnsupportedError: the checkpoint cannot paint.
    """
    start = time.perf_counter()
    pictures, seconds = read_budget(budget)
    if write:
        _refuse_write(ref, loras)
    require("generate", what="Finding settings")
    from memcard.jobs._generate_models import Models, Wanted
    from memcard.jobs._tune_painter import Painter

    fixed = {name: value for name, value in fixed.items() if value is not None}
    folder = Path(out or f"tune-{_stem(ref)}").expanduser()
    wanted = Wanted(
        ref,
        tuple((lora, strength, None) for lora, strength in loras),
        vae=vae,
        text_encoders=tuple(text_encoders),
    )
    place = None if clip is None else Path(clip).expanduser()
    with Painter(wanted, Models(device, dtype, progress), fixed, clip=place) as painter:
        said = card(ref)
        chosen = prompts_for(painter.family, said, prompts, _painted(ref, said))
        cells = _cells(folder, painter, chosen, seed, fixed, place, anew=force)
        if cells.reused:
            progress(Notice(f"Going on: {cells.reused} pictures are there already."))
        if seconds is not None:
            pictures = _afforded(painter, chosen, seconds)
        progress(Notice(f"About {pictures} pictures, with {chosen.origin}."))
        search = _search(painter, chosen, cells, seed, closeness, pictures, fixed, progress)
        found = search.run()
        check = search.check(found)
    tuned = _tuned(ref, loras, search, found, check, folder, time.perf_counter() - start)
    if write and tuned.recommended:
        tuned = replace(tuned, written=write_settings(ref, tuned))
    with replacing(folder / "tune.json") as file:
        file.write(f"{json.dumps(tuned.to_dict(), ensure_ascii=False, indent=2)}\n".encode())
    return tuned


def _search(
    painter: Painter,
    chosen: Prompts,
    cells: Cells,
    seed: int,
    closeness: float,
    pictures: int,
    fixed: Mapping[str, Any],
    progress: Listener,
) -> Search:
    from memcard.jobs._tune_search import Plan, Search

    return Search(
        *(painter, chosen, cells, Plan.of(pictures), seed, closeness, pictures),
        kept=fixed,
        clip=painter.clip,
        progress=progress,
    )


def read_budget(text: str | int) -> tuple[int, float | None]:
    """Return pictures and seconds; one of them is what was asked for.

    Raises:
        UsageError: neither a number of pictures nor a time, or too small.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?", str(text).strip())
    if match is None:
        raise UsageError(f"budget {text!r}: give pictures, such as 300, or a time: 20m, 2h.")
    if match[2]:
        return BUDGET, float(match[1]) * _TIMES[match[2]]
    count = int(float(match[1]))
    if not _LEAST <= count <= _MOST:
        raise UsageError(f"budget {text}: {_LEAST} to {_MOST} pictures are possible.")
    return count, None


def write_settings(ref: str | Path, tuned: Tuned) -> Path:
    """Put found settings on the card, and their evidence under ``extra.tuned``; return the file.

    In the library for a name of the library, else in the sidecar; ``memcard generate`` then uses them.

    Raises:
        UsageError: nothing is written beside this file; says why.
    """
    changes = [(_ON_CARD[name], str(value)) for name, value in tuned.found.items()]
    evidence = {
        "memcard": __version__,
        "date": time.strftime("%Y-%m-%d"),
        "found": dict(tuned.found),
        "usual": dict(tuned.usual),
        "evaluations": {"found": tuned.evaluations, "usual": tuned.usual_evaluations},
        "held_out": {name: gain.to_dict() for name, (_, _, gain) in tuned.check.items()},
    }
    return set_card(ref, changes, evidence={"tuned": evidence}).path


def _refuse_write(ref: str | Path, loras: Sequence[Any]) -> None:
    """Refuse before the search what could not be written after it."""
    if loras:
        raise UsageError(
            "settings for a checkpoint with LoRAs belong on no one card; leave --write out, and give "
            "what is found to `memcard generate`."
        )
    set_card(ref, [("cfg", "1")], dry_run=True)


def _painted(ref: str | Path, said: Card) -> tuple[str, ...]:
    """Return the prompts of preview pictures that lie beside a checkpoint and say how they were made."""
    from memcard.generation.image_text import read_texts
    from memcard.generation.image_tools import understand

    found = []
    for name in said.previews:
        place = locate(ref).parent / name
        if "/" in name or "#" in name or not place.is_file():
            continue
        try:
            found.append(understand(read_texts(place)).prompt.strip())
        except (MemcardError, OSError):
            continue  # a preview is a help, not a part of the checkpoint
    return tuple(prompt for prompt in found if prompt)


def _cells(
    folder: Path,
    painter: Painter,
    chosen: Prompts,
    seed: int,
    fixed: Mapping[str, Any],
    clip: Path | None,
    *,
    anew: bool,
) -> Cells:
    """Open what is measured already, if it was measured for the same."""
    from memcard.jobs._tune_cells import Cells

    used = painter.usual
    names = (*_SEARCHED, "width", "height", "negative")
    about = {
        "sha256": painter.sha256,
        "usual": {name: getattr(used, name) for name in names},
        "fixed": dict(fixed),
        "prompts": {"search": chosen.search, "held_out": chosen.held_out},
        "seed": seed,
        "clip": None if clip is None else str(clip),
    }
    return Cells(folder, about, anew=anew)


def _afforded(painter: Painter, chosen: Prompts, seconds: float) -> int:
    """Time one picture with its judgement, and return how many the time has room for."""
    from memcard.jobs._tune_cells import Cell
    from memcard.jobs._tune_painter import RIVALS

    used, prompt = painter.usual, chosen.search[0]
    cells = [Cell(used.cfg, used.steps, used.sampler, used.schedule, prompt, n) for n in (7, 8)]
    rivals = chosen.rivals(prompt, RIVALS)
    painter.scores(cells[0], ("adherence",), rivals)  # the first one warms up
    start = time.perf_counter()
    painter.scores(cells[1], ("adherence",), rivals)
    each = time.perf_counter() - start
    count = int(seconds / each)
    if count < _LEAST:
        raise UsageError(
            f"a picture with its judgement takes {each:.1f} s here, and {_LEAST} are the least: give "
            f"{_LEAST * each / 60:.0f}m or more, or a smaller size with --size."
        )
    return min(count, _MOST)


def _tuned(
    ref: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    search: Search,
    found: Cell,
    check: Mapping[str, tuple[Margin, Margin, Margin]],
    folder: Path,
    seconds: float,
) -> Tuned:
    from memcard.generation.scorers import SCORERS
    from memcard.jobs._tune_page import draw_sheets, write_page
    from memcard.jobs._tune_painter import evaluations
    from memcard.jobs._tune_verdict import verdict

    runs, usual_runs = evaluations(found), evaluations(search.usual)
    recommended, why = verdict(found, search.usual, check, runs, usual_runs)
    tuned = Tuned(
        *(search.painter.name, tuple(search.painter.sha256), search.painter.family),
        _named(found),
        _named(search.usual),
        recommended,
        why,
        runs,
        usual_runs,
        check,
        judging=tuple(name for name in check if SCORERS[name].better == "higher"),
        curves={
            "cfg": search.cfg_points,
            "sampler": search.sampler_points,
            "steps": search.step_points,
        },
        prompts=search.prompts,
        pictures=len(search.cells),
        page=folder / "index.html",
        notes=tuple(search.notes),
        seconds=seconds,
        command=_command(ref, loras, search),
    )
    write_page(tuned.page, tuned, search, draw_sheets(folder, search, found))
    return tuned


def _command(ref: str | Path, loras: Sequence[tuple[str | Path, float]], search: Search) -> str:
    parts = ["memcard tune", str(ref), *(f"--lora {lora}:{strength:g}" for lora, strength in loras)]
    return " ".join([*parts, f"--budget {search.pictures} --seed {search.seed}"])


def _named(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in _SEARCHED}


def _stem(ref: str | Path) -> str:
    name = label(str(locate(ref)))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem if "/" not in name else name)
