"""Averages of snapshots after the training: of any length (post-hoc EMA), or of the last few."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memcard.core.progress import Listener, silent
from memcard.errors import UsageError
from memcard.jobs._making import Made, make
from memcard.jobs.resolve import locate, node_for, resolve
from memcard.ops import OPS
from memcard.recipes.nodes import Apply, Params
from memcard.recipes.op import complete

_OP = "weighted_average"
_STEP, _SIGMA = ("memcard.ema.step", "ss_steps"), "memcard.ema.sigma_rel"
_RUN = "memcard.ema.run"
# EDM2 and ema-pytorch name snapshots like phema-0002048-0.100.pt.
_NAMED = re.compile(r"-(?P<step>\d{4,})(?:-(?P<sigma>0\.\d+))?(?=\.|$)")
_GOOD = 0.02  # a fit worse than this is told; measured errors of weights are of that order
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One average of a training, as its file or the file's name says.

    Attributes:
        ref: what the user calls it.
        step: of the training; None if that is not known.
        sigma_rel: width, as a share of the training so far; None if that is not known.
        run: hex name of the training; None if the file does not say.
    """

    ref: str | Path
    step: float | None
    sigma_rel: float | None
    run: str | None = None


def ema_combine(
    snapshots: Sequence[str | Path],
    *,
    out: str | Path,
    sigma_rel: float | None = None,
    at: float | None = None,
    last: int | None = None,
    steps: Sequence[float] | None = None,
    snapshot_sigmas: Sequence[float] | None = None,
    dtype: str = "widest",
    overwrite: bool = False,
    dry_run: bool = False,
    digests: bool = True,
    threads: int | None = None,
    progress: Listener = silent,
) -> Made:
    """Write an average of snapshots as a weighted sum, with its recipe.

    Args:
        snapshots: checkpoints of one training. For ``sigma_rel`` each is a power-function EMA.
        out: file to write; the suffix names the format.
        sigma_rel: width of the EMA that is wanted, as a share of the training, 0.0001 to 0.2886.
        at: the step it ends at; None: the last snapshot's.
        last: instead of ``sigma_rel``: the plain mean of this many snapshots, the latest ones.
        steps: one per snapshot; None: as the files or their names say.
        snapshot_sigmas: the widths of the snapshots, one each or one for all; None: as the files or
            their names (``…-0002048-0.100``) say.
        dtype: of the result: ``widest`` for that of the snapshots, ``F32``, ``F16``, ``BF16``.
        overwrite: replace a file that is there.
        dry_run: return the plan and write nothing.
        digests: record the SHA-256 of the snapshots in the recipe.
        threads: None for as many as there are processors, at most 4.
        progress: hears how far it is.

    Raises:
        MismatchError: the snapshots do not fit together.
        UsageError: neither or both of ``sigma_rel`` and ``last``; or a step or width is not known.
    """
    if (sigma_rel is None) == (last is None):
        raise UsageError(
            "Say either which width is wanted (sigma_rel), or how many (last) to average."
        )
    found = _described(snapshots, steps, snapshot_sigmas)
    weights: tuple[float, ...] = ()
    if last is not None:
        chosen, note = _latest(found, last), ""
    else:
        chosen, weights, note = _fitted(found, float(sigma_rel or 0), at)
    given = {"weights": weights, "normalize": not weights, "dtype": dtype}
    params = complete(_OP, OPS[_OP], Params(given))
    nodes = [node_for(s.ref, digests=digests and not dry_run, progress=progress) for s in chosen]
    made = make(
        *(Apply(_OP, tuple(nodes), params), out),
        overwrite=overwrite,
        dry_run=dry_run,
        threads=threads,
        nonfinite="refuse",
        progress=progress,
    )
    return replace(made, notes=(*made.notes, note)) if note else made


def _described(
    refs: Sequence[str | Path],
    steps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
) -> list[Snapshot]:
    for what, given in (("steps", steps), ("snapshot_sigmas", sigmas)):
        if given is not None and len(given) not in {len(refs), 1 if given is sigmas else len(refs)}:
            raise UsageError(
                f"{what}: {len(given)} given for {len(refs)} snapshots; give one for each."
            )
    found = []
    for i, ref in enumerate(refs):
        snapshot = stated(ref)
        if steps is not None:
            snapshot = replace(snapshot, step=float(steps[i]))
        if sigmas is not None:
            sigma = float(sigmas[i if len(sigmas) > 1 else 0])
            snapshot = replace(snapshot, sigma_rel=sigma)
        found.append(snapshot)
    return found


def stated(ref: str | Path) -> Snapshot:
    """Return what a file says about itself, or else its name."""
    checkpoint = resolve(ref)
    metadata = checkpoint.metadata
    checkpoint.close()
    named = _NAMED.search(locate(ref).name)
    step = next((metadata[key] for key in _STEP if key in metadata), named and named["step"])
    sigma = metadata.get(_SIGMA, named and named["sigma"])
    return Snapshot(ref, _number(step), _number(sigma), metadata.get(_RUN))


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _latest(found: Sequence[Snapshot], last: int) -> list[Snapshot]:
    """Return the snapshots of the highest steps; where steps are not known, the last ones named."""
    if not _FEWEST <= last <= len(found):
        raise UsageError(
            f"last is {last}; it goes from {_FEWEST} to {len(found)}, the number of snapshots."
        )
    if all(s.step is not None for s in found):
        found = sorted(found, key=lambda s: s.step or 0)
    return list(found[-last:])


def _fitted(
    found: Sequence[Snapshot], sigma_rel: float, at: float | None
) -> tuple[list[Snapshot], tuple[float, ...], str]:
    """Return the snapshots to use, their weights, and what to say about the fit."""
    from memcard.maths.ema import Profile, gamma_of, synthesize

    gamma_of(sigma_rel)  # refuses a width out of range before anything else is asked for
    faults = [f"{s.ref}: its step is not known (--steps)" for s in found if s.step is None]
    faults += [
        f"{s.ref}: its width is not known (--snapshot-sigmas)" for s in found if s.sigma_rel is None
    ]
    if faults:
        raise UsageError("; ".join(faults) + ".")
    end = max(s.step or 0 for s in found) if at is None else float(at)
    used = [s for s in found if (s.step or 0) <= end]
    if not used:
        raise UsageError(f"at is {end:g}, before the first snapshot. Give a later step.")
    profiles = [Profile(s.step or 0, s.sigma_rel or 0) for s in used]
    weights, error = synthesize(profiles, Profile(end, sigma_rel))
    note = (
        f"The fit to the profile of sigma_rel {sigma_rel:g} at step {end:g} is off by {error:.2%}."
    )
    if error > _GOOD:
        note += " More snapshots, two widths of each, or a step where one was taken make it better."
    return used, weights, note
