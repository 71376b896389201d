"""Changes of JSON texts: values, keys and tokens."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

from fuzz.mutate_bytes import EDGES, mutate_bytes

WORDS = (
    "",
    "__metadata__",
    "dtype",
    "shape",
    "data_offsets",
    "weight_map",
    "metadata",
    "F4",
    "F32",
    "F6_E2M3",
    "C64",
)
WORDS += ("..", "../x", "/etc/passwd", "a.safetensors", "model.safetensors", "unet", "\ud800", "\0", "x" * 300, "ü")  # fmt: skip
TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null|[\[\]{},:]|\s+')
ODD = ("null", "true", "-1", "1e999", "1.5", "NaN", "-0", "[]", "{}", '""', "[" * 900, '"\\ud800"', "9" * 5000, "\u00a0", "{", "}")  # fmt: skip


def odd(rng: Random) -> Any:
    return rng.choice(
        (rng.choice(EDGES), -rng.choice(EDGES), rng.choice(WORDS), None, True, 1.5, [], {}, [[]])
    )


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key)."""
    if isinstance(value, dict):
        for key in value:
            found.append((value, key))
            _places(value[key], found)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found.append((value, index))
            _places(item, found)
    return found


def _change(tree: Any, rng: Random) -> None:
    places = _places(tree, [])
    if not places:
        return
    where, key = rng.choice(places)
    match rng.randrange(5):
        case 0:
            del where[key]
        case 1:
            where[key] = odd(rng)
        case 2:
            other, at = rng.choice(places)
            # A copy, so that no tree contains itself.
            if isinstance(other, dict):
                copied = json.loads(json.dumps(other.get(at)))
                where[key] = copied
        case 3 if isinstance(where, dict):
            where[rng.choice(WORDS)] = where.pop(key)
        case _ if isinstance(where[key], int) and not isinstance(where[key], bool):
            where[key] += rng.choice((-8, -1, 1, 8, 1 << 31))


def mutate_json(raw: bytes, rng: Random) -> bytes:
    """Change values of the tree, tokens of the text, or plain bytes."""
    kind = rng.randrange(4)
    try:
        text = raw.decode()
        tree = json.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError):
        return mutate_bytes(raw, rng)
    if kind <= 1:
        for _ in range(rng.choice((1, 1, 2, 3))):
            _change(tree, rng)
        return json.dumps(tree).encode()
    if kind == 2:
        tokens = TOKENS.findall(text)
        for _ in range(rng.choice((1, 2))):
            at = rng.randrange(len(tokens) + 1)
            change = rng.randrange(3)
            part = [rng.choice(ODD)] if change else tokens[at : at + rng.choice((1, 5, 20))]
            tokens[at : at + (change == 1)] = part
        return "".join(tokens).encode("utf-8", "surrogatepass")
    return mutate_bytes(raw, rng)
