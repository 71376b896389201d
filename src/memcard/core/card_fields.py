"""The fields of a card: which there are, and which values they take.

One authority for everything that fills a card: sidecars of other tools, ``memcard card --set``, stored
cards. A value is brought into one form here (hex in lower case, no doubled words) or refused with a reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from memcard.errors import UsageError

TEXT_MOST: Final = (
    100_000  # characters of one text; the longest description on Civitai has about half
)
WORD_MOST: Final = 2_000  # characters of one tag, phrase, name or address
LIST_MOST: Final = 1_000  # words of one list
NESTING: Final = 32  # levels of a foreign value that is kept as it is

TEXTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "title": "how people call it",
        "description": "what it is, in plain text",
        "author": "who made it",
        "date": "when it was made, ISO 8601",
        "version": "the maker's name of this version",
        "kind": "checkpoint, lora, vae, …, in the words of whoever says so",
        "purpose": "what it is for and how to use it",
        "remarks": "the user's own notes",
        "base_model": "what it was made from or runs on",
        "license": "name, link or full text of the license, as stated",
    }
)
LISTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tags": "words to find it by",
        "trigger_words": "words that wake what it learnt",
        "previews": "pictures: a file beside it, FILE#KEY for one inside, or a web address",
        "merged_from": "names of the models it was merged from",
    }
)
HASHES: Final[Mapping[str, int]] = MappingProxyType(  # name to number of hex digits
    {
        "sha256": 64,
        "autov1": 8,
        "autov2": 10,
        "autov3": 12,
        "tensors_sha256": 64,
        "blake3": 64,
        "crc32": 8,
    }
)
COMMERCIAL: Final = "allowCommercialUse"
PERMISSIONS: Final = ("allowNoCredit", COMMERCIAL, "allowDerivatives", "allowDifferentLicense")

# SHA-256 of nothing: a trainer wrote it as the hash of every file it made (ostris/ai-toolkit#130).
EMPTY_SHA256: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

_SIZE: Final = re.compile(r"([1-9][0-9]{0,4}) ?[xX] ?([1-9][0-9]{0,4})")
_WEB: Final = re.compile(r"https?://[^\s\"'<>`\\]+", re.IGNORECASE)
_HEX: Final = re.compile(r"(?:0x)?([0-9a-f]+)", re.IGNORECASE)
_KEY: Final = re.compile(r"[^\s=]{1,100}")


@dataclass(frozen=True, slots=True)
class Setting:
    """One recommended setting: what it is, and its range if it is a number."""

    what: str
    kind: type = str
    low: float = -math.inf
    high: float = math.inf


SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(
    {
        "cfg": Setting("guidance scale", float, 0, 1000),
        "steps": Setting("sampling steps", int, 1, 1000),
        "sampler": Setting("sampler, in the words of whoever says so"),
        "scheduler": Setting("spacing of the noise levels"),
        "vae": Setting("name of the VAE to use"),
        "clip_skip": Setting("last layer of the text encoder, counted from its end", int, 1, 24),
        "size": Setting("WIDTHxHEIGHT in pixels"),
        "negative": Setting("negative prompt"),
        "strength": Setting("of a LoRA", float, -100, 100),
        "strength_min": Setting("of a LoRA, the least that works", float, -100, 100),
        "strength_max": Setting("of a LoRA, the most that works", float, -100, 100),
        "prediction_type": Setting("epsilon or v_prediction"),
    }
)


def clean_text(value: str) -> str:
    """Return a text that can be stored: trimmed, without halves of letters (lone surrogates)."""
    return value.strip().encode("utf-8", "replace").decode("utf-8")


def text(value: object, most: int = TEXT_MOST) -> str:
    """Return a text.

    Raises:
        UsageError: not a text, empty, or longer than ``most`` characters.
    """
    if not isinstance(value, str):
        raise UsageError(f"is {_short(value)}, not a text")
    found = clean_text(value)
    if not found:
        raise UsageError("is empty")
    if len(found) > most:
        raise UsageError(f"has {len(found)} characters; the limit is {most}")
    return found


def words(value: object, one: Callable[[object], str] | None = None) -> tuple[str, ...]:
    """Return a list of texts, each once, in the order given.

    Raises:
        UsageError: not a list, too long, or one of it is no word.
    """
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise UsageError(f"is {_short(value)}, not a list")
    if len(value) > LIST_MOST:
        raise UsageError(f"has {len(value)} words; the limit is {LIST_MOST}")
    check = one or (lambda item: text(item, WORD_MOST))
    return tuple(dict.fromkeys(check(item) for item in value))


def preview(value: object) -> str:
    """Return where a picture is: a web address, or the plain name of a file beside the checkpoint.

    Raises:
        UsageError: neither; folders and other kinds of address are refused.
    """
    found = text(value, WORD_MOST)
    if _WEB.fullmatch(found):
        return found
    if any(c in found for c in "/\\:") or found.startswith(".."):
        raise UsageError(f"{_short(found)} is neither a http(s) address nor a plain file name")
    return found


def link(value: object) -> str:
    """Return a web address.

    Raises:
        UsageError: it is none of http or https.
    """
    found = text(value, WORD_MOST)
    if not _WEB.fullmatch(found):
        raise UsageError(f"{_short(found)} is not a http(s) address")
    return found


def hash_value(name: str, value: object) -> str:
    """Return a digest in lower-case hex.

    Raises:
        UsageError: not hex of the right length, or the hash of nothing.
    """
    match = _HEX.fullmatch(text(value, WORD_MOST))
    digits = match[1].lower() if match else ""
    if len(digits) != HASHES[name]:
        raise UsageError(f"{_short(value)} is not {HASHES[name]} hex digits")
    if name != "crc32" and EMPTY_SHA256.startswith(digits):
        raise UsageError("is the hash of an empty file: a fault of the tool that wrote it")
    return digits


def setting(name: str, value: object) -> str | int | float:
    """Return one recommended setting in its own type.

    Raises:
        UsageError: of the wrong type or out of its range.
    """
    rule = SETTINGS[name]
    if name == "size":
        match = _SIZE.fullmatch(text(value, WORD_MOST))
        if not match:
            raise UsageError(f"{_short(value)} is not a size; write it like 512x768")
        return f"{match[1]}x{match[2]}"
    if name == "prediction_type":
        return _prediction(text(value, WORD_MOST))
    if rule.kind is str:
        return text(value)
    return _number(rule, value)


def _number(rule: Setting, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UsageError(f"is {_short(value)}, not a number")
    try:
        found = float(value)
    except (ValueError, OverflowError):
        raise UsageError(f"is {_short(value)}, not a number") from None
    if not (math.isfinite(found) and rule.low <= found <= rule.high):
        raise UsageError(f"is {_short(value)}; it must be {rule.low:g} to {rule.high:g}")
    if rule.kind is int and not found.is_integer():
        raise UsageError(f"is {_short(value)}, not a whole number")
    return int(found) if found.is_integer() else found


def _prediction(value: str) -> str:
    known = {"v": "v_prediction", "v_prediction": "v_prediction", "vpred": "v_prediction"}
    known |= {"eps": "epsilon", "epsilon": "epsilon"}
    name = value.lower().replace("-", "_")
    if name not in known:
        raise UsageError(f"is {_short(value)}; it must be epsilon or v_prediction")
    return known[name]


def permission(name: str, value: object) -> bool | tuple[str, ...]:
    """Return one of Civitai's flags: yes or no, or the commercial uses that are allowed.

    Raises:
        UsageError: of the wrong type.
    """
    if name != COMMERCIAL:
        if not isinstance(value, bool):
            raise UsageError(f"is {_short(value)}, not true or false")
        return value
    if isinstance(value, str):  # one word in old files, {Image,Rent} where a database was dumped
        value = [part for part in re.split(r"[{},\s\"]+", value) if part]
    return words(value)


def plain(value: object, depth: int = 0) -> Any:
    """Return a foreign JSON value as it can be stored and read by every JSON parser.

    Infinite and undefined numbers become text, halves of letters a question mark; what is nested deeper than
    ``NESTING`` levels becomes ``…``.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if depth >= NESTING:
        return "…"
    if isinstance(value, Mapping):
        return {plain(str(k)): plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [plain(item, depth + 1) for item in value]
    return str(value)


def is_key(name: object) -> bool:
    """Whether a link or a dialect may have this name."""
    return isinstance(name, str) and _KEY.fullmatch(name) is not None


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"
