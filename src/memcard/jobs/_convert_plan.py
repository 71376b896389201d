"""What a conversion will do, before a byte of it is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memcard.core.checkpoint import Checkpoint
from memcard.core.views import Part
from memcard.errors import MismatchError, UsageError
from memcard.jobs._components import Choice, choice, select
from memcard.jobs._configs import FOLDER, still_true


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for, read and checked; false if only another container is."""

    dtype: str | None
    parts: Choice
    dialect: str | None
    folder: bool

    @property
    def about_parts(self) -> bool:
        """Whether it matters which component a tensor is of."""
        return bool(self.parts or self.dialect or self.folder)

    def __bool__(self) -> bool:
        return bool(self.dtype or self.parts or self.dialect)


@dataclass(frozen=True, slots=True)
class Plan:
    """The result before a byte of it is there.

    Attributes:
        wishes: what was asked for.
        opened: the source.
        trained: the source without its training state.
        result: what is to be written.
        metadata: of the result; configs of a diffusers folder among it.
        files: side files of a diffusers folder, by their path in it.
        sources: name in the result to names in the source.
        rearranged: number of tensors put together from parts.
        lossy: ``jobs._lossy.Lossy``, which needs numpy; None without a dtype.
        notes: what a careful user should know.
    """

    wishes: Wishes
    opened: Checkpoint
    trained: Checkpoint
    result: Checkpoint
    metadata: Mapping[str, str]
    files: Mapping[str, Path | bytes]
    sources: Mapping[str, tuple[str, ...]]
    rearranged: int
    lossy: Any
    notes: tuple[str, ...]


def wishes_of(
    dtype: str | None,
    only: str | Iterable[str] | None,
    without: str | Iterable[str] | None,
    dialect: str | None,
    *,
    folder: bool,
) -> Wishes:
    """Read what a user asked for.

    Raises:
        UsageError: a word is none of those that can stand there, or the wishes contradict.
    """
    if dtype is not None:
        from memcard.jobs._lossy import dtype_named

        dtype_named(dtype)
    if dialect is not None:
        from memcard.jobs._translate import side

        dialect = side(dialect)
    if folder and dialect == "ldm":
        raise UsageError(
            "a diffusers folder has diffusers' names. Leave --dialect ldm out, or end the target in "
            ".safetensors."
        )
    return Wishes(dtype, choice(only, without), dialect, folder)


def plan_of(opened: Checkpoint, wishes: Wishes, *, allow_overflow: bool) -> Plan:
    """Plan a conversion from headers alone.

    Raises:
        MismatchError: the source has no such part, no dictionary knows its names, or it holds
            packed weights that cannot be written or cast.
    """
    from memcard.jobs._lossy import Lossy, dtype_named, refuse_packed

    trained = _without_training(opened)
    refuse_packed(trained, dtype=wishes.dtype)
    current = select(trained, wishes.parts)
    gone = _heads(trained) - _heads(current)
    lossy = None if wishes.dtype is None else Lossy(dtype_named(wishes.dtype), allow_overflow)
    if lossy is not None:
        current = lossy.unpacked(current)
    names = _sources(current)
    files: dict[str, Path | bytes] = dict(getattr(opened, "files", {})) if wishes.folder else {}
    metadata, notes, rearranged = dict(opened.metadata), (), 0
    if wishes.dialect or wishes.folder:
        found = _translated(current, wishes)
        current = found.checkpoint
        names = _sources(current)
        rearranged = sum(len(pieces) > 1 for pieces in names.values())
        metadata = {
            **{FOLDER + k: v for k, v in found.configs.items()},
            **found.metadata,
            **metadata,
        }
        files |= _missing(found.files, files)
        notes = found.notes
    if lossy is not None:
        current = lossy.cast(current)
    if wishes:
        metadata = still_true(metadata, gone, lossy.dtype.name if lossy else None)
    return Plan(wishes, opened, trained, current, metadata, files, names, rearranged, lossy, notes)


def _heads(checkpoint: Checkpoint) -> set[str]:
    return {name.partition(".")[0] for name in checkpoint.specs}


def _missing(
    made: Mapping[str, bytes], there: Mapping[str, Path | bytes]
) -> dict[str, Path | bytes]:
    """Return the files of those folders of which the source has none."""
    folders = {path.partition("/")[0] for path in there}
    return {path: text for path, text in made.items() if path.partition("/")[0] not in folders}


def _translated(current: Checkpoint, wishes: Wishes) -> Any:
    from memcard.jobs._translate import refuse_without_dictionary, side, translated

    to = side(wishes.dialect or "diffusers")
    if wishes.folder and not wishes.dialect and f"{FOLDER}model_index.json" in current.metadata:
        return _as_it_is(current)  # a folder of any family has diffusers' names already
    try:
        return translated(current, to, folder=wishes.folder)
    except MismatchError as error:
        raise (refuse_without_dictionary(error) if not wishes.dialect else error) from None


def _as_it_is(current: Checkpoint) -> Any:
    from memcard.jobs._translate import Translated

    return Translated(current, {}, {}, {}, ())


def _sources(current: Checkpoint) -> dict[str, tuple[str, ...]]:
    arrangements = getattr(current, "arrangements", None)
    if arrangements is None:
        return {name: (name,) for name in current.specs}
    return {name: tuple(p.name for p in a.pieces) for name, a in arrangements.items()}


def _without_training(checkpoint: Checkpoint) -> Checkpoint:
    training = frozenset(getattr(checkpoint, "training_state", ()))
    if not training:
        return checkpoint
    return Part(checkpoint, (name for name in checkpoint.specs if name not in training))
