"""Compare checkpoints, LoRA strengths, VAEs and settings: the same picture in every combination."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from memcard.core.extras import require
from memcard.core.progress import Listener, Notice, silent
from memcard.errors import UsageError
from memcard.jobs._compare_axes import OWN, lay_out, numbers, once
from memcard.jobs._compare_cells import Plan, Planned, Wish
from memcard.jobs._compare_output import refuse_outputs
from memcard.jobs._compare_plan import plan_cells
from memcard.jobs._compare_result import Cell, Comparison
from memcard.jobs._compare_run import measure, run_cells
from memcard.jobs._compare_store import Store
from memcard.jobs._compare_time import about

__all__ = [
    "Cell",
    "Comparison",
    "Forecast",
    "about",
    "compare",
    "forecast",
    "numbers",
    "refuse_outputs",
]

MOST_CELLS: Final = 2_000  # more has to be confirmed


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a comparison would make.

    Attributes:
        cells: of the whole table.
        missing: pictures that are not kept from earlier runs.
        impossible: cells whose sampler does not know their schedule.
        seconds: how long the missing ones take; 0 if there are none.
        axes: names and values of what varies.
        pages: number of pages.
    """

    cells: int
    missing: int
    impossible: int
    seconds: float
    axes: Mapping[str, Sequence[str]]
    pages: int

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "cells": self.cells,
            "missing": self.missing,
            "impossible": self.impossible,
            "seconds": round(self.seconds, 1),
            "axes": {name: list(labels) for name, labels in self.axes.items()},
            "pages": self.pages,
        }


def compare(
    prompt: str | Sequence[str],
    checkpoint: str | Path | Sequence[str | Path] = "starter",
    *,
    lora: Mapping[str | Path, float | Sequence[float]] | None = None,
    vae: str | Path | Sequence[str | Path | None] | None = None,
    seed: int | Sequence[int] = 1,
    text_encoders: Sequence[str | Path] = (),
    embeddings: Sequence[str | Path] = (),
    device: str = "auto",
    dtype: str = "auto",
    x: str | None = None,
    y: str | None = None,
    cache: str | Path | None = None,
    yes: bool = False,
    progress: Listener = silent,
    **settings: Any,
) -> Comparison:
    """Make the same picture in every combination of the values given.

    Cells that were made before are taken from the disk. Each checkpoint is loaded once, with each LoRA set
    and VAE in turn. What is done stays when the run is interrupted.

    Args:
        prompt: one or several.
        checkpoint: paths or names.
        lora: strengths by path or name; all LoRAs are laid on together, 0 leaves one out.
        vae: paths or names; ``own`` or None is the checkpoint's own.
        seed: 0..2**32-1; -1 draws one for the whole table.
        text_encoders: files of text encoders for all checkpoints, as for ``generate``.
        embeddings: textual inversions that prompts may name.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        dtype: compute in ``auto``, ``F32``, ``BF16`` or ``F16``.
        x: which axis runs along the columns, such as ``cfg``; None: chosen.
        y: which axis runs down the rows; the rest becomes pages.
        cache: folder of finished cells; None: memcard's own.
        yes: also make more than 2,000 cells.
        progress: hears about loading, pictures, steps, and how long it will take.
        settings: sampler, schedule, steps, cfg, negative, ``size`` as (width, height) and whatever else
            ``generate`` takes; one value or a sequence of them.

    Raises:
        UsageError: a value is out of its range, or there are too many cells. All faults are named at
            once, and nothing is painted; so too for the next three.
        UnsupportedError: no model family fits a checkpoint.
        MismatchError: parts are missing, or a LoRA or VAE does not fit.
        NotFoundError: no such file or sampler.
    """  # fmt: skip
    start = time.perf_counter()
    store = Store(cache)
    wish = _wish(prompt, checkpoint, lora, vae, seed, settings)
    wish = replace(wish, text_encoders=tuple(text_encoders), embeddings=tuple(embeddings), device=device, dtype=dtype)  # fmt: skip
    plan = _plan(wish, x, y, yes=yes)
    missing = _missing(plan, store)
    for why in dict.fromkeys(cell.why_not for cell in plan.cells if cell.why_not):
        progress(Notice(f"Left out: {why}"))
    run_cells(plan, missing, store, progress)
    store.prune(frozenset(cell.key for cell in plan.cells))
    made = frozenset(cell.key for cell in missing)
    return Comparison(plan, store, made, time.perf_counter() - start)


def forecast(
    prompt: str | Sequence[str],
    checkpoint: str | Path | Sequence[str | Path] = "starter",
    *,
    lora: Mapping[str | Path, float | Sequence[float]] | None = None,
    vae: str | Path | Sequence[str | Path | None] | None = None,
    seed: int | Sequence[int] = 1,
    text_encoders: Sequence[str | Path] = (),
    embeddings: Sequence[str | Path] = (),
    device: str = "auto",
    dtype: str = "auto",
    x: str | None = None,
    y: str | None = None,
    cache: str | Path | None = None,
    progress: Listener = silent,
    **settings: Any,
) -> Forecast:
    """Say how many pictures ``compare`` would make, and how long that takes.

    Arguments and errors are those of ``compare``. Where nothing was measured yet, three steps are run
    with each kind of model.
    """
    store = Store(cache)
    wish = _wish(prompt, checkpoint, lora, vae, seed, settings)
    wish = replace(wish, text_encoders=tuple(text_encoders), embeddings=tuple(embeddings), device=device, dtype=dtype)  # fmt: skip
    plan = _plan(wish, x, y, yes=True)
    missing = _missing(plan, store)
    timer = measure(plan, missing, store, progress)
    pages = 1
    for axis in plan.layout.pages:
        pages *= len(plan.axes[axis].values)
    return Forecast(
        len(plan.cells),
        len(missing),
        sum(not cell.key for cell in plan.cells),
        timer.seconds(missing) or 0.0,
        {axis.name: axis.labels for axis in plan.axes if axis.varies},
        pages,
    )


def _missing(plan: Plan, store: Store) -> list[Planned]:
    return [cell for cell in plan.ordered() if not store.has(cell.key)]


def _plan(wish: Wish, x: str | None, y: str | None, *, yes: bool) -> Plan:
    require("generate", what="Comparing pictures")
    count = _count(wish)
    if count > MOST_CELLS and not yes:
        raise UsageError(
            f"this would be {count:,} pictures; {MOST_CELLS:,} are made without asking. Use fewer "
            "values, or confirm with --yes (yes=True)."
        )
    axes, cells = plan_cells(wish)
    return Plan(axes, lay_out(axes, x=x, y=y), cells, wish)


def _count(wish: Wish) -> int:
    count = len(wish.prompts) * len(wish.checkpoints) * len(wish.vaes) * len(wish.seeds)
    for _, strengths in wish.loras:
        count *= len(strengths)
    for values in wish.settings.values():
        count *= len(values)
    return count


def _wish(
    prompt: str | Sequence[str],
    checkpoint: str | Path | Sequence[str | Path],
    lora: Mapping[str | Path, float | Sequence[float]] | None,
    vae: str | Path | Sequence[str | Path | None] | None,
    seed: int | Sequence[int],
    settings: Mapping[str, Any],
) -> Wish:
    from memcard.generation.latents import SEEDS

    drawn = secrets.randbelow(SEEDS)
    given = {name: value for name, value in settings.items() if value is not None}
    found = Wish(
        _several(prompt),
        _several(checkpoint),
        tuple((ref, tuple(map(float, _several(s)))) for ref, s in (lora or {}).items()),
        once(None if v in (OWN, None) else v for v in _several(vae)),
        once(drawn if s == -1 else s for s in _several(seed)),
        {name: _sizes(v) if name == "size" else _several(v) for name, v in given.items()},
    )
    empty = [name for name, values in (("checkpoint", found.checkpoints), ("vae", found.vaes),
             ("seed", found.seeds), *((str(ref), s) for ref, s in found.loras),
             *found.settings.items()) if not values]  # fmt: skip
    if empty:
        raise UsageError(f"no value for {', '.join(empty)}; give at least one, or leave it out.")
    return found


def _several(value: Any) -> tuple[Any, ...]:
    """Return one value or a sequence of them as a tuple, each once."""
    alone = isinstance(value, (str, Path)) or not isinstance(value, Sequence)
    return (value,) if alone else once(value)


def _sizes(value: Any) -> tuple[Any, ...]:
    """Return sizes as pairs; one pair alone is one size."""
    alone = (
        isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, int) for v in value)
    )
    pairs = (value,) if alone else _several(value)
    good = [
        isinstance(p, Sequence) and len(p) == 2 and all(isinstance(v, int) for v in p)
        for p in pairs
    ]
    if not all(good):
        raise UsageError(f"size {value!r}: give (width, height), or several of these.")
    return once(tuple(pair) for pair in pairs)
