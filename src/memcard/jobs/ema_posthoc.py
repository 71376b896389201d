"""An EMA of any width after the training, from the snapshots that lie in its folder.

It finds them, makes sure that they are of one training and reach to the step that is wanted, and leaves the
arithmetic to ``ema_combine``. A sum that lacks its last snapshot is off by 1 to 10 % of what the average
smooths away, where a whole one is off by 0.1 % or less; so that is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from memcard.core.progress import Listener, silent
from memcard.errors import MemcardError, MismatchError, NotFoundError, UsageError
from memcard.jobs._making import Made
from memcard.jobs.add import add
from memcard.jobs.ema import Snapshot, ema_combine, stated
from memcard.store import refs
from memcard.store.layout import Layout, default_home, exists

_SUFFIX = ".safetensors"
_FOLDER = "ema"  # of a run, where its snapshots lie
_SHOWN = 4


def ema_posthoc(
    sources: Sequence[str | Path],
    *,
    sigma_rel: float,
    out: str | Path,
    at: float | None = None,
    dtype: str = "widest",
    overwrite: bool = False,
    dry_run: bool = False,
    digests: bool = True,
    threads: int | None = None,
    library: str | Path | None = None,
    progress: Listener = silent,
) -> Made:
    """Write the average of width ``sigma_rel`` that ends at step ``at``, with its recipe.

    Reads every snapshot up to that step once, a few tensors at a time.

    Args:
        sources: folders of a run (its ``ema`` folder is looked into too), or the snapshots.
        sigma_rel: width as a share of the training, 0.0001 to 0.2886.
        out: file to write; the suffix names the format. A name alone means NAME.safetensors here, which the
            library then knows by that name.
        at: a step of which there are snapshots; None: the last one.
        dtype: of the result: ``widest`` for that of the snapshots, ``F32``, ``F16``, ``BF16``.
        overwrite: replace a file that is there.
        dry_run: return the plan and write nothing.
        digests: record the SHA-256 of the snapshots in the recipe.
        threads: None for as many as there are processors, at most 4.
        library: its folder; None: ``$MEMCARD_HOME`` or the platform's.
        progress: hears how far it is.

    Raises:
        MismatchError: the snapshots are of several trainings, of several models, or that of the last step
            is missing.
        NotFoundError: there are no snapshots.
        UsageError: the width is out of its range, or a file does not say its step or width.
    """
    home = Layout(Path(library).expanduser() if library else default_home())
    target, name = _target(out, home, overwrite=overwrite)
    found = [stated(ref) for ref in _files(sources)]
    _check_known(found)
    _check_one_run(found)
    end = _end(found, at)
    used = [s for s in found if (s.step or 0) <= end]
    # The last one first: counters and other whole numbers are taken from it.
    used.sort(key=lambda s: (-(s.step or 0), s.sigma_rel or 0))
    made = ema_combine(
        [s.ref for s in used],
        out=target,
        sigma_rel=sigma_rel,
        at=end,
        dtype=dtype,
        overwrite=overwrite,
        dry_run=dry_run,
        digests=digests,
        threads=threads,
        progress=progress,
    )
    if name and made.written:
        add(home, [target], name=name, update=overwrite)
        made = replace(made, notes=(*made.notes, f"The library knows it as {name}."))
    return made


def _target(out: str | Path, home: Layout, *, overwrite: bool) -> tuple[Path, str]:
    """Return the file to write, and its name in the library; "" where a file was named.

    Raises:
        UsageError: the name is no possible one, or means another checkpoint.
    """
    path = Path(out).expanduser()
    if path.name != str(out) or not (path.suffix[1:] or "0").isdecimal():  # fox-v1.5 is a name
        return path, ""
    name = refs.check_name(str(out))
    if not overwrite and exists(home) and refs.get(home, name) is not None:
        raise UsageError(
            f"{name}: is the name of a checkpoint in the library. Choose another, or let it mean the new one "
            "with --force; the old one stays in its history."
        )
    return path.with_name(f"{name}{_SUFFIX}"), name


def _files(sources: Sequence[str | Path]) -> list[str | Path]:
    """Return the snapshots in folders, and what else was named."""
    found: list[str | Path] = []
    for source in sources:
        folder = Path(source).expanduser()
        if not folder.is_dir():
            found.append(source)
            continue
        inside = list(_snapshots_in(folder))
        if not inside:
            raise NotFoundError(
                f"{folder}: no snapshots of averages in it or in its folder {_FOLDER!r}. A training keeps "
                "them with memcard.training.post_hoc.Snapshots; other files can be named one by one."
            )
        found += inside
    return found


def _snapshots_in(folder: Path) -> Iterator[Path]:
    for place in (folder, folder / _FOLDER):
        for path in sorted(place.glob(f"*{_SUFFIX}")):
            try:
                snapshot = stated(path)
            except MemcardError:
                continue  # something else that lies there
            if snapshot.step is not None and snapshot.sigma_rel is not None:
                yield path


def _check_known(found: Sequence[Snapshot]) -> None:
    odd = [str(s.ref) for s in found if s.step is None or s.sigma_rel is None]
    if odd:
        raise UsageError(
            f"{_few(odd)}: does not say of which step and width it is. "
            "Name them: memcard ema combine --steps … --snapshot-sigmas …."
        )


def _check_one_run(found: Sequence[Snapshot]) -> None:
    runs: dict[str | None, list[str]] = {}
    for snapshot in found:
        runs.setdefault(snapshot.run, []).append(Path(snapshot.ref).name)
    if len(runs) > 1:
        told = "; ".join(f"{run or 'not said'}: {_few(names)}" for run, names in runs.items())
        raise MismatchError(
            f"the snapshots are of {len(runs)} trainings ({told}). Name those of one training."
        )


def _end(found: Sequence[Snapshot], at: float | None) -> float:
    """Return the step the average ends at; all widths must be there."""
    steps = sorted({s.step or 0 for s in found})
    end = steps[-1] if at is None else float(at)
    widths = {s.sigma_rel or 0 for s in found}
    there = {s.sigma_rel or 0 for s in found if s.step == end}
    if there == widths:
        return end
    lacking = ", ".join(f"{w:g}" for w in sorted(widths - there))
    whole = [step for step in steps if {s.sigma_rel for s in found if s.step == step} >= widths]
    near = sorted(whole, key=lambda step: abs(step - end))[:2]
    remedy = (
        f"Take a step that has them all (at={' or '.join(f'{s:g}' for s in near)})."
        if near
        else "No step has all widths; name the files of one width only."
    )
    raise MismatchError(
        f"of step {end:g} there is no snapshot of sigma_rel {lacking}. Without the last one the sum is no "
        f"average. {remedy}"
    )


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
