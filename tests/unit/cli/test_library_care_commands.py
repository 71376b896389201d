"""The commands that look after a library: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures import small
from fixtures.packed_library import PackedLibrary, flip
from memcard.cli.main import main
from memcard.store.pack import Pack
from memcard.store.writer import Writer


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackedLibrary:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return PackedLibrary(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


def damage(kept: PackedLibrary) -> None:
    path = max(kept.packs, key=lambda path: path.stat().st_size)
    with Pack.open(path) as pack:
        one = max(pack.objects.values(), key=lambda one: one.stored)
        at = one.blocks[0].offset + 40
    flip(path, at)


def test_verify_tells_of_packs_and_ends_with_8(
    kept: PackedLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, "verify")
    assert code == 0
    assert "; 2 packs: 2 ok" in out

    damage(kept)
    code, out, _ = said(capsys, "verify")
    assert code == 8
    assert "1 damaged" in out
    assert "Needed by: base, mix, tune." in out
    assert "its recipe" not in out  # which is not what is wrong
    code, out, _ = said(capsys, "verify", "--json")
    assert code == 8
    assert [p["state"] for p in json.loads(out)["packs"]].count("damaged") == 1


def test_repair_mends_and_says_what(
    kept: PackedLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "repair")[1] == "nothing is damaged.\n"
    damage(kept)

    code, out, _ = said(capsys, "repair", "--dry-run")
    assert "would be mended: 1 objects of packs: found in " in out
    code, out, err = said(capsys, "repair")
    assert code == 0
    assert "read back whole, and exact: " in out
    assert "in the trash: " in err
    assert said(capsys, "verify")[0] == 0
    assert json.loads(said(capsys, "repair", "--json")[1])["ok"]


def test_repair_ends_with_8_where_nothing_helps(
    kept: PackedLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(kept)
    kept.hide()

    code, out, _ = said(capsys, "repair")

    assert code == 8
    assert "nowhere to be found" in out
    assert "no sound copy is left" in out


def test_ls_tells_where_each_is(kept: PackedLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    kept.hide("mix")

    code, out, _ = said(capsys, "ls", "--sort", "name")

    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert code == 0
    assert "packed, 0 %" in lines["mix"]
    assert "at hand; packed, " in lines["base"]
    assert said(capsys, "ls", "--no-look")[1].count("packed") == 0
    assert said(capsys, "ls", "--kind", "nothing")[0] == 1
    found = json.loads(said(capsys, "ls", "mix", "--json")[1])
    assert [(e["name"], e["state"], e["stored"]) for e in found] == [("mix", "packed", 0)]


def test_a_card_of_a_name_and_what_show_says_of_it(
    kept: PackedLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, "card", "base", "--set", "trigger words=glow", "--set", "cfg=5")
    assert code == 0
    assert "library" in out
    assert "written: " in err

    out = said(capsys, "show", "base")[1]

    assert "trigger words" in out
    assert "glow" in out
    assert "cfg 5" in out
    assert "packed" in out
    assert said(capsys, "card", "base", "--set", "no_such=1")[0] == 2


def test_gc_says_when_another_one_is_at_work(
    kept: PackedLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer(kept.library.layout):
        code, _, err = said(capsys, "gc")

    assert code == 0
    assert "Another memcard is at work" in err


def test_control_characters_of_a_name_in_a_tree_are_spelled_out(
    kept: PackedLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = {"memcard.delta.base_sha256": "a" * 64, "memcard.delta.base_name": "\x1b[31mred"}
    kept.library.add([small.save(tmp_path / "delta.safetensors", small.weights(1), meta)])

    code, out, _ = said(capsys, "tree", "delta")

    assert code == 0
    assert "\x1b" not in out
    assert "[31mred" in out


def test_inspect_calls_a_packed_checkpoint_by_its_name_and_says_where_it_was(
    kept: PackedLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.hide("tune")

    code, out, _ = said(capsys, "inspect", "tune")

    assert code == 0
    assert out.startswith("tune: ok")
    assert f"The original was {kept.file('tune')}, which is not there any more." in _one_line(out)
    assert "`memcard export 'tune' FILE` writes it" in _one_line(out)
    assert str(kept.library.layout.shelf("packed")) not in out
    digest = kept.digests["tune"][:12]
    assert json.loads(said(capsys, "inspect", digest, "--json")[1])["path"] == "tune"
    assert said(capsys, "inspect", "base")[1].startswith(f"{kept.file('base')}: ok")


def test_inspect_and_show_tell_of_originals_in_the_trash(
    kept: PackedLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.library.pack("tune", replace_originals=True)
    (entry,) = kept.library.trashed()

    shown, out = said(capsys, "show", "tune")[1], said(capsys, "inspect", "tune")[1]

    assert f"{kept.file('tune')} (in the trash; memcard undo {entry.entry} puts it back)" in shown
    assert f"{kept.file('tune')}; it is in the trash" in _one_line(out)


def _one_line(text: str) -> str:
    return " ".join(text.split())
