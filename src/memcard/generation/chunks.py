"""A prompt of any length, cut into what CLIP reads at one time.

CLIP has 77 places: a start, 75 tokens, an end. A longer prompt is read in chunks, and their states lie one
behind the other. So that a chunk does not end in the middle of a phrase, it ends at its last comma if that is
at most 20 tokens back. Shorter encoders, such as the starter's, have smaller chunks and step back less.

Source: the wiki of stable-diffusion-webui, "Features", sections "Infinite prompt length" and "Attention/emphasis".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from memcard.errors import MismatchError
from memcard.generation.tokenizer import Tokenizer
from memcard.generation.words import BREAK, Words

MOST: Final = 16  # chunks of one prompt; 1,200 tokens are more than any prompt that was meant
STEP_BACK: Final = (20, 75)  # tokens to the last comma, in a chunk of as many
_PLACEHOLDER: Final = (
    0  # id where an embedding's vector stands; below the end's, which CLIP looks for
)
_ENDINGS: Final = r"(?:\.(?:pt|bin|safetensors))?"


@dataclass(frozen=True, slots=True)
class Chunk:
    """What CLIP reads at one time.

    Attributes:
        ids: one for every place, start and end included.
        weights: of every place; 1.0 for start, end and padding.
        vectors: (place, embedding, row) where a vector stands in place of a word's.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    vectors: tuple[tuple[int, str, int], ...] = ()

    @property
    def weighty(self) -> bool:
        """Whether anything in it is emphasised."""
        return any(weight != 1 for weight in self.weights)


@dataclass(frozen=True, slots=True)
class _Token:
    id: int
    weight: float
    piece: int  # which piece of the prompt it comes from
    at: int  # and where in its text it begins
    vector: tuple[str, int] | None = None


def chunked(
    tokenizer: Tokenizer,
    words: Words,
    length: int,
    *,
    embeddings: Mapping[str, int] | None = None,
    step_back: int | None = None,
) -> tuple[tuple[Chunk, ...], str]:
    """Return the chunks of a prompt, at least one, and the end of it that is beyond ``MOST`` chunks.

    Args:
        tokenizer: of the encoder.
        words: the prompt.
        length: places of the encoder, 77 for CLIP.
        embeddings: name to number of vectors. All vectors of one stay in one chunk.
        step_back: tokens that a full chunk may step back to end at a comma; 0 never does.

    Raises:
        MismatchError: an embedding has more vectors than a chunk has places.
    """
    room = length - 2
    back = room * STEP_BACK[0] // STEP_BACK[1] if step_back is None else step_back
    counts = dict(embeddings or {})
    _refuse_long(counts, room)
    chunks: list[list[_Token]] = [[]]
    for i, (text, weight) in enumerate(words.pieces):
        if len(chunks) > MOST:
            break
        if text == BREAK:
            chunks.append([])
            continue
        for block in _blocks(tokenizer, text, weight, i, counts):
            if len(chunks[-1]) == room:
                chunks.append(_rest(chunks[-1], block[0], tokenizer.comma, back))
            if len(chunks[-1]) + len(block) > room:
                chunks.append([])
            chunks[-1] += block
    if not chunks[-1] and len(chunks) > 1:
        chunks.pop()  # a break at the end breaks nothing
    beyond = [token for chunk in chunks[MOST:] for token in chunk]
    done = tuple(_chunk(tokenizer, tokens, length) for tokens in chunks[:MOST])
    return done, _from(words, beyond[0]) if beyond else ""


def _refuse_long(counts: Mapping[str, int], room: int) -> None:
    if long := [f"{name!r} has {count}" for name, count in counts.items() if count > room]:
        raise MismatchError(
            f"an embedding may have at most {room} vectors, as many as the text encoder reads at one "
            f"time; {', '.join(long)}. Leave it out, or choose another one."
        )


def _rest(full: list[_Token], following: _Token, comma: int | None, back: int) -> list[_Token]:
    """Take from a full chunk what stands behind its last comma, if that is not far back."""
    if following.id == comma and following.vector is None:
        return []
    for behind in range(1, min(back, len(full)) + 1):
        token = full[-behind]
        if token.id == comma and token.vector is None:
            moved = full[len(full) - behind + 1 :]
            del full[len(full) - behind + 1 :]
            return moved
    return []


def _blocks(
    tokenizer: Tokenizer, text: str, weight: float, piece: int, counts: Mapping[str, int]
) -> Iterator[list[_Token]]:
    """Yield what stays together: single tokens, and all vectors of an embedding."""
    for start, part, name in named(text, tuple(counts)):
        if name is None:
            for found, at in tokenizer.tokens(part):
                yield [_Token(found, weight, piece, start + at)]
        elif counts[name]:
            yield [
                _Token(_PLACEHOLDER, weight, piece, start, (name, row))
                for row in range(counts[name])
            ]


def named(text: str, names: tuple[str, ...]) -> Iterator[tuple[int, str, str | None]]:
    """Split a text at the embeddings it names: where a part begins, the part, and whose name it is.

    An embedding is called by its name as a word of its own, by ``<name>`` or by ``embedding:name``, in
    capitals or not.
    """
    at = 0
    for match in _pattern(names).finditer(text) if names else ():
        called = match["prefixed"] or match["bracketed"] or match["bare"]
        if at < match.start():
            yield at, text[at : match.start()], None
        same = [n for n in names if re.fullmatch(re.escape(n), called, re.IGNORECASE)]
        yield match.start(), match[0], called if called in same else same[0]
        at = match.end()
    if at < len(text) or not text:
        yield at, text[at:], None


@lru_cache(maxsize=8)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    longest = sorted(names, key=len, reverse=True)
    one = "|".join(re.escape(name) for name in longest)
    alone = "|".join(
        (r"(?<!\w)" if re.match(r"\w", name) else "")
        + re.escape(name)
        + (r"(?!\w)" if re.search(r"\w\Z", name) else "")
        for name in longest
    )
    return re.compile(
        rf"embedding:(?P<prefixed>{one}){_ENDINGS}(?!\w)|<(?P<bracketed>{one})>|(?P<bare>{alone})",
        re.IGNORECASE,
    )


def _chunk(tokenizer: Tokenizer, tokens: list[_Token], length: int) -> Chunk:
    weights = [1.0, *(token.weight for token in tokens)]
    return Chunk(
        tuple(tokenizer.framed([token.id for token in tokens], length)),
        (*weights, *[1.0] * (length - len(weights))),
        tuple((i, *token.vector) for i, token in enumerate(tokens, 1) if token.vector),
    )


def _from(words: Words, token: _Token) -> str:
    """Return the text of a prompt from a token on."""
    first, *later = words.pieces[token.piece :]
    return Words(((first[0][token.at :], 1.0), *later)).text
