"""What a license is, as data: answers to the questions people have, each with its clause.

A license answers six questions (``USES``). The answers are facts about its text with the section they stand
in, not the text itself. Which answers a checkpoint gets that was made of several is in ``core/verdict.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Use: TypeAlias = Literal["commercial", "share", "merge", "train", "host", "sell"]
Answer: TypeAlias = Literal["yes", "if", "unknown", "no"]
Role: TypeAlias = Literal["itself", "model", "data"]

USES: Final[Mapping[Use, str]] = {
    "commercial": "sell pictures made with it",
    "share": "give the file to others",
    "merge": "share merges and fine-tunes of it",
    "train": "train another model on its pictures",
    "host": "run it as a paid service",
    "sell": "sell the file itself",
}
STRICTNESS: Final[tuple[Answer, ...]] = ("yes", "if", "unknown", "no")
"""From the loosest to the strictest. ``if`` is a yes with a condition that the reader must check."""


@dataclass(frozen=True, slots=True)
class Term:
    """The answer to one question.

    Attributes:
        answer: ``yes``, ``if``, ``unknown`` or ``no``.
        why: one sentence; after ``if`` the condition.
        where: the section of the license it stands in.
    """

    answer: Answer
    why: str
    where: str


DutyKind: TypeAlias = Literal[
    "attribution",  # name the author
    "notice",  # pass the license and its notices on
    "changes",  # say that and what was changed
    "share-alike",  # a derivative has the same license
    "use restrictions",  # uses that are forbidden, also to those who come after
    "non-commercial",
    "no derivatives",
    "source code",
    "name",  # the product or the model must bear a name
    "threshold",  # another license is needed above a size of business
    "registration",
    "region",
    "safeguards",  # filters, disclosure
]


@dataclass(frozen=True, slots=True)
class Duty:
    """What a license asks in return: what, in one sentence, and the section."""

    kind: DutyKind
    says: str
    where: str


Derivatives: TypeAlias = Literal["any", "carry", "same", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """One license. The file name in ``memcard/licenses`` is the id with ``_`` for ``-`` and ``.``.

    Attributes:
        id: as Hugging Face writes it where it has one, else lower case with hyphens.
        title: its full name.
        version: number or date of the text the answers are from.
        source: address of that text.
        spdx: its SPDX identifier; None if SPDX has none.
        terms: an answer to each question of ``USES``.
        duties: what it asks in return.
        derivatives: which license a derivative may have: ``any``; its own, but these terms go along
            (``carry``); the ``same``; ``unknown``.
        compatible: with ``same``, other licenses a derivative may have; with ``carry``, share-alike licenses
            under which these terms may go along.
        seal: derivatives bear it unchanged; two different ones conflict. For flags of Civitai.
        network: running it for others over a network counts as giving it to them.
        names: other names it goes by; letter case, spaces and punctuation do not count.
        vague: names that several licenses share and are read as this one, with a note.
        links: addresses people give in place of its name, without ``https://``.
        bases: well-known models and names of base models that are published under it.
    """

    id: str
    title: str
    version: str
    source: str
    terms: Mapping[Use, Term]
    duties: tuple[Duty, ...] = ()
    derivatives: Derivatives = "any"
    compatible: tuple[str, ...] = ()
    seal: str = ""
    network: bool = False
    spdx: str | None = None
    names: tuple[str, ...] = ()
    vague: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parent:
    """A thing that has a say in what may be done with a checkpoint.

    Attributes:
        name: how people call it.
        license: what it is under.
        role: ``itself`` for what the checkpoint says of itself, ``model`` for a checkpoint it was made from,
            ``data`` for what it was trained on.
        origin: where the license was read, such as ``modelspec.license``.
    """

    name: str
    license: License
    role: Role = "model"
    origin: str = ""
