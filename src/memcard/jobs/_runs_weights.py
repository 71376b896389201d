"""The weights in a save of a training: raw, or an average of them, under the model's own names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from memcard.core.tensors import Specs
from memcard.core.views import Arrangement, Piece, Rearranged
from memcard.errors import IntegrityError, MismatchError, UnsupportedError, UsageError
from memcard.training.saves import OpenSave, digest

RAW: Final = "raw"
_MODEL, _EMA = "model", "ema"
_WRAPPED: Final = "module."  # what torch's AveragedModel puts before the names
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Weights:
    """What a checkpoint is to consist of.

    Attributes:
        which: ``raw``, or the name of the average.
        tensors: name in the model to name in the save.
        notes: what a careful user should know.
    """

    which: str
    tensors: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def view(self, opened: OpenSave) -> Rearranged:
        """Return the save as a checkpoint of these weights alone."""
        specs = opened.file.specs
        found = {
            name: Arrangement(specs[own], (Piece(own, 0, specs[own].nbytes),))
            for name, own in self.tensors.items()
        }
        return Rearranged(opened.file, found)

    def check(self, opened: OpenSave) -> None:
        """Compare every byte of these tensors with its digest.

        Raises:
            IntegrityError: names the tensors that differ.
        """
        specs: Specs = opened.file.specs
        wrong = []
        for own in dict.fromkeys(self.tensors.values()):
            raw = opened.file.read(own) if specs[own].nbytes else memoryview(b"")
            if digest(raw) != opened.digests[own]:
                wrong.append(repr(own))
        if wrong:
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise IntegrityError(
                f"{opened.save.path}: {', '.join(wrong[:_SHOWN])}{more}: the bytes do not match their digest; "
                "the disk or a program changed them. Nothing was made; use another save of the run."
            )


@dataclass(slots=True)
class _Model:
    """The models of a save as one: names with the key of each model before them."""

    tensors: dict[str, str] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)  # entries that are no tensors


def weights_of(opened: OpenSave, average: str | None = None) -> Weights:
    """Return which tensors of a save are the weights.

    Args:
        opened: the save.
        average: None for the raw weights; the name of an average; "" for the only one there is.

    Raises:
        UnsupportedError: the save has no model, or averages of a kind that does not tell its names.
        UsageError: there is no such average, or several; lists them.
        MismatchError: the average is of another model.
    """
    model = _model(opened)
    if not model.tensors:
        raise UnsupportedError(
            f"{opened.save.path}: has no model: the Checkpointer was not given one. Pass model= to it."
        )
    notes = []
    if model.odd:
        notes.append(
            f"{len(model.odd)} entries of the model are no tensors and were left out, first {model.odd[0]!r}."
        )
    if average is None:
        return Weights(RAW, model.tensors, tuple(notes))
    found = averages_of(opened)
    which = _which(opened, found, average)
    own = found[which]
    if foreign := [name for name in own if name not in model.tensors]:
        raise MismatchError(
            f"{opened.save.path}: the average {which!r} has {len(foreign)} tensors that the model has not, first "
            f"{foreign[0]!r}. Only the raw weights can be taken from this save."
        )
    specs = opened.file.specs
    wide = [n for n, t in own.items() if specs[t].dtype != specs[model.tensors[n]].dtype]
    if wide:
        notes.append(
            f"The average is kept in {specs[own[wide[0]]].dtype.name}, the model in "
            f"{specs[model.tensors[wide[0]]].dtype.name}."
        )
    return Weights(which, {**model.tensors, **own}, tuple(notes))


def averages_of(opened: OpenSave) -> dict[str, dict[str, str]]:
    """Return the averages in a save: name to names of the model to names of the tensors.

    Raises:
        UnsupportedError: they do not tell which weight is which.
    """
    model, found = _model(opened), dict[str, dict[str, str]]()
    for key, state in _objects(opened, _EMA):
        start = f"{key}." if key in model.keys else ""
        if isinstance(averages := state.get("averages"), list):
            for name in map(str, averages):
                before = f"{name}."
                own = {
                    k.removeprefix(before): t for k, t in _tensors(state) if k.startswith(before)
                }
                found.setdefault(name, {}).update(_placed(own, start, model))
            continue
        own = {k.removeprefix(_WRAPPED): t for k, t in _tensors(state) if k != "n_averaged"}
        if not own:
            raise UnsupportedError(
                f"{opened.save.path}: its averages are a list without names, so it is not known which weight is "
                "which. Use memcard.EMA; or load the save into the training, and save the model from there."
            )
        found.setdefault(key or _EMA, {}).update(_placed(own, start, model))
    return found


def _placed(own: Mapping[str, str], start: str, model: _Model) -> dict[str, str]:
    """Return an average of one of several models under the names of all of them."""
    inside = start and all(start + name in model.tensors for name in own)
    return {(start + name if inside else name): tensor for name, tensor in own.items()}


def _which(opened: OpenSave, found: Mapping[str, Any], average: str) -> str:
    if not found:
        raise UsageError(
            f"{opened.save.path}: holds no average. The Checkpointer keeps one if it is given ema=; without "
            "--ema the raw weights are taken."
        )
    if average in found:
        return average
    if not average and len(found) == 1:
        return next(iter(found))
    what = f"there is no average {average!r}" if average else "there are several averages"
    raise UsageError(f"{opened.save.path}: {what}. Say which: --ema {', --ema '.join(found)}.")


def _model(opened: OpenSave) -> _Model:
    found = _Model()
    for key, state in _objects(opened, _MODEL):
        start = f"{key}." if key else ""
        tensors = dict(_tensors(state))
        found.tensors |= {start + name: own for name, own in tensors.items()}
        found.odd += [start + name for name in state if name not in tensors]
        found.keys.append(key)
    return found


def _objects(opened: OpenSave, section: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and state of the objects of a section; of a single object the key is empty."""
    for path, trees in opened.tree["objects"].items():
        head, _, key = str(path).partition(".")
        state = trees.get("state") if isinstance(trees, Mapping) else None
        if head == section and isinstance(state, Mapping):
            ordered = state.get("$ordered")
            yield key, dict(ordered["$dict"]) if isinstance(ordered, Mapping) else state


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in state.items():
        if isinstance(value, Mapping) and isinstance(own := value.get("$tensor"), str):
            yield str(name), own
