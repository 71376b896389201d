"""The license of what is made of several things: ``combine`` the licenses of all of them.

The rules, in this order. They are a reading aid, not legal advice; ``docs/license.md`` argues for each.

1. Every question gets the strictest answer of all parents: yes < yes, if < unknown < no. So unknown never
   becomes yes, and one no is enough.
2. To pass a derived checkpoint on is to share a derivative of each of its parents: for those, the answer on
   merges counts where the question is about sharing or selling the file.
3. Duties add up.
4. A share-alike license wants the whole under itself (or one it names); terms that must be carried along and
   do not fit into that license, and a second share-alike license, conflict with it. Then the derivative
   cannot be shared at all, and every parent in the conflict is named.
5. What a checkpoint says of itself can only make the answers stricter. Where it promises more than a parent
   allows, that is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal, TypeAlias

from memcard.core.license import STRICTNESS, USES, Answer, Duty, License, Parent, Term, Use
from memcard.errors import LicenseError, UsageError

UNKNOWN: Final = "unknown"
NO_LICENSE: Final = "conflicting"
_SHARED: Final[tuple[Use, ...]] = ("share", "merge", "sell")
ConflictKind: TypeAlias = Literal["share-alike", "flags", "promise"]


@dataclass(frozen=True, slots=True)
class Reason:
    """What one parent says to one question."""

    parent: str
    license: str
    answer: Answer
    why: str
    where: str
    source: str


@dataclass(frozen=True, slots=True)
class Ruling:
    """The answer to one question, with what each parent says to it, the strictest first."""

    use: Use
    answer: Answer
    reasons: tuple[Reason, ...]

    @property
    def deciding(self) -> tuple[Reason, ...]:
        """The reasons that make the answer what it is."""
        return tuple(reason for reason in self.reasons if reason.answer == self.answer)


@dataclass(frozen=True, slots=True)
class Owed:
    """A duty, and the parents that ask for it."""

    duty: Duty
    license: str
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Parents whose licenses do not go together.

    ``share-alike`` and ``flags`` forbid sharing; ``promise`` is a checkpoint that says it allows more than
    what it was made from.
    """

    kind: ConflictKind
    parents: tuple[str, ...]
    says: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be done with a checkpoint.

    Attributes:
        license: ids of the licenses that govern it, joined by `` AND `` as in SPDX; ``unknown`` if any is, and
            ``conflicting`` if there is none it could be shared under.
        rulings: an answer to each question.
        duties: what is asked in return, each once.
        conflicts: what does not go together.
        parents: all that were combined, sorted, each once.
    """

    license: str
    rulings: Mapping[Use, Ruling]
    duties: tuple[Owed, ...]
    conflicts: tuple[Conflict, ...]
    parents: tuple[Parent, ...]

    def answer(self, use: Use) -> Answer:
        """Return the answer to one question."""
        return self.rulings[use].answer

    def require(self, use: Use) -> None:
        """Do nothing if the answer is yes or yes, if.

        Raises:
            LicenseError: it is no or unknown; says why and by whom.
        """
        ruling = self.rulings[use]
        if ruling.answer in ("yes", "if"):
            return
        told = " ".join(f"{r.parent} ({r.license}): {r.why}" for r in ruling.deciding)
        raise LicenseError(
            f"May you {USES[use]}? {ruling.answer.capitalize()}. {told} Ask the authors, or leave these out."
        )


def combine(parents: Sequence[Parent]) -> Verdict:
    """Return what may be done with a checkpoint, from all that has a say in it.

    The order of the parents does not matter, and naming one twice changes nothing. One more parent never
    makes an answer looser.

    Args:
        parents: a checkpoint as it was published is one parent with the role ``itself``; of a merge, a bake or
            a fine-tune, all inputs (``model``), what it was trained on (``data``), and what its author says
            of it (``itself``), if anything.

    Raises:
        UsageError: there are none. Say ``unknown`` (the license of that id) if nothing is known.
    """
    if not parents:
        raise UsageError("a license is combined from at least one parent; give it as 'unknown'.")
    ordered = tuple({_key(p): p for p in sorted(parents, key=_key)}.values())
    conflicts = (*_share_alike(ordered), *_flags(ordered))
    rulings = {use: _rule(use, ordered, conflicts) for use in USES}
    return Verdict(
        _governing(ordered, conflicts),
        rulings,
        _owed(ordered),
        (*conflicts, *_promises(ordered)),
        ordered,
    )


def strictest(answers: Sequence[Answer]) -> Answer:
    """Return the strictest of at least one answer."""
    return max(answers, key=STRICTNESS.index)


def _key(parent: Parent) -> tuple[str, ...]:
    return (parent.name, parent.role, parent.license.id, parent.origin)


def _term(use: Use, parent: Parent) -> Term:
    """Return a parent's answer; where something was made of it, its word on derivatives counts (rule 2)."""
    term, merging = parent.license.terms[use], parent.license.terms["merge"]
    if parent.role == "itself" or use not in _SHARED:
        return term
    if use == "share" or strictest((term.answer, merging.answer)) != term.answer:
        return merging
    return term


def _rule(use: Use, parents: Sequence[Parent], conflicts: Sequence[Conflict]) -> Ruling:
    reasons = [_reason(parent, _term(use, parent)) for parent in parents]
    reasons += [
        Reason(" and ".join(c.parents), NO_LICENSE, "no", c.says, "", "docs/license.md")
        for c in conflicts
        if use in _SHARED or (use == "host" and _over_network(parents, c))
    ]
    told = sorted(dict.fromkeys(reasons), key=lambda reason: -STRICTNESS.index(reason.answer))
    return Ruling(use, strictest([reason.answer for reason in told]), tuple(told))


def _reason(parent: Parent, term: Term) -> Reason:
    license_ = parent.license
    return Reason(parent.name, license_.id, term.answer, term.why, term.where, license_.source)


def _over_network(parents: Sequence[Parent], conflict: Conflict) -> bool:
    return any(p.license.network for p in parents if p.name in conflict.parents)


def _owed(parents: Sequence[Parent]) -> tuple[Owed, ...]:
    """Collect the duties, each once per license, with all who ask for it."""
    found: dict[tuple[str, Duty], list[str]] = {}
    for parent in parents:
        for duty in parent.license.duties:
            names = found.setdefault((parent.license.id, duty), [])
            if parent.name not in names:
                names.append(parent.name)
    return tuple(Owed(duty, id_, tuple(names)) for (id_, duty), names in found.items())


def _homes(licenses: Sequence[License]) -> tuple[str, ...] | None:
    """Return the licenses a derivative of all these could be under; None if any would do (rule 4)."""
    bound = [x for x in licenses if x.derivatives in ("same", "carry")]
    if not any(x.derivatives == "same" for x in bound):
        return None
    common = set.intersection(*({x.id, *x.compatible} for x in bound))
    return tuple(sorted(common))


def _share_alike(parents: Sequence[Parent]) -> Iterator[Conflict]:
    """Yield each pair that does not go together; if all pairs do and the whole does not, the whole."""
    by_license = {p.license.id: p.license for p in parents}
    pairs = [(a, b) for a, b in combinations(by_license.values(), 2) if _homes((a, b)) == ()]
    for a, b in pairs:
        yield Conflict("share-alike", _named(parents, (a, b)), _clash(a, b))
    if not pairs and _homes(tuple(by_license.values())) == ():
        bound = [x for x in by_license.values() if x.derivatives in ("same", "carry")]
        listed = ", ".join(x.id for x in bound)
        says = f"No license satisfies all of {listed} at once, though each two of them go together."
        yield Conflict("share-alike", _named(parents, bound), says)


def _clash(a: License, b: License) -> str:
    if a.derivatives != "same":
        a, b = b, a
    if b.derivatives == "same":
        return (
            f"{a.id} and {b.id} each want the whole under themselves, and neither allows the other."
        )
    return (
        f"{a.id} wants the whole under itself and nothing added; {b.id} adds terms that must stay."
    )


def _flags(parents: Sequence[Parent]) -> Iterator[Conflict]:
    sealed = {p.license.seal: p.license for p in parents if p.license.seal}
    if len(sealed) > 1:
        licenses = tuple(sealed.values())
        listed = ", ".join(x.id for x in licenses)
        says = (
            f"Each wants derivatives to have the very same permissions, and they differ: {listed}."
        )
        yield Conflict("flags", _named(parents, licenses), says)


def _promises(parents: Sequence[Parent]) -> Iterator[Conflict]:
    """Yield where a checkpoint allows what a parent of it forbids (rule 5)."""
    for own in (p for p in parents if p.role == "itself"):
        for other in (p for p in parents if p.role != "itself"):
            promised = [
                USES[use]
                for use in USES
                if own.license.terms[use].answer in ("yes", "if")
                and _term(use, other).answer == "no"
            ]
            if promised:
                says = (
                    f"It says {own.license.id}, which allows you to {', '.join(promised)}; "
                    f"{other.license.id} of {other.name} does not. The stricter one counts."
                )
                yield Conflict("promise", (own.name, other.name), says)


def _named(parents: Sequence[Parent], licenses: Sequence[License]) -> tuple[str, ...]:
    ids = {x.id for x in licenses}
    return tuple(dict.fromkeys(p.name for p in parents if p.license.id in ids))


def _governing(parents: Sequence[Parent], conflicts: Sequence[Conflict]) -> str:
    licenses = {p.license.id: p.license for p in parents}
    if any(x.derivatives == "unknown" for x in licenses.values()):
        return UNKNOWN
    if conflicts:
        return NO_LICENSE
    homes = _homes(tuple(licenses.values()))
    if homes is None:
        return " AND ".join(sorted(licenses))
    whole = next((home for home in homes if home in licenses), homes[0])
    rest = {id_ for id_, x in licenses.items() if x.derivatives != "same"}
    return " AND ".join(sorted({whole, *rest}))
