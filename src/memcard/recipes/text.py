"""The text form of recipes: canonical JSON, version 1. Specified in ``docs/spec/recipe.md``."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, NoReturn

from memcard.core.limits import DEFAULT
from memcard.errors import CorruptError, UnsupportedError, UsageError
from memcard.recipes.nodes import Apply, Node, Params, Source, Value

VERSION = 1


def to_json(node: Node) -> str:
    """Return the canonical text: keys sorted, no spaces, UTF-8 unescaped, floats by ``repr``."""
    return _canonical(to_document(node))


def recipe_id(node: Node) -> str:
    """Return the SHA-256 (hex) of the canonical text in which known contents replace names.

    A source whose ``sha256`` is known counts by that alone, so the id is the same wherever the
    files lie and whatever they are called.
    """
    text = _canonical({"memcard_recipe": VERSION, "node": _plain(node, identity=True)})
    return sha256(text.encode()).hexdigest()


def from_json(text: str) -> Node:
    """Read a recipe.

    Raises:
        CorruptError: not JSON, or not shaped like a recipe; says where.
        UnsupportedError: written by a later version of the format.
    """
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"recipe: {error}. A recipe is JSON; see docs/spec/recipe.md.") from None
    return from_document(document)


def to_document(node: Node) -> dict[str, Any]:
    """Return the recipe as JSON values."""
    return {"memcard_recipe": VERSION, "node": _plain(node, identity=False)}


def from_document(document: Any) -> Node:
    """Read a recipe from JSON values.

    Raises:
        CorruptError: not shaped like a recipe; says where.
        UnsupportedError: written by a later version of the format.
    """
    if not isinstance(document, dict) or "memcard_recipe" not in document:
        raise CorruptError('recipe: no "memcard_recipe" at the top; this is not a recipe.')
    version = document["memcard_recipe"]
    if type(version) is not int or version < 1:
        raise CorruptError(f"recipe: version {version!r} is not a positive whole number.")
    if version > VERSION:
        raise UnsupportedError(
            f"recipe: version {version}, and this memcard reads up to {VERSION}. Update memcard."
        )
    _only(document, {"memcard_recipe", "node"}, "recipe")
    return _node(document.get("node"), "node", 0)


def _canonical(document: Any) -> str:
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _plain(node: Node, *, identity: bool) -> dict[str, Any]:
    if isinstance(node, Apply):
        inputs = [_plain(child, identity=identity) for child in node.inputs]
        return {"op": node.op, "inputs": inputs, "params": _thaw(node.params)}
    if node.sha256 is None:
        return {"source": node.ref}
    return {"sha256": node.sha256} if identity else {"source": node.ref, "sha256": node.sha256}


def _thaw(value: Value) -> Any:
    if isinstance(value, Params):
        return {key: _thaw(item) for key, item in value.items()}
    return [_thaw(item) for item in value] if isinstance(value, tuple) else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number a recipe can hold")


def _only(found: dict[str, Any], allowed: set[str], where: str) -> None:
    extra = sorted(found.keys() - allowed)
    if extra:
        raise CorruptError(f"{where}: unknown {', '.join(map(repr, extra))} in a version 1 recipe.")


def _node(found: Any, where: str, depth: int) -> Node:
    if depth > DEFAULT.nesting:
        raise CorruptError(f"{where}: nested deeper than {DEFAULT.nesting} operations.")
    if not isinstance(found, dict) or ("op" in found) == ("source" in found):
        raise CorruptError(f'{where}: expected an object with either "source" or "op".')
    try:
        return _source(found, where) if "source" in found else _apply(found, where, depth)
    except UsageError as error:
        raise CorruptError(f"{where}: {error}") from None


def _source(found: dict[str, Any], where: str) -> Source:
    _only(found, {"source", "sha256"}, where)
    ref, digest = found["source"], found.get("sha256")
    if not isinstance(ref, str) or not isinstance(digest, (str, type(None))):
        raise CorruptError(f'{where}: "source" and "sha256" are texts.')
    return Source(ref, digest)


def _apply(found: dict[str, Any], where: str, depth: int) -> Apply:
    _only(found, {"op", "inputs", "params"}, where)
    op, inputs, params = found["op"], found.get("inputs"), found.get("params", {})
    if not isinstance(op, str) or not isinstance(inputs, list) or not isinstance(params, dict):
        raise CorruptError(f'{where}: "op" is a text, "inputs" a list and "params" an object.')
    nodes = [_node(child, f"{where}.inputs[{i}]", depth + 1) for i, child in enumerate(inputs)]
    return Apply(op, tuple(nodes), Params(params))
