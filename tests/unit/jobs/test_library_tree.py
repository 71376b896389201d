"""Family trees: what files say, what packing found, and drawings that bear any name."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from fixtures import small
from fixtures.packed_library import PackedLibrary
from memcard.cli.main import main
from memcard.errors import NotFoundError
from memcard.jobs._tree_picture import svg
from memcard.jobs.library import Library
from memcard.jobs.tree import Edge, Node, Tree
from memcard.store import manifest as manifests

SVG = "{http://www.w3.org/2000/svg}"


def child_of(path: Path, seed: int, *parents: str, name: str = "") -> Path:
    card = {"parents": parents, "made_from": [{"name": name, "sha256": p} for p in parents]}
    return small.save(path, small.weights(seed), {"memcard.card": json.dumps(card)})


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """grandma -> (mother, aunt) -> child, and a stranger the library never saw."""
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    library = Library()
    library.add([small.save(tmp_path / "grandma.safetensors", small.weights(1))])
    root = library.show("grandma").version.sha256
    library.add([child_of(tmp_path / "mother.safetensors", 2, root)])
    library.add([child_of(tmp_path / "aunt.safetensors", 3, root)])
    both = [library.show(name).version.sha256 for name in ("mother", "aunt")]
    library.add([child_of(tmp_path / "child.safetensors", 4, *both, "f" * 64, name="stranger<1>")])
    return library


def names(tree: Tree) -> set[tuple[str, str, str]]:
    return {(tree.nodes[e.parent].name, tree.nodes[e.child].name, e.how) for e in tree.edges}


def test_ancestors_and_descendants_are_found(library: Library) -> None:
    found = library.tree("mother")

    assert names(found) == {
        ("grandma", "mother", "made from"),
        ("mother", "child", "made from"),
    }
    assert {node.name for node in library.tree("child").nodes.values()} == {
        "child", "mother", "aunt", "grandma", "stranger<1>",
    }  # fmt: skip
    stranger = library.tree("child").nodes["f" * 64]
    assert (stranger.known, stranger.name) == (False, "stranger<1>")


def test_what_packing_found_is_told(tmp_path: Path) -> None:
    kept = PackedLibrary(tmp_path)

    found = kept.library.tree("base")

    assert ("base", "tune", "difference to") in names(found)
    assert ("base", "mix", "computed from") in names(found)
    assert "0.5" in found.nodes[kept.digests["mix"]].made


def test_a_delta_leads_to_its_base(tmp_path: Path) -> None:
    library = Library(tmp_path / "home")
    meta = {"memcard.delta.base_sha256": "a" * 64, "memcard.delta.base_name": "the base"}
    library.add([small.save(tmp_path / "delta.safetensors", small.weights(1), meta)])

    assert names(library.tree("delta")) == {("the base", "delta", "change to")}


def test_the_terminal_shows_both_ways(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "mother"]) == 0
    out = capsys.readouterr().out

    assert out.splitlines()[0].startswith("mother  (")
    assert "made of\n└── grandma" in out
    assert "used in\n└── child" in out


def test_a_picture_is_lawful_and_has_a_box_for_each(library: Library, tmp_path: Path) -> None:
    out = tmp_path / "family.svg"

    assert main(["tree", "child", "--svg", str(out)]) == 0
    assert main(["tree", "child", "--svg", str(out)]) == 2  # it is there already

    root = ET.fromstring(out.read_text("utf-8"))  # our own
    boxes = root.findall(f"{SVG}g/{SVG}rect")
    assert len(boxes) == 5
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "stranger<1>" in texts
    assert "not in the library" in texts
    places = {(box.get("x"), box.get("y")) for box in boxes}
    assert len(places) == 5


def test_boxes_do_not_overlap_and_parents_stand_left(library: Library) -> None:
    root = ET.fromstring(svg(library.tree("grandma")))
    at = {
        group.findtext(f"{SVG}text"): group.find(f"{SVG}rect") for group in root.findall(f"{SVG}g")
    }
    x = {name: int(box.get("x", "0")) for name, box in at.items() if box is not None and name}
    y = {name: int(box.get("y", "0")) for name, box in at.items() if box is not None and name}

    assert x["grandma"] < x["mother"] == x["aunt"] < x["child"]
    assert abs(y["mother"] - y["aunt"]) > 60


def test_circles_of_forged_files_end() -> None:
    nodes = {k: Node(k, f"<{k}>\x1b & 模型" * 9) for k in ("a", "b", "c")}
    edges = (Edge("a", "b", "made from"), Edge("b", "c", "made from"), Edge("c", "a", "made from"))

    ET.fromstring(svg(Tree("a", nodes, edges)))


def test_json_and_what_is_not_there(
    library: Library, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["tree", "grandma", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["nodes"]) == 4
    assert {edge["how"] for edge in facts["edges"]} == {"made from"}
    with pytest.raises(NotFoundError):
        library.tree("nobody")
    alone = small.save(tmp_path / "alone.safetensors", small.weights(9))
    library.add([alone])
    assert main(["tree", "alone"]) == 0
    assert "nothing is known" in capsys.readouterr().out


def test_a_damaged_manifest_is_a_note(library: Library) -> None:
    manifests.path_of(library.layout, library.show("aunt").version.manifest).write_text("{")

    found = library.tree("child")

    assert any("aunt" in note for note in found.notes)
    assert ("mother", "child", "made from") in names(found)


def test_a_manifest_is_read_once(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_CACHE", str(tmp_path / "cache"))
    before = library.tree("child")
    read: list[str] = []
    outline = manifests.outline
    monkeypatch.setattr(manifests, "outline", lambda home, name: read.append(name) or outline(home, name))  # fmt: skip

    assert library.tree("child") == before
    assert read == []
    child = library.show("child").version.sha256
    library.add([child_of(tmp_path / "grandchild.safetensors", 5, child)])
    assert ("child", "grandchild", "made from") in names(library.tree("child"))
    assert len(read) == 1
    after = library.tree("child")
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    assert library.tree("child") == after
