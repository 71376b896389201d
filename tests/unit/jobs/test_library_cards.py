"""Cards of names: read with the file, edited in the library, and used where they matter."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fixtures import small
from memcard.core.card import Card
from memcard.errors import CorruptError, NotFoundError, UnsupportedError, UsageError
from memcard.jobs._library_cards import with_card
from memcard.jobs.card import card, set_card, write_sidecar
from memcard.jobs.library import Library
from memcard.jobs.license import license_of
from memcard.store import cards
from memcard.store.writer import Writer

PAST = 1_600_000_000_000_000_000


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return Library()


@pytest.fixture
def neon(tmp_path: Path) -> Path:
    path = small.save(
        tmp_path / "neon.safetensors", small.weights(1), {"modelspec.title": "Neon nights"}
    )
    os.utime(path, ns=(PAST, PAST))
    path.with_suffix(".json").write_text('{"activation text": "glow", "notes": "at dusk"}')
    return path


def test_what_stands_beside_a_file_is_kept_when_it_is_added(library: Library, neon: Path) -> None:
    library.add([neon], how="copy")

    for path in (neon, neon.with_suffix(".json")):
        path.unlink()

    found = card("neon")
    assert (found.title, found.trigger_words, found.remarks) == (
        "Neon nights",
        ("glow",),
        "at dusk",
    )
    assert library.show("neon").to_dict()["card"]["trigger_words"] == ["glow"]


def test_the_users_words_are_kept_in_the_library_and_stand_above_the_rest(
    library: Library, neon: Path
) -> None:
    library.add([neon])
    before = sorted(path.name for path in neon.parent.iterdir())
    manifest = library.show("neon").version.manifest

    done = set_card("neon", [("title", "Mine"), ("cfg", "5")])

    assert done.path == cards.path_of(library.layout, library.show("neon").version.sha256)
    found = card("neon")
    assert (found.title, found.origin["title"], found.settings["cfg"]) == ("Mine", "library", 5)
    assert found.trigger_words == ("glow",)
    assert library.show("neon").version.manifest == manifest
    assert sorted(path.name for path in neon.parent.iterdir()) == before

    set_card("neon", [("title", "")])
    assert card("neon").title == "Neon nights"
    assert card("neon").settings["cfg"] == 5


def test_adding_again_keeps_what_the_user_said(library: Library, neon: Path) -> None:
    library.add([neon])
    set_card("neon", [("tags", "mine")])
    neon.with_suffix(".json").write_text('{"activation text": "shine"}')
    os.utime(neon)

    library.add([neon])

    kept = cards.get(library.layout, library.show("neon").version.sha256)
    assert kept is not None
    assert (kept.said.tags, kept.read.trigger_words) == (("mine",), ("shine",))


def test_a_sidecar_that_was_written_later_is_seen(library: Library, neon: Path) -> None:
    library.add([neon])

    neon.with_suffix(".json").write_text('{"activation text": "shine"}')

    assert card("neon").trigger_words == ("shine",)


def test_generate_hears_of_the_settings_of_a_name(library: Library, neon: Path) -> None:
    library.add([neon])
    old = {"memcard.card": '{"settings": {"steps": 9, "cfg": 3}, "kind": "checkpoint"}'}
    assert with_card("neon", old) == old

    set_card("neon", [("cfg", "5.5")])

    found = json.loads(with_card("neon", old)["memcard.card"])
    assert found == {"settings": {"steps": 9, "cfg": 5.5}, "kind": "checkpoint"}
    assert with_card(neon, old) == old  # a path speaks for itself
    assert json.loads(with_card("neon", {"memcard.card": "["})["memcard.card"]) == {
        "settings": {"cfg": 5.5}
    }


def test_two_names_of_the_same_bytes_share_a_card(library: Library, neon: Path) -> None:
    library.add([neon])
    library.add([neon], name="second")

    set_card("second", [("remarks", "shared")])

    assert card("neon").remarks == "shared"


def test_faulty_edits_change_nothing(library: Library, neon: Path) -> None:
    library.add([neon])
    set_card("neon", [("title", "Mine")])

    with pytest.raises(UsageError, match="no_such"):
        set_card("neon", [("title", "Other"), ("no_such", "x")])
    set_card("neon", [("title", "Other")], dry_run=True)

    assert card("neon").title == "Mine"


def test_a_sidecar_for_other_tools_has_the_users_words_too(library: Library, neon: Path) -> None:
    library.add([neon])
    set_card("neon", [("remarks", "from the library")])

    done = write_sidecar("neon", "a1111", overwrite=True)

    assert done.path == neon.with_suffix(".json")
    assert "from the library" in done.path.read_text()


def test_a_damaged_card_is_told_and_one_of_a_newer_version_refused(
    library: Library, neon: Path
) -> None:
    library.add([neon])
    set_card("neon", [("title", "Mine")])
    path = cards.path_of(library.layout, library.show("neon").version.sha256)
    raw = path.read_bytes()

    path.write_bytes(raw.replace(b"Mine", b"Nine"))
    with pytest.raises(CorruptError, match="check"):
        card("neon")
    path.write_bytes(b'{"card":2,"sha256":"' + path.stem.encode() + b'"}\n')
    with pytest.raises(UnsupportedError, match="Upgrade"):
        card("neon")
    path.write_bytes(b'{"card":1,"sha256":"' + b"0" * 64 + b'"}\n')
    with pytest.raises(CorruptError, match="another checkpoint"):
        card("neon")


def test_a_file_that_says_nothing_gets_no_card(library: Library, tmp_path: Path) -> None:
    library.add([small.save(tmp_path / "plain.safetensors", small.weights(3))])

    assert list(cards.every(library.layout)) == []
    with Writer(library.layout) as writer, writer.commit():
        cards.note_read(writer, "0" * 64, Card())
    assert list(cards.every(library.layout)) == []


def test_the_license_of_a_name_hears_the_user_and_the_parents_in_the_library(
    library: Library, neon: Path, tmp_path: Path
) -> None:
    library.add([neon])
    parent = library.show("neon").version.sha256
    (tmp_path / "child").mkdir()
    made_from = [{"name": "gone.safetensors", "sha256": parent, "license": "unknown"}]
    recipe = {"parents": [parent], "made_from": made_from}
    child = small.save(
        tmp_path / "child" / "mix.safetensors",
        small.weights(2),
        {
            "memcard.card": json.dumps(recipe),
            "sd_merge_models": json.dumps({parent: {"name": "gone"}}),
        },
    )
    library.add([child])
    assert license_of("mix").verdict.license == "unknown"

    set_card("neon", [("license", "mit")])

    found = license_of("mix")
    assert [(p.name, p.license.id) for p in found.verdict.parents] == [("gone", "mit")]
    assert "library" in found.verdict.parents[0].origin


def test_the_license_of_a_packed_name_without_a_file(
    library: Library, neon: Path, tmp_path: Path
) -> None:
    neon.with_suffix(".civitai.info").write_text('{"model": {"allowCommercialUse": "{Image}"}}')
    library.add([neon])
    set_card("neon", [("license", "cc-by-nc-4.0")])
    library.pack()
    neon.unlink()

    found = license_of("neon")

    assert "cc-by-nc-4.0" in {p.license.id for p in found.verdict.parents}


def test_the_library_object_has_cards_too(neon: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "another home")  # not the one of the environment
    library.add([neon])

    found = library.describe("neon", {"cfg": "5", "tags": "film, portrait"})

    assert found.settings["cfg"] == 5
    assert library.card("neon").tags == ("film", "portrait")
    assert library.describe("neon", {"tags": ""}).tags == ()
    with pytest.raises(UsageError):
        library.describe("neon", {"no_such": "x"})
    with pytest.raises(NotFoundError):
        library.card("nobody")
