"""What the user writes, over the steps of a run.

A prompt may change while a picture is made: ``[from:to:when]``, ``[to:when]``, ``[from::when]``, and
``[a|b]``, which takes turns. So it is a tree that gives a text for every step; ``emphasis`` reads that text.
``when`` with a decimal point is a share of the steps, without one a number of steps. In a second pass
("hires fix") shares count from 1 and steps go on counting.

Source: the wiki of stable-diffusion-webui, "Features", sections "Prompt editing", "Alternating Words", and
"Seed breaking changes", 1.6.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from memcard.generation.emphasis import weighted
from memcard.generation.prompt_tags import Lora, take_out
from memcard.generation.words import Words

_DEEPEST: Final = 50  # changes within changes; deeper ones are text
_WHEN: Final = re.compile(r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s*")
_CALL: Final = re.compile(
    r"\bembedding:(?!\s*[+-]?[0-9.]+\s*\])", re.IGNORECASE
)  # no mark of a change
_AND: Final = re.compile(r"\bAND\b")
_UNFIT: Final = re.compile("[\ud800-\udfff]")  # halves of characters, from a wrong locale
_SPECIAL: Final = re.compile(r"[\\()\[\]:|<]|\b(?=BREAK\b)")


@dataclass(frozen=True, slots=True)
class Change:
    """One text up to some step, another one after it."""

    before: Nodes
    after: Nodes
    when: float
    share: bool  # of the steps; else a number of them

    def first(self, steps: int, passed: int) -> int:
        """Return the step, from 0, that ``after`` begins with."""
        share = (self.when - bool(passed)) * steps
        return int(max(0, min(share if self.share else self.when - passed, steps)))


@dataclass(frozen=True, slots=True)
class Turns:
    """Texts that take turns, one step each."""

    options: tuple[Nodes, ...]


Nodes: TypeAlias = tuple["str | Change | Turns", ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that may change from step to step.

    Attributes:
        nodes: text, and what changes.
        loras: (name, strength, strength for the text encoders if it differs) named in the prompt.
        notes: what the prompt asks for and will not get, one sentence each.
        passed: steps of an earlier pass over the same picture; 0 in the first.
    """

    nodes: Nodes
    loras: tuple[Lora, ...] = ()
    notes: tuple[str, ...] = ()
    passed: int = 0

    def at(self, step: int, steps: int) -> Words:
        """Return the words of a step, counted from 0."""
        return weighted(_text(self.nodes, step, steps, self.passed))

    def spans(self, steps: int) -> tuple[tuple[int, Words], ...]:
        """Return up to which step (not included) which words hold, in order; the last end is ``steps``."""
        ends = sorted({*_ends(self.nodes, steps, self.passed), steps})
        texts = [(end, _text(self.nodes, end - 1, steps, self.passed)) for end in ends]
        read = {text: weighted(text) for text in {text: None for _, text in texts}}
        changes = [i for i in range(len(texts) - 1) if texts[i][1] != texts[i + 1][1]]
        return tuple((end, read[text]) for end, text in (texts[i] for i in (*changes, -1)))

    def second_pass(self, steps: int) -> Prompt:
        """Return what holds in a second pass, after one of ``steps`` steps."""
        return replace(self, passed=steps)


def parse(text: str) -> Prompt:
    """Read a prompt. Any text is right: a mark that means nothing is text."""
    tags = take_out(_UNFIT.sub("\ufffd", text).replace("\x00", " "))
    notes = tags.notes
    if _AND.search(tags.text):
        notes += (
            "AND joins no pictures here: it is read as a word. Use BREAK to keep subjects apart.",
        )
    return Prompt(_Reader(tags.text).nodes(0, len(tags.text)), tags.loras, notes)


def escaped(text: str) -> str:
    """Return a prompt that is read as ``text``, character by character."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def _text(nodes: Nodes, step: int, steps: int, passed: int) -> str:
    found = []
    for node in nodes:
        if isinstance(node, Change):
            now = node.before if step < node.first(steps, passed) else node.after
            found.append(_text(now, step, steps, passed))
        elif isinstance(node, Turns):
            found.append(_text(node.options[step % len(node.options)], step, steps, passed))
        else:
            found.append(node)
    return "".join(found)


def _ends(nodes: Nodes, steps: int, passed: int) -> Iterator[int]:
    for node in nodes:
        if isinstance(node, Change):
            if 0 < (first := node.first(steps, passed)) < steps:
                yield first
            yield from _ends(node.before + node.after, steps, passed)
        elif isinstance(node, Turns):
            yield from range(1, steps)


class _Reader:
    """A text with its brackets matched, so that every part is walked through once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pairs = dict(_pairs(text))
        self.calls = {call.end() - 1 for call in _CALL.finditer(text)}

    def nodes(self, start: int, end: int, depth: int = 0) -> Nodes:
        """Read a part of the text; brackets that change nothing stay in it, for ``emphasis``."""
        found: list[str | Change | Turns] = []
        at = text_from = start
        while at < end:
            node = None
            if self.text[at] == "[" and at in self.pairs and depth < _DEEPEST:
                node = self._group(at + 1, self.pairs[at], depth + 1)
            if node is not None:
                found += [self.text[text_from:at], node]
                at = text_from = self.pairs[at] + 1
            else:
                at += 2 if self.text[at] == "\\" else 1
        found.append(self.text[text_from:end])
        return tuple(node for node in found if node != "")

    def _group(self, start: int, end: int, depth: int) -> Change | Turns | None:
        colons, bars = self._marks(start, end)
        when = _WHEN.fullmatch(self.text, colons[-1] + 1, end) if colons else None
        if when and len(colons) <= 2:
            *firsts, last = _between(start, *colons)
            before = self.nodes(*firsts[0], depth) if firsts else ()
            after = self.nodes(*last, depth)
            return Change(before, after, float(when[1]), share="." in when[1])
        if bars:
            return Turns(tuple(self.nodes(*part, depth) for part in _between(start, *bars, end)))
        return None

    def _marks(self, start: int, end: int) -> tuple[list[int], list[int]]:
        """Return where colons and bars are, outside of inner brackets."""
        marks: dict[str, list[int]] = {":": [], "|": []}
        at = start
        while at < end:
            letter = self.text[at]
            if letter in marks and at not in self.calls:
                marks[letter].append(at)
            at = self.pairs[at] + 1 if at in self.pairs else at + (2 if letter == "\\" else 1)
        return marks[":"], marks["|"]


def _between(start: int, *marks: int) -> list[tuple[int, int]]:
    """Return the stretches of text that end at each mark."""
    return [(a, b) for a, b in zip((start, *(m + 1 for m in marks)), marks, strict=False)]


def _pairs(text: str) -> Iterator[tuple[int, int]]:
    """Match brackets of both kinds; what is left over is text."""
    opened: list[int] = []
    waiting = {"(": 0, "[": 0}
    at = 0
    while at < len(text):
        letter = text[at]
        if letter in "([":
            opened.append(at)
            waiting[letter] += 1
        elif letter in ")]" and waiting[mate := "(" if letter == ")" else "["]:
            while True:  # what lies between was never closed
                first = opened.pop()
                waiting[text[first]] -= 1
                if text[first] == mate:
                    break
            yield first, at
        at += 2 if letter == "\\" else 1
