"""Which parts of a checkpoint the user wants: components by name, and EMA or raw weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from memcard.core.checkpoint import Checkpoint
from memcard.core.views import Part
from memcard.errors import MismatchError, UsageError
from memcard.ops import OPS
from memcard.recipes.execute import RecipeCheckpoint
from memcard.recipes.nodes import Params
from memcard.recipes.op import complete

COMPONENTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3",
              "text_encoders", "image_encoder", "controlnet")  # fmt: skip
EMA, NO_EMA = "ema", "no-ema"
_TEXT = "text_encoder"
_DENOISERS = ("unet", "transformer")
# What ``architectures.components`` calls tensors that are no component.
_BESIDE = ("other", "rest", "ema", "training")


@dataclass(frozen=True, slots=True)
class Choice:
    """What to keep.

    Attributes:
        only: components; empty for all.
        without: components to leave out.
        weights: ``ema`` to put the EMA weights in place of the raw ones, ``raw`` to drop them, ""
            to leave both as they are.
    """

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    weights: str = ""

    def __bool__(self) -> bool:
        return bool(self.only or self.without or self.weights)


def choice(only: str | Iterable[str] | None, without: str | Iterable[str] | None) -> Choice:
    """Read what a user asked for: names, several in one text with commas.

    Raises:
        UsageError: a name is none, or the wishes contradict each other; all faults at once.
    """
    keep, drop = _names(only), _names(without)
    faults = [f"{n!r} is no part" for n in (*keep, *drop) if n not in (*COMPONENTS, EMA, NO_EMA)]
    faults += [f"{name!r} is both wanted and not" for name in keep if name in drop]
    if NO_EMA in drop:
        faults.append("to be without no-ema: say ema where you want the EMA weights")
    ema, raw = EMA in keep, NO_EMA in keep or EMA in drop
    if ema and raw:
        faults.append("the EMA weights are both wanted and not")
    if faults:
        there = ", ".join((*COMPONENTS, EMA, NO_EMA))
        raise UsageError(f"{'; '.join(faults)}. It can be: {there}.")
    return Choice(
        tuple(name for name in keep if name not in (EMA, NO_EMA)),
        tuple(name for name in drop if name != EMA),
        "ema" if ema else "raw" if raw else "",
    )


def select(checkpoint: Checkpoint, wanted: Choice) -> Checkpoint:
    """Return the parts of ``checkpoint`` that are wanted; no bit changes.

    Raises:
        MismatchError: it has no such part, or nobody can tell which tensors are it.
    """
    if wanted.weights:
        checkpoint = apply("pick_ema", checkpoint, {"which": wanted.weights})
    if not wanted.only and not wanted.without:
        return checkpoint
    part_of = parts_of(checkpoint)
    there = tuple(dict.fromkeys(p for p in part_of.values() if p not in _BESIDE))
    _refuse_missing(wanted, there, checkpoint)
    keep = _kept(wanted, there)
    names = [n for n in checkpoint.specs if _stays(n, part_of[n], keep, wanted)]
    if not names:
        raise MismatchError("nothing would be left of the checkpoint. Leave less out.")
    return Part(checkpoint, names)


def parts_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the component of every tensor; ``rest`` if nobody knows it."""
    from memcard.architectures import components
    from memcard.dialects import components as translated

    found = dict(components(checkpoint.specs, checkpoint.metadata))
    unknown = [name for name in checkpoint.specs if found.get(name, "rest") == "rest"]
    if unknown:  # of no known family, but perhaps under names that a dictionary has
        known = translated(checkpoint.specs)
        found |= {name: known.get(name, "rest") for name in unknown}
    return found


def apply(op: str, checkpoint: Checkpoint, params: Mapping[str, str]) -> RecipeCheckpoint:
    """Return the result of one operation on a checkpoint, not yet computed."""
    operation = OPS[op]
    return RecipeCheckpoint(
        operation,
        (checkpoint,),
        complete(op, operation, Params(params)),
        checkpoint.metadata,
    )


def _names(given: str | Iterable[str] | None) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else list(given or ())
    names = [name.strip().lower() for text in texts for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def _meant(names: Iterable[str], there: Collection[str]) -> set[str]:
    found: set[str] = set()
    for name in names:
        if name == "text_encoders":
            found.update(part for part in there if part.startswith(_TEXT))
        else:
            found.add(name)
    return found


def _kept(wanted: Choice, there: Collection[str]) -> set[str]:
    keep = _meant(wanted.only, there) if wanted.only else set(there)
    return keep - _meant(wanted.without, there)


def _stays(name: str, part: str, keep: Collection[str], wanted: Choice) -> bool:
    if part == "ema" and wanted.only:
        return False  # copies of weights nobody asked for
    if part not in _BESIDE:
        return part in keep
    # Markers such as v_pred have no dot in their names; without them the denoiser is misread.
    marker = part == "other" and "." not in name and any(d in keep for d in _DENOISERS)
    return marker or not wanted.only


def _refuse_missing(wanted: Choice, there: Collection[str], checkpoint: Checkpoint) -> None:
    named = [n for n in (*wanted.only, *wanted.without) if not _meant([n], there) & set(there)]
    if not named:
        return
    what = ", ".join(there)
    if not there:
        raise MismatchError(
            f"cannot tell which tensors are the {named[0]}: the checkpoint is of no family known "
            f"here ({len(checkpoint.specs)} tensors). Convert it whole, without --only and --without."
        )
    raise MismatchError(f"the checkpoint holds no {', no '.join(named)}. It holds: {what}.")
