"""ComfyUI's graph as data: its nodes, and ways to follow links backwards.

A graph comes from a stranger: it may have circles, unknown nodes and nonsense. Every walk visits a node once.

Source: the API format of ComfyUI ("Workflow (API)"): ``{id: {"class_type": …, "inputs": {name: value}}}``
where a value ``[id, n]`` is a link to output n of another node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from memcard.errors import CorruptError

NODES: Final = 10_000
LINKS: Final = 50_000  # of all nodes together
_HOPS: Final = 50  # nodes between an input and the number or text that it gets
_PARTS: Final = 50  # texts that are put together to one
_TEXT_NAMES: Final = ("populated_text", "text", "value", "string", "prompt", "Text", "String")

Link: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Node:
    """One node. ``inputs`` are as in the file."""

    id: str
    kind: str
    inputs: Mapping[str, Any]

    def __str__(self) -> str:
        return f"node {self.id[:20]} ({self.kind[:60]})"


class Graph:
    """The nodes of a graph by their ids."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = nodes
        self._links = {key: self._links_of(node) for key, node in nodes.items()}

    @classmethod
    def read(cls, text: str) -> Graph:
        """Read the API format.

        Raises:
            CorruptError: it is no such JSON, or has more than ``NODES`` nodes or ``LINKS`` links.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"the graph of ComfyUI is not JSON: {error}.") from None
        if not isinstance(found, dict):
            raise CorruptError("the graph of ComfyUI is not a JSON object of nodes.")
        if len(found) > NODES:
            raise CorruptError(f"the graph has {len(found)} nodes; {NODES} are read at most.")
        nodes = {
            key: Node(key, node["class_type"], node["inputs"])
            for key, node in found.items()
            if isinstance(node, dict)
            and isinstance(node.get("class_type"), str)
            and isinstance(node.get("inputs"), dict)
        }
        graph = cls(nodes)
        if (count := sum(map(len, graph._links.values()))) > LINKS:
            raise CorruptError(f"the graph has {count} links; {LINKS} are read at most.")
        return graph

    def link(self, value: object) -> Link | None:
        """Return a value as a link to a node that there is; None for any other value."""
        if not isinstance(value, list) or len(value) != 2:
            return None
        key, slot = str(value[0]), value[1]
        ok = key in self.nodes and isinstance(slot, int) and isinstance(value[0], (str, int))
        return (key, slot) if ok else None

    def links(self, node: Node) -> dict[str, Link]:
        """Return the inputs of a node that are links."""
        return self._links[node.id]

    def _links_of(self, node: Node) -> dict[str, Link]:
        found = {name: self.link(value) for name, value in node.inputs.items()}
        return {name: link for name, link in found.items() if link is not None}

    def upstream(self, starts: Sequence[Node]) -> dict[str, Node]:
        """Return all nodes that these get anything from, themselves included."""
        seen = {node.id: node for node in starts}
        queue = list(starts)
        for node in queue:
            for key, _ in self.links(node).values():
                if key not in seen:
                    seen[key] = self.nodes[key]
                    queue.append(self.nodes[key])
        return seen

    def walk(
        self,
        start: Link | None,
        wanted: Callable[[Node], bool],
        onward: Callable[[Node, int], Mapping[str, Link]],
    ) -> tuple[list[Node], list[Node]]:
        """Follow links backwards to the nodes that are wanted.

        Args:
            start: where to begin.
            wanted: whether the walk ends at a node.
            onward: the links to follow from a node that was reached by an output.

        Returns:
            The nodes that are wanted, and those on the way, nearest first.
        """
        ends: dict[str, Node] = {}
        passed: dict[str, Node] = {}
        queue = [] if start is None else [start]
        seen = set(queue)
        for key, slot in queue:
            node = self.nodes[key]
            if wanted(node):
                ends[key] = node
                continue
            passed[key] = node
            for link in onward(node, slot).values():
                if link not in seen:
                    seen.add(link)
                    queue.append(link)
        return list(ends.values()), list(passed.values())

    def onward(self, node: Node, *stems: str) -> dict[str, Link]:
        """Return the links whose names begin with one of ``stems``; all, if there are none."""
        links = self.links(node)
        named = {name: link for name, link in links.items() if name.lower().startswith(stems)}
        return named or links

    def number(self, node: Node, name: str) -> int | float | None:
        """Return the number an input has or gets; None if there is no one way to it."""
        value = node.inputs.get(name)
        for _ in range(_HOPS):
            link = self.link(value)
            if link is None:
                is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                return value if is_number else None
            value = self._source(self.nodes[link[0]], name, (int, float))
        return None

    def text(self, node: Node, name: str) -> str | None:
        """Return the text an input has or gets; None if there is no one way to it."""
        return self._text(node.inputs.get(name), name, [_PARTS], 0)

    def _text(self, value: object, name: str, left: list[int], depth: int) -> str | None:
        left[0] -= 1
        if isinstance(value, str):
            return value
        link = self.link(value)
        if link is None or left[0] < 0 or depth > _HOPS:
            return None
        node = self.nodes[link[0]]
        if {"string_a", "string_b"} <= set(node.inputs):  # StringConcatenate
            parts = [
                self._text(node.inputs[key], key, left, depth + 1)
                for key in ("string_a", "string_b")
            ]
            delimiter = node.inputs.get("delimiter", "")
            joint = delimiter if isinstance(delimiter, str) else ""
            return None if None in parts else joint.join(part or "" for part in parts)
        return self._text(self._source(node, name, (str,)), name, left, depth + 1)

    def _source(self, node: Node, name: str, types: tuple[type, ...]) -> Any:
        """Return what a node passes on: the input of this name, or the only one that can be it."""
        names = (name, *(_TEXT_NAMES if str in types else ("value", "seed", "noise_seed")))
        for key in names:
            value = node.inputs.get(key)
            if _is(value, types) or self.link(value):
                return value
        fitting = [value for value in node.inputs.values() if _is(value, types)]
        links = [value for value in node.inputs.values() if self.link(value)]
        if len(fitting) == 1 and not links:
            return fitting[0]
        return links[0] if len(links) == 1 and not fitting else None

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())


def file_name(value: object) -> str | None:
    """Return the name of a file in an input; some loaders wrap it into an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value not in ("", "None") else None


def _is(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)
