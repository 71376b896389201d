"""What a checkpoint was made of, and what was made of it, as far as the library knows.

Three things tell of a parent: the file itself (the digests of the parents of a merge, the base of a delta), the
recipe that `pack` found, and what a packed checkpoint is kept as a difference to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from memcard.errors import MemcardError
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store import refs
from memcard.store.layout import Layout, check
from memcard.store.library_index import open_index

_MOST: Final = 400  # checkpoints in one tree
_DELTA_BASE: Final = "memcard.delta.base_sha256"
_DIFFERENCE: Final = re.compile(r"difference to ([0-9a-f]{12})")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Node:
    """A checkpoint.

    Attributes:
        sha256: by which people know it.
        name: in the library; of another one what its child calls it, or its first digits.
        kind, architecture, size: as in its manifest.
        known: whether the library has it.
        made: how it is computed from its parents, as its recipe says; "" if there is none.
    """

    sha256: str
    name: str
    kind: str = ""
    architecture: str | None = None
    size: int = 0
    known: bool = False
    made: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """One parent of one checkpoint.

    Attributes:
        parent, child: their SHA-256.
        how: ``made from``: the file says so; ``change to``: it is a delta; ``computed from``: `pack` found
            the recipe; ``difference to``: the library keeps it so, which need not mean more.
    """

    parent: str
    child: str
    how: str


@dataclass(frozen=True, slots=True)
class Tree:
    """One checkpoint with all ancestors and descendants.

    Attributes:
        root: SHA-256 of the checkpoint that was asked for.
        nodes: by SHA-256.
        edges: from parents to children.
        notes: what a reader should know.
    """

    root: str
    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    notes: tuple[str, ...] = ()

    def parents(self, sha256: str) -> list[Edge]:
        """Return the edges to the parents of a checkpoint."""
        return [edge for edge in self.edges if edge.child == sha256]

    def children(self, sha256: str) -> list[Edge]:
        """Return the edges to what was made of a checkpoint."""
        return [edge for edge in self.edges if edge.parent == sha256]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "root": self.root,
            "nodes": [asdict(node) for node in self.nodes.values()],
            "edges": [asdict(edge) for edge in self.edges],
            "notes": list(self.notes),
        }


@dataclass
class _Family:
    """All checkpoints of a library with what is said of their parents."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[tuple[str, str], Edge] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    read: dict[str, str] = field(default_factory=dict)  # of manifests that the index did not know

    def add(self, parent: str, child: str, how: str) -> None:
        """Note a parent; what is noted first counts."""
        if parent != child:
            self.edges.setdefault((parent, child), Edge(parent, child, how))


def tree(home: Layout, ref: str) -> Tree:
    """Follow a checkpoint up and down. Each manifest is read once; then the index knows what it says.

    Args:
        home: the library.
        ref: a name, ``name@digits``, or the first digits of a digest.

    Raises:
        NotFoundError: there is no library, or nothing of this name.
    """
    library_id = check(home)
    _, version = refs.find(home, ref)
    with open_index(home, library_id) as index:
        known = index.notes()
        family = _family(home, known)
        if family.read:
            index.note(family.read)
    up = _reached(family, version.sha256, upwards=True)
    down = _reached(family, version.sha256, upwards=False)
    chosen = list(dict.fromkeys((*up, *down)))
    notes = list(family.faults)
    if len(chosen) > _MOST:
        notes.append(f"{len(chosen)} checkpoints are related; {_MOST} of them are shown.")
    kept = dict.fromkeys(chosen[:_MOST])
    nodes = {sha256: family.nodes.get(sha256) or Node(sha256, sha256[:12]) for sha256 in kept}
    edges = tuple(e for e in family.edges.values() if e.parent in kept and e.child in kept)
    return Tree(version.sha256, nodes, edges, tuple(notes))


def _reached(family: _Family, start: str, *, upwards: bool) -> list[str]:
    """Return a checkpoint and all that is above or below it, the nearest first."""
    beside: dict[str, list[str]] = {}
    for edge in family.edges.values():
        here, there = (edge.child, edge.parent) if upwards else (edge.parent, edge.child)
        beside.setdefault(here, []).append(there)
    found, waiting = {start: None}, [start]
    for here in waiting:
        for there in beside.get(here, ()):
            if there not in found:
                found[there] = None
                waiting.append(there)
    return list(found)


def _family(home: Layout, known: Mapping[str, str]) -> _Family:
    family, called = _Family(), dict[str, str]()
    pairs = [(ref, v) for ref in refs.every(home, []) for v in ref.versions]
    digests = {version.manifest: version.sha256 for _, version in pairs}
    for ref, version in sorted(pairs, key=lambda pair: pair[1] is not pair[0].version):
        if version.sha256 in family.nodes:
            continue  # two names of the same bytes
        said, record = "{}", None
        try:
            said = known.get(version.manifest) or _read(home, version.manifest, family)
            record = records.get(home, version.manifest)
        except (MemcardError, OSError) as error:
            family.faults.append(f"{ref.name}: {error}")
        recipe = "" if record is None or record.recipe is None else record.title
        name = ref.name if version is ref.version else f"{ref.name}@{version.sha256[:8]}"
        facts = (version.kind, version.architecture, version.size)
        family.nodes[version.sha256] = Node(version.sha256, name, *facts, known=True, made=recipe)
        stated = json.loads(said)
        called |= stated.get("called", {})
        for parent, how in stated.get("edges", ()):
            family.add(parent, version.sha256, how)
        if record is not None:
            _stored(family, version.sha256, record, digests)
    for edge in family.edges.values():
        if edge.parent not in family.nodes:
            name = called.get(edge.parent, edge.parent[:12])
            family.nodes[edge.parent] = Node(edge.parent, name)
    return family


def _read(home: Layout, manifest_id: str, family: _Family) -> str:
    """Read of one manifest what a tree needs, for the index too."""
    stated = _stated(manifests.outline(home, manifest_id))
    family.read[manifest_id] = json.dumps(stated, ensure_ascii=True)
    return family.read[manifest_id]


def _stated(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parents a file names, and what it calls them."""
    metadata = manifest.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    edges = []
    if _is_sha256(metadata.get(_DELTA_BASE)):
        edges.append([str(metadata[_DELTA_BASE]), "change to"])
    parents = manifest.get("parents")
    listed = parents if isinstance(parents, list) else []
    edges += [[parent, "made from"] for parent in listed if _is_sha256(parent)]
    return {"edges": edges, "called": dict(_called(metadata))}


def _called(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(name := metadata.get("memcard.delta.base_name"), str) and name:
        yield str(metadata.get(_DELTA_BASE)), name
    card: Any = {}
    with suppress(ValueError, TypeError, RecursionError):
        card = json.loads(metadata.get("memcard.card", "{}"))
    made_from = card.get("made_from") if isinstance(card, dict) else None
    for item in made_from if isinstance(made_from, list) else ():
        if isinstance(item, dict) and _is_sha256(item.get("sha256")):
            yield item["sha256"], str(item.get("name") or item["sha256"][:12])


def _stored(
    family: _Family, child: str, record: records.Packed, digests: Mapping[str, str]
) -> None:
    for source in record.sources:
        if source in digests:
            family.add(digests[source], child, "computed from")
    match = _DIFFERENCE.match(record.title)
    for sha256 in digests.values() if match and record.recipe is None else ():
        if match is not None and sha256.startswith(match[1]):
            family.add(sha256, child, "difference to")


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
