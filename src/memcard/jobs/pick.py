"""Which checkpoint suits a purpose: ranked by what is said about each, with the reasons; or by trying them.

What says nothing about itself is not ranked low, it is not ranked: nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from memcard.cards import Subject, read_card
from memcard.core.card import Card
from memcard.core.progress import Listener, Notice, silent
from memcard.errors import MemcardError, NotFoundError, UsageError
from memcard.formats import open_file
from memcard.jobs._library_cards import kept_of
from memcard.jobs._pick_ranking import Candidate, Ranking
from memcard.jobs._pick_words import Fit, fits, wanted_words
from memcard.jobs.resolve import locate, names
from memcard.store import refs
from memcard.store.index import IndexRow
from memcard.store.layout import Layout, check, default_home, exists
from memcard.store.library_index import open_index

KINDS: Final = ("checkpoint", "denoiser", "delta")  # what generate can start from
__all__ = ["KINDS", "Candidate", "Ranking", "best", "pick"]

_MOST: Final = 300  # cards that are read; the index finds the likeliest
_TRIED: Final = 5  # checkpoints that --measure paints with
_TIE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class _Known:
    """A checkpoint and what is said of it, by the names of fields."""

    ref: str
    sha256: str
    family: str
    texts: Mapping[str, str]


def pick(
    purpose: str,
    *,
    kind: str | None = None,
    family: str | None = None,
    measure: int = 0,
    most: int = _TRIED,
    home: Layout | None = None,
    progress: Listener = silent,
) -> Ranking:
    """Rank the checkpoints of the library and of the starter for a purpose.

    Args:
        purpose: in a few words, such as ``portrait photos`` or ``pixel art``; with ``measure`` also the prompt.
        kind: only of this kind; None: those ``generate`` can start from.
        family: only of this family.
        measure: make so many pictures with each and rank by how clearly it recognises the purpose in its
            own pictures; 0: go by what is said.
        most: measure so many at most, the likeliest.
        home: the library; None: the user's.
        progress: hears how far it is.

    Raises:
        UsageError: the purpose has no word in it, or ``measure`` is negative.
    """
    words = wanted_words(purpose)
    if not words:
        raise UsageError(f"{purpose!r} has no word in it. Say what it is for: portrait photos.")
    if measure < 0:
        raise UsageError(f"measure {measure}: 0 or more pictures.")
    layout = home or Layout(default_home())
    stored, total, having = _stored(layout, words, kind, family)
    own = [k for k in _starter(kind) if family in (None, "starter")]
    for word in words:
        having[word] += sum(fit.score > 0 for fit in _alone(own, word))
    known = _once([*stored, *own])
    found = fits(words, [k.texts for k, _ in known], total=total + len(own), having=having)
    ranked = sorted(zip(known, found, strict=True), key=lambda e: (-e[1].score, e[0][0].ref))
    candidates = _ranked([(k, also, fit) for (k, also), fit in ranked if fit.score > 0])
    mute = tuple(
        k.ref for (k, _), fit in ranked if set(k.texts) <= {"name", "family"} and not fit.score
    )
    others = len(known) - len(candidates) - len(mute)
    ranking = Ranking(purpose, words, candidates, mute, others, notes=_ties(candidates))
    if not measure:
        return ranking
    from memcard.jobs._pick_measure import measured

    return measured(ranking, measure, most, progress)


def best(purpose: str, *, progress: Listener = silent) -> str:
    """Return the name of the checkpoint that suits a purpose best, as ``generate -c`` takes it.

    Only families that can generate here count. Says why it was chosen, and whether others fit as well.

    Raises:
        NotFoundError: nothing is said of any checkpoint that fits.
        UsageError: the purpose has no word in it.
    """
    from memcard.generation.engines import runnable

    able = {*runnable(), ""}
    ranking = pick(purpose)
    fitting = [c for c in ranking.candidates if c.family in able]
    if not fitting:
        unknown = f" Of {len(ranking.silent)} nothing is known." if ranking.silent else ""
        raise NotFoundError(
            f"{purpose!r}: no checkpoint says that it is for this.{unknown} Name one with -c, or say what "
            "one is for: memcard card REF --set 'purpose=…'."
        )
    first = fitting[0]
    equal = [c.ref for c in fitting[1:] if c.score >= first.score - _TIE]
    progress(Notice(f"Chosen: {first.ref}. {' '.join(first.reasons)}"))
    if equal:
        progress(Notice(f"Fits as well: {', '.join(equal)}; the first by name was taken."))
    return first.ref


def _stored(
    home: Layout, words: Sequence[str], kind: str | None, family: str | None
) -> tuple[list[_Known], int, dict[str, int]]:
    """Return likely checkpoints of the library, how many there are, and how many have each word."""
    having = dict.fromkeys(words, 0)
    if not exists(home):
        return [], 0, having
    wanted = (kind,) if kind else KINDS
    rows: dict[str, IndexRow] = {}
    total = 0
    with open_index(home, check(home)) as index:
        for one in wanted:
            total += index.count(kind=one, family=family)
            for word in words:
                having[word] += index.count(word, kind=one, family=family)
                hits = index.search(word, kind=one, family=family, limit=_MOST)
                rows |= {row.name: row for row in hits}
            rows |= {r.name: r for r in index.list(kind=one, family=family, limit=_MOST)}
    return [_of_row(home, row) for row in rows.values()], total, having


def _of_row(home: Layout, row: IndexRow) -> _Known:
    card = Card(title=row.title or None, tags=row.tags, trigger_words=row.trigger_words)
    with suppress(MemcardError, OSError):  # doctor speaks of it; the index knows the most of it
        card = kept_of(home, refs.find(home, row.name)[1]).card
    return _Known(row.name, row.sha256, row.family, _texts(row.name, row.family, card))


def _starter(kind: str | None) -> Iterator[_Known]:
    """Yield what ships with memcard."""
    for name in names():
        own = "lora" if "/lora_" in name else "vae" if "/vae_" in name else "checkpoint"
        if own == (kind or "checkpoint"):
            path = locate(name)
            checkpoint = open_file(path)
            try:
                card = read_card(Subject(path, dict(checkpoint.metadata)))
            finally:
                checkpoint.close()
            yield _Known(name, "", "starter", _texts(name, "starter", card))


def _texts(name: str, family: str, card: Card) -> dict[str, str]:
    """Return what is said of a checkpoint, by the names of fields; what is empty is left out."""
    said = {
        "name": name,
        "title": card.title,
        "tags": " ".join(card.tags),
        "trigger words": " ".join(card.trigger_words),
        "purpose": card.purpose,
        "your remarks": card.remarks,
        "description": card.description,
        "learnt use": _learnt(card),
        "base model": card.base_model,
        "family": family,
    }
    return {field: text for field, text in said.items() if text}


def _learnt(card: Card) -> str:
    """Return the names of LoRAs that people used with it, as far as pictures told the card."""
    found = card.extra.get("learnt", {}).get("loras", ())
    rows = found if isinstance(found, (list, tuple)) else ()
    return " ".join(str(row.get("name", "")) for row in rows if isinstance(row, Mapping))


def _alone(known: Sequence[_Known], word: str) -> list[Fit]:
    return fits([word], [k.texts for k in known], total=len(known) + 1, having={word: 0})


def _once(known: Sequence[_Known]) -> list[tuple[_Known, tuple[str, ...]]]:
    """Return each checkpoint once, with its other names."""
    groups: dict[str, list[_Known]] = {}
    for one in sorted(known, key=lambda k: k.ref):
        groups.setdefault(one.sha256 or one.ref, []).append(one)
    return [(first, tuple(k.ref for k in rest)) for first, *rest in groups.values()]


def _ranked(found: Sequence[tuple[_Known, tuple[str, ...], Fit]]) -> tuple[Candidate, ...]:
    made: list[Candidate] = []
    for number, (known, also, fit) in enumerate(found, 1):
        tied = made and abs(made[-1].score - fit.score) <= _TIE
        rank = made[-1].rank if tied else number
        reasons = tuple(
            f"{word!r} is in its {' and '.join(places)}." for word, places in fit.where.items()
        )
        made.append(Candidate(known.ref, rank, fit.score, reasons, known.family, also))
    return tuple(made)


def _ties(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    first = [c.ref for c in candidates if c.rank == 1]
    if len(first) < 2:
        return ()
    return (f"{', '.join(first)} fit equally well by what is said; --measure 4 would try them.",)
