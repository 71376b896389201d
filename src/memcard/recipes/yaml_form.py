"""The readable form of recipes: YAML that says exactly what the canonical JSON says.

The same object as in ``recipes/text.py``, so the same recipe has the same id in both forms. Words are read
by the rules of YAML 1.2: ``no`` is a text, ``1e-05`` a number. Anchors are refused: ten short lines of them
can stand for a billion nodes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, Final

import yaml

from memcard.core.limits import DEFAULT
from memcard.errors import CorruptError
from memcard.recipes.nodes import Node
from memcard.recipes.text import from_document, to_document

_INT: Final = re.compile(r"[-+]?[0-9]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Final = {"true": True, "false": False, "null": None, "~": None, "": None}


class _Reader(yaml.SafeLoader):
    """SafeLoader with the core schema of YAML 1.2, without anchors and doubled keys."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                None,
                None,
                "anchors and aliases are not read; write the value out",
                event.start_mark,
            )
        self.depth += 1
        if self.depth > 8 * DEFAULT.nesting:
            raise yaml.MarkedYAMLError(None, None, "nested too deeply", event.start_mark)
        found: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return found

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        found: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                key = key_node.value
            if key in found:
                raise yaml.MarkedYAMLError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            found[key] = self.construct_object(value_node, deep=deep)
        return found


def _scalar(loader: _Reader, node: yaml.ScalarNode) -> Any:
    text = node.value
    if node.style is not None:  # quoted, or a block of text
        return text
    if text.lower() in _WORDS and text in (text.lower(), text.upper(), text.capitalize()):
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


_Reader.yaml_implicit_resolvers = {}
_Reader.add_constructor("tag:yaml.org,2002:str", _scalar)


class _Writer(yaml.SafeDumper):
    """SafeDumper that keeps short lists on one line, and quotes what either YAML would misread."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list(writer: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    flat = not any(isinstance(item, (dict, list)) for item in items)
    return writer.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flat)


def _text(writer: yaml.SafeDumper, text: str) -> yaml.Node:
    # what YAML takes for a line break survives only in double quotes
    style = '"' if any(c in "\n\r\x85\u2028\u2029" for c in text) else None
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(list, _list)
_Writer.add_representer(str, _text)
_Writer.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def to_yaml(node: Node) -> str:
    """Return the recipe as YAML: what it is made of comes before the parameters."""
    return yaml.dump(
        to_document(node), Dumper=_Writer, sort_keys=False, allow_unicode=True, width=100
    )


def from_yaml(text: str) -> Node:
    """Read a recipe.

    Raises:
        CorruptError: not YAML, or not shaped like a recipe; says where.
        UnsupportedError: written by a later version of the format.
    """
    return from_document(read_yaml(text))


def read_yaml(text: str) -> Any:
    """Return JSON values from YAML of any program.

    Raises:
        CorruptError: not YAML, or with anchors, tags, doubled keys or more than one document.
    """
    try:
        return yaml.load(text, _Reader)  # noqa: S506  # derived from SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CorruptError(f"recipe: not readable as YAML: {error}") from None
