"""What a comparison will make: everything is looked at, and refused at once, before a picture is painted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from memcard.errors import DiskError, MemcardError, UsageError
from memcard.jobs._compare_axes import Axis, told_apart, worded, worded_lora
from memcard.jobs._compare_cells import Planned, Wish
from memcard.jobs._compare_sources import (
    Extra,
    Model,
    Named,
    extra,
    model,
    named_in,
    refuse_extras,
)
from memcard.jobs._compare_store import key_of

if TYPE_CHECKING:
    from memcard.generation.settings import Settings

A = TypeVar("A")
B = TypeVar("B")
# Of a model and a place on the axes of the settings: what they come to, or why they do not.
Choices: TypeAlias = Mapping[tuple[int, ...], "tuple[Settings | None, MemcardError | None]"]


class _Faults:
    """Faults in the order they were found, each once."""

    def __init__(self) -> None:
        self._found: dict[str, MemcardError] = {}

    def add(self, error: MemcardError) -> None:
        if isinstance(error, DiskError):
            raise error
        self._found.setdefault(str(error), error)

    def refuse(self) -> None:
        """Raise what was found: the first one's class, the words of all."""
        if len(self._found) > 1:
            first = next(iter(self._found.values()))
            text = "".join(f"\n  {fault}" for fault in self._found)
            raise type(first)(f"{len(self._found)} faults; no picture was made.{text}")
        for error in self._found.values():
            raise error


@dataclass(slots=True)
class _Files:
    """What the user named, opened; files that cannot be are left out, their faults kept."""

    models: list[Model] = field(default_factory=list)
    loras: list[Extra] = field(default_factory=list)
    vaes: list[Extra | None] = field(default_factory=list)
    others: list[Extra] = field(default_factory=list)  # text encoders and embeddings
    named: dict[str, tuple[Named, ...]] = field(default_factory=dict)  # LoRAs, by prompt


def plan_cells(wish: Wish) -> tuple[tuple[Axis, ...], tuple[Planned, ...]]:
    """Open the headers of all files, choose all settings, and say what cannot be.

    A value that no cell can have is refused. One that is impossible with some other values leaves holes.

    Raises:
        MemcardError: everything that is wrong at once, with the class of the first fault.
    """
    faults = _Faults()
    _check_plain(wish, faults)
    files = _opened(wish, faults)
    choices = _choices(files.models, wish.settings)
    for error in _dead(files.models, wish.settings, choices):
        faults.add(error)
    faults.refuse()
    axes = _axes(wish, files)
    return axes, tuple(_cells(wish, axes, files, choices))


def _opened(wish: Wish, faults: _Faults) -> _Files:
    files = _Files()
    files.models = _each(lambda ref: model(ref, wish.text_encoders), wish.checkpoints, faults)
    files.loras = _each(lambda ref: extra(ref, lora=True), [ref for ref, _ in wish.loras], faults)
    files.vaes = _each(lambda ref: None if ref is None else extra(ref), wish.vaes, faults)
    files.others = _each(extra, (*wish.text_encoders, *wish.embeddings), faults)
    for prompt in wish.prompts:
        files.named.update(_each(lambda text: (text, named_in(text)), [prompt], faults))
    stack = [*files.loras, *(one.lora for named in files.named.values() for one in named)]
    for found in files.models:
        for error in refuse_extras(found, stack, [v for v in files.vaes if v]):
            faults.add(error)
    return files


def _each(opener: Callable[[A], B], refs: Sequence[A], faults: _Faults) -> list[B]:
    found = []
    for ref in refs:
        try:
            found.append(opener(ref))
        except MemcardError as error:
            faults.add(error)
    return found


def _check_plain(wish: Wish, faults: _Faults) -> None:
    """Look at what needs no file."""
    from memcard.generation.load import PRECISIONS, device_named
    from memcard.generation.settings import NAMES, check_seed

    known = (*(n for n in NAMES if n not in ("width", "height")), "size")
    if unknown := sorted(set(wish.settings) - {*NAMES, "size"}):
        faults.add(UsageError(f"no setting {', '.join(unknown)}. There are: {', '.join(known)}."))
    _each(check_seed, wish.seeds, faults)
    _each(device_named, [wish.device], faults)
    if wish.dtype not in ("auto", *PRECISIONS):
        names = ", ".join(("auto", *PRECISIONS))
        faults.add(UsageError(f"no dtype {wish.dtype!r} to compute in. There are: {names}."))
    if not wish.prompts or not all(prompt.strip() for prompt in wish.prompts):
        faults.add(UsageError("the prompt is empty; say what to paint."))


def _choices(models: Sequence[Model], settings: Mapping[str, tuple[Any, ...]]) -> Choices:
    found = {}
    for place in product(range(len(models)), *(range(len(v)) for v in settings.values())):
        pairs = zip(settings.items(), place[1:], strict=True)
        user = _spread({name: values[i] for (name, values), i in pairs})
        found[place] = _chosen(models[place[0]], user)
    return found


def _chosen(found: Model, user: Mapping[str, Any]) -> tuple[Settings | None, MemcardError | None]:
    try:
        settings = found.settings(user)
    except MemcardError as error:
        return None, error
    except (TypeError, ValueError, AttributeError):
        shown = ", ".join(f"{name} {value!r}" for name, value in user.items())
        return None, UsageError(f"{shown}: is of a wrong type.")
    if settings.frames > 1:
        return None, UsageError(
            f"frames {settings.frames}: a comparison has pictures, not clips. Say frames=1."
        )
    return settings, None


def _dead(
    models: Sequence[Model], settings: Mapping[str, tuple[Any, ...]], choices: Choices
) -> Iterator[MemcardError]:
    """Tell of the models and values that no cell can have; each value by itself, if that tells why."""
    alive = [place for place, (found, _) in choices.items() if found is not None]
    dead = [
        (axis, i)
        for axis, values in enumerate((models, *settings.values()))
        for i in range(len(values))
        if all(place[axis] != i for place in alive)
    ]
    names = list(settings)
    alone = [
        error
        for axis, i in dead
        if axis and models
        for _, error in [
            _chosen(models[0], _spread({names[axis - 1]: settings[names[axis - 1]][i]}))
        ]
        if error
    ]
    if alone:
        yield from alone
        return
    for axis, i in dead:
        yield from (e for place, (_, e) in choices.items() if place[axis] == i and e is not None)


def _spread(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as ``generate`` has them: a size is two of them."""
    found = {n: value for n, value in settings.items() if n != "size" and value is not None}
    if settings.get("size") is not None:
        found["width"], found["height"] = settings["size"]
    return found


def _axes(wish: Wish, files: _Files) -> tuple[Axis, ...]:
    several = len(files.loras) > 1
    names = told_apart([m.label for m in files.models], [m.sha256[:8] for m in files.models])
    found = [Axis("checkpoint", tuple(files.models), names)]
    for one, (_, strengths) in zip(files.loras, wish.loras, strict=True):
        labels = tuple(worded_lora(one.short, s, alone=not several) for s in strengths)
        found.append(Axis(f"lora {one.short}" if several else "lora", strengths, labels))
    shown = told_apart(
        [v.label if v else worded("vae", None) for v in files.vaes],
        [v.sha256[:8] if v else "" for v in files.vaes],
    )
    found.append(Axis("vae", tuple(files.vaes), shown))
    for name, values in (("prompt", wish.prompts), *wish.settings.items(), ("seed", wish.seeds)):
        found.append(Axis(name, values, tuple(worded(name, value) for value in values)))
    return tuple(found)


def _cells(wish: Wish, axes: Sequence[Axis], files: _Files, choices: Choices) -> Iterator[Planned]:
    start = 1 + len(
        files.loras
    )  # of the axes behind checkpoint and LoRAs: VAE, prompt, settings, seed
    others = tuple(one.sha256 for one in files.others)
    for at in product(*(range(len(axis.values)) for axis in axes)):
        values = [axis.values[i] for axis, i in zip(axes, at, strict=True)]
        settings, error = choices[(at[0], *at[start + 2 : -1])]
        cell = Planned(
            at,
            values[0],
            tuple((e, s) for e, s in zip(files.loras, values[1:start], strict=True) if s),
            values[start],
            values[start + 1],
            files.named[values[start + 1]],
            values[-1],
            _spread(dict(zip(wish.settings, values[start + 2 : -1], strict=True))),
            settings,
            why_not=str(error or ""),
        )
        key = "" if settings is None else key_of(cell, wish.device, wish.dtype, others)
        yield replace(cell, key=key)
