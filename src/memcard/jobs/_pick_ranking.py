"""A ranking of checkpoints for a purpose: by words, and after trying them by pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Candidate:
    """One checkpoint in a ranking.

    Attributes:
        ref: what to call it, as ``generate -c`` takes it.
        rank: from 1; equal ones share a rank.
        score: BM25 of the purpose in what is said of it.
        reasons: one sentence each: which word was found where.
        family: name of its architecture; "" if unknown.
        also: other names of the same bytes.
        adherence: nats, mean over the pictures that were made; None if none were.
        spread: 95 % interval of that.
        fault: why no picture could be made.
    """

    ref: str
    rank: int
    score: float
    reasons: tuple[str, ...]
    family: str = ""
    also: tuple[str, ...] = ()
    adherence: float | None = None
    spread: tuple[float, float] | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The checkpoints that suit a purpose, the best first.

    Attributes:
        purpose: as it was asked.
        words: what was looked for.
        candidates: those of which something fits.
        silent: names of checkpoints of which nothing at all is said; whether they suit is unknown.
        others: how many say something, but nothing that fits.
        measured: whether pictures decided.
        notes: ties, and what else a careful user should know.
    """

    purpose: str
    words: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    silent: tuple[str, ...]
    others: int
    measured: bool = False
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self)


def ranked_by_pictures(
    ranking: Ranking, tried: Sequence[Candidate], notes: Sequence[str]
) -> Ranking:
    """Return a ranking with those that were tried in front, by adherence; overlapping ones share a rank."""
    able = sorted((c for c in tried if c.adherence is not None), key=lambda c: -(c.adherence or 0))
    made: list[Candidate] = []
    for number, one in enumerate(able, 1):
        tied = made and one.spread and (one.spread[1] >= (made[-1].adherence or 0))
        made.append(replace(one, rank=made[-1].rank if tied else number))
    done = {c.ref for c in made}
    rest = [
        replace(c, rank=len(made) + n)
        for n, c in enumerate([c for c in (*tried, *ranking.candidates) if c.ref not in done], 1)
    ]
    unique = {c.ref: c for c in reversed([*made, *rest])}
    ordered = sorted(unique.values(), key=lambda c: (c.rank, -(c.adherence or 0)))
    return replace(ranking, candidates=tuple(ordered), measured=True, notes=tuple(notes))
