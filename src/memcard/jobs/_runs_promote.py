"""A save of a training becomes a checkpoint: its weights alone, raw or averaged, in the library."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from memcard._version import __version__
from memcard.core.progress import Listener, silent
from memcard.errors import MemcardError, NotFoundError, UsageError
from memcard.formats import format_for_suffix
from memcard.jobs._run_names import RUNS
from memcard.jobs._runs_finetuned import is_finetune, write
from memcard.jobs._runs_read import Opened, best_of, keep_of
from memcard.jobs._runs_weights import RAW, Weights, weights_of
from memcard.jobs.add import How, add
from memcard.jobs.resolve import card_of, digest, resolve
from memcard.recipes.bake import pour
from memcard.store import layout, places, refs
from memcard.store.layout import Layout
from memcard.training import saves
from memcard.training.run_log import RunLog
from memcard.training.saves import OpenSave, to_json

VERSION: Final = 1
KEY: Final = "memcard.promoted"
_SUFFIX: Final = ".safetensors"
_WORK: Final = ".promote-"
_LEFT: Final = 86400.0  # seconds after which a folder of a killed one is removed


@dataclass(frozen=True, slots=True)
class Promoted:
    """A checkpoint that was made of a save, or would be.

    Attributes:
        name: in the library.
        path: of the file; None where the library keeps it as its own.
        run: name of the run.
        step: of the save.
        which: ``raw``, or the name of the average.
        tensors: number of tensors.
        nbytes: of all of them.
        sha256: of the file; empty in a dry run.
        written: False for a dry run.
        notes: what a careful user should know.
    """

    name: str
    path: Path | None
    run: str
    step: int
    which: str
    tensors: int
    nbytes: int
    sha256: str = ""
    written: bool = True
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        path = None if self.path is None else str(self.path)
        return asdict(self) | {"path": path, "notes": list(self.notes)}


def promote(
    home: Layout,
    found: Opened,
    step: str,
    *,
    name: str,
    average: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Listener = silent,
) -> Promoted:
    """Write the weights of a save as a checkpoint, and take it into the library.

    Each byte of them is compared with its digest first; they are copied without passing through memory.

    Args:
        home: the library; it is made if there is none.
        found: the run.
        step: a number, ``newest``, or ``best``.
        name: in the library.
        average: None for the raw weights; the name of an average; "" for the only one there is.
        out: file to write, which is added where it is; None: the library keeps the file.
        overwrite: replace the file that is there, and let the name mean the new one.
        dry_run: only say what would be made.
        progress: hears how far it is.

    Raises:
        NotFoundError: there is no such save.
        UsageError: the name or the file is taken; or the average is not there.
        IntegrityError: the save is damaged.
    """
    name = refs.check_name(name)
    target = None if out is None else Path(out).expanduser()
    _refuse_taken(home, name, target, overwrite=overwrite)
    path = save_at(found, step)
    with OpenSave(path) as opened:
        chosen = weights_of(opened, average)
        view = chosen.view(opened)
        nbytes = sum(spec.nbytes for spec in view.specs.values())
        facts = (found.run.name, opened.save.step, chosen.which, len(view.specs), nbytes)
        if dry_run:
            return Promoted(name, target, *facts, written=False, notes=chosen.notes)
        chosen.check(opened)
        metadata, notes = _metadata(home, found, opened, chosen, name), chosen.notes
        with _place(home, name, target) as file:
            if is_finetune(found.run.settings):
                notes += write(found, opened, chosen, file, metadata, name)
            else:
                sink = format_for_suffix(file).create(file)
                pour(view, sink, metadata=metadata, progress=progress)
            how: How = "in-place" if target is not None else "move"
            made = add(home, [file], name=name, how=how, update=overwrite, progress=progress)[0]
    RunLog(found.folder).event(
        "promoted", step=facts[1], weights=chosen.which, name=made.name, sha256=made.sha256
    )
    return Promoted(made.name, target, *facts, sha256=made.sha256, notes=notes)


def save_at(found: Opened, step: str) -> Path:
    """Return the file of a save: of a step, the ``newest``, or the ``best`` by the metric of the run.

    Raises:
        NotFoundError: there is none; lists those there are.
        UsageError: neither a number nor one of these words; or no metric tells the best.
    """
    if not found.numbered:
        raise NotFoundError(
            f"{found.folder}: has no save. A training makes the first one after a while."
        )
    if step == "newest":
        return found.numbered[-1][1]
    if step == "best":
        keep = keep_of(found.run)
        best = best_of(keep, saves.sound(saves.listed(found.folder)))
        if best is None:
            raise UsageError(
                f"{found.folder}: which save is the best is not known: the run has no Keep(best=, by=), or no "
                "save was measured by it. Name a step."
            )
        return best.path
    if not step.isdecimal():
        raise UsageError(f"{step!r} is no step. Give a number, newest or best.")
    for number, path in found.numbered:
        if number == int(step):
            return path
    numbers = [number for number, _ in found.numbered]
    near = sorted(sorted(numbers, key=lambda n: abs(n - int(step)))[:5])
    raise NotFoundError(
        f"{found.folder}: has no save of step {step}. There are {len(numbers)}; the nearest are "
        f"{', '.join(map(str, near))}."
    )


def _refuse_taken(home: Layout, name: str, target: Path | None, *, overwrite: bool) -> None:
    if overwrite:
        return
    if target is not None and target.exists():
        raise UsageError(f"{target}: is there already. Choose another name, or use --force.")
    if layout.exists(home) and refs.get(home, name) is not None:
        raise UsageError(
            f"{name}: is the name of a checkpoint in the library. Choose another, or let it mean the new one "
            "with --force; the old one stays in its history."
        )


@contextmanager
def _place(home: Layout, name: str, target: Path | None) -> Iterator[Path]:
    """Yield the file to write: the user's, or one on the library's disk that is gone afterwards."""
    if target is not None:
        yield target
        return
    layout.create(home)
    runs = home.root / RUNS
    runs.mkdir(exist_ok=True)
    for left in runs.glob(f"{_WORK}*"):
        if time.time() - left.stat().st_mtime > _LEFT:
            shutil.rmtree(left, ignore_errors=True)
    folder = runs / f"{_WORK}{time.time_ns():x}"
    folder.mkdir()
    try:
        yield folder / f"{refs.default_name(name)}{_SUFFIX}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _metadata(
    home: Layout, found: Opened, opened: OpenSave, chosen: Weights, name: str
) -> dict[str, str]:
    """Return what the result says about itself; no folder of this machine is in it."""
    save, base = opened.save, _base(found.run.settings)
    source = places.known(home, save.path.absolute()) if layout.exists(home) else None
    if source is None or places.unchanged(home, save.path.absolute()) is None:
        source = digest(save.path)
    kind = "ema" if chosen.which != RAW else "finetune" if base else "checkpoint"
    made_from = [base] if base else []
    card: dict[str, Any] = {
        "title": name,
        "kind": kind,
        "parents": [source, *(one["sha256"] for one in made_from if one["sha256"])],
    }
    if made_from:
        card |= {"made_from": made_from, "license": made_from[0]["license"]}
        card["base_model"] = made_from[0]["name"]
    facts = {
        "version": VERSION,
        "memcard": __version__,
        "run": {"id": save.run, "name": save.name},
        "step": save.step,
        "weights": chosen.which,
        "save": source,
        "metrics": {key: to_json(value) for key, value in save.metrics.items()},
        "made_by": dict(save.made_by),
    }
    return {"format": "pt", "memcard.card": _text(card), KEY: _text(facts)}


def _base(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return name, SHA-256 and license of what a training began from, if it noted that; else {}."""
    base = settings.get("base")
    if not isinstance(base, Mapping) or not base.get("name"):
        return {}
    name, sha256 = str(base["name"]), str(base.get("sha256") or "")
    return {"name": name, "sha256": sha256, "license": _license(sha256 or name)}


def _license(ref: str) -> str:
    """Return what a checkpoint says of its license, if it is at hand."""
    try:
        opened = resolve(ref)
    except (MemcardError, OSError):
        return "unknown"
    metadata = opened.metadata
    opened.close()
    return str(card_of(metadata).get("license") or metadata.get("modelspec.license") or "unknown")


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
