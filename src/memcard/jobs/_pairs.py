"""Which tensor of one checkpoint is which of another: by name, behind prefixes, across dialects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import Specs
from memcard.core.views import Rearranged
from memcard.dialects import Side, Translation, translate
from memcard.errors import MismatchError
from memcard.jobs._blocks import strip


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two checkpoints, and what belongs together.

    Attributes:
        a: the one, perhaps seen under the names of another dialect.
        b: the other, likewise.
        names: tensors of ``a``, in its order, to those of ``b``.
        only_a: what has no counterpart, in file order.
        only_b: what has no counterpart, in file order.
        notes: how they were matched if not by equal names; one sentence each.
        file_a: names in the file of ``a`` where another dialect is seen.
        file_b: the same for ``b``.
    """

    a: Checkpoint
    b: Checkpoint
    names: Mapping[str, str]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    notes: tuple[str, ...] = ()
    file_a: Mapping[str, str] = field(default_factory=dict)
    file_b: Mapping[str, str] = field(default_factory=dict)


def pair(a: Checkpoint, b: Checkpoint) -> Pairing:
    """Match the tensors of two checkpoints; from headers alone.

    Equal names first, then names that are equal behind what a program puts in front of them. If that
    leaves more than half of the smaller checkpoint alone, a dialect's dictionary is tried. Nothing is
    matched by a guess: two candidates are none.
    """
    names, stripped = _match(a.specs, b.specs)
    notes = _prefix_note(stripped)
    if len(names) * 2 < min(len(a.specs), len(b.specs)):
        try:
            translated = _translated(a, b)
        except MismatchError as error:
            notes += (f"The names have little in common, and no dictionary helps: {error}",)
        else:
            if len(translated.names) > len(names):
                return translated
    return _pairing(a, b, names, notes)


def _pairing(
    a: Checkpoint, b: Checkpoint, names: Mapping[str, str], notes: tuple[str, ...]
) -> Pairing:
    there = frozenset(names.values())
    return Pairing(
        a,
        b,
        names,
        tuple(name for name in a.specs if name not in names),
        tuple(name for name in b.specs if name not in there),
        notes,
    )


def _match(a: Specs, b: Specs) -> tuple[dict[str, str], tuple[str, str] | None]:
    """Return matched names, and an example of two that differ in their prefix."""
    found = {name: name for name in a if name in b}
    left, right = ([name for name in specs if name not in found] for specs in (a, b))
    here, there = _by_bare_name(left, a), _by_bare_name(right, b)
    behind = {here[bare]: there[bare] for bare in here if bare in there}
    example = next(iter(behind.items()), None)
    both = found | behind
    return {name: both[name] for name in a if name in both}, example


def _by_bare_name(names: list[str], specs: Specs) -> dict[str, str]:
    """Return names by what stands behind their prefix, where only one tensor of the file has it."""
    counts = Counter(map(strip, specs))
    return {strip(name): name for name in names if counts[strip(name)] == 1}


def _prefix_note(example: tuple[str, str] | None) -> tuple[str, ...]:
    if example is None:
        return ()
    one, two = example
    return (f"Names differ in what stands before them: {one!r} is compared with {two!r}.",)


def _translated(a: Checkpoint, b: Checkpoint) -> Pairing:
    """See both in the dialect in which ``a`` keeps most of its names.

    Raises:
        MismatchError: no dictionary fits one of them.
    """
    sides: tuple[Side, Side] = ("ldm", "diffusers")
    seen = {side: translate(a.specs, side) for side in sides}
    side = max(sides, key=lambda side: _kept(a.specs, seen[side]))
    one, two = seen[side], translate(b.specs, side)
    left, right = Rearranged(a, one.arrangements), Rearranged(b, two.arrangements)
    names, _ = _match(left.specs, right.specs)
    found = _pairing(left, right, names, _dialect_notes(one, two))
    return replace(found, file_a=_in_file(one), file_b=_in_file(two))


def _in_file(translation: Translation) -> dict[str, str]:
    """Return what a tensor is called in the file; of rows that were joined, all their names."""
    return {
        name: " + ".join(dict.fromkeys(piece.name for piece in made.pieces))
        for name, made in translation.arrangements.items()
    }


def _kept(specs: Specs, translation: Translation) -> int:
    bare = {strip(name) for name in translation.arrangements}
    return sum(strip(name) in bare for name in specs)


def _dialect_notes(one: Translation, two: Translation) -> tuple[str, ...]:
    notes = [
        f"The names are of different dialects; tensors are matched by the dictionary of {one.family}."
    ]
    for label, found in (("A", one), ("B", two)):
        if found.left_out:
            few = ", ".join(found.left_out[:3]) + (", …" if len(found.left_out) > 3 else "")
            notes.append(
                f"{len(found.left_out)} tensors of {label} that are no weights are not compared: {few}."
            )
    return tuple(notes)
