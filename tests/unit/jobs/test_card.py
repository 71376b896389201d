"""Cards of real files; what the user says goes beside the file and never into it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from fixtures import sidecars
from fixtures.sidecars import write
from memcard.core.card import Card
from memcard.errors import CorruptError, DiskError, NotFoundError, UsageError
from memcard.formats import open_file
from memcard.jobs import card as job
from memcard.jobs.resolve import starter_folder

STARTER = starter_folder() / "lora_pixel.safetensors"


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    path.write_bytes(STARTER.read_bytes())
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_starter_has_a_card() -> None:
    card = job.card("starter")

    assert (card.title, card.license) == ("memcard starter", "Apache-2.0")
    assert card.settings["cfg"] == 3
    assert card.origin["settings.cfg"] == "memcard_metadata"
    assert card.notes == ()


def test_a_card_is_header_and_sidecars_together(lora: Path) -> None:
    write(lora.with_suffix(".json"), sidecars.A1111)

    card = job.card(lora)

    assert card.origin["trigger_words"] == "a1111_sidecar"
    assert card.origin["title"] == "modelspec"


def test_a_file_that_cannot_be_read_still_has_its_sidecars(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", b"\x08\0\0\0\0\0\0\0{notjson")
    write(tmp_path / "x.memcard.json", {"title": "mine"})

    card = job.card(path)

    assert card.title == "mine"
    assert card.notes[0].startswith(f"The file itself cannot be read: {path}")


def test_a_pickle_that_asks_to_run_code_gives_only_its_sidecars(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ckpt", b"cposix\nsystem\n(S'touch /tmp/owned'\ntR.")
    write(tmp_path / "x.txt", "words")

    card = job.card(path)

    assert card.description == "words"
    assert "cannot be read" in card.notes[0]


def test_a_missing_file_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        job.card(tmp_path / "no.safetensors")


def test_what_the_user_says_goes_beside_the_file(lora: Path) -> None:
    before = digest(lora)

    made = job.set_card(
        lora, [("title", "Mine"), ("cfg", "5"), ("tags", "a, b"), ("size", "64x64")]
    )

    assert digest(lora) == before
    assert made.path == lora.with_suffix(".memcard.json")
    assert json.loads(made.path.read_text("utf-8")) == {
        "memcard_card": 1,
        "title": "Mine",
        "tags": ["a", "b"],
        "settings": {"cfg": 5, "size": "64x64"},
    }
    assert made.card == job.card(lora)
    assert made.card.origin["settings.cfg"] == "memcard_sidecar"
    assert sorted(p.name for p in lora.parent.iterdir()) == ["x.memcard.json", "x.safetensors"]


def test_an_empty_value_takes_back_what_was_said(lora: Path) -> None:
    stated = job.card(lora).title
    job.set_card(lora, [("title", "Mine"), ("links.home", "https://example.org"), ("tags", "a")])

    made = job.set_card(lora, [("title", ""), ("links.home", " "), ("tags", "")])

    assert made.card.title == stated
    assert made.content == {"memcard_card": 1}


def test_setting_one_field_keeps_the_others_and_what_no_card_has(lora: Path) -> None:
    sidecar = write(lora.with_suffix(".memcard.json"), {"author": "me", "mood": [1, {"a": None}]})

    job.set_card(lora, [("permissions.allowDerivatives", "no")])

    found = json.loads(sidecar.read_text("utf-8"))
    assert found == {
        "memcard_card": 1,
        "author": "me",
        "permissions": {"allowDerivatives": False},
        "mood": [1, {"a": None}],
    }
    assert Card.from_json(sidecar.read_text("utf-8")).extra["memcard"]["mood"] == [1, {"a": None}]


def test_every_wrong_field_is_named_before_anything_is_written(lora: Path) -> None:
    wrong = [("titel", "x"), ("cfg", "9999"), ("hashes.sha256", "ab"), ("author", "fine")]

    with pytest.raises(UsageError) as caught:
        job.set_card(lora, wrong)

    assert "titel: is no field of a card. Did you mean 'title'?" in str(caught.value)
    assert "cfg: is '9999'; it must be 0 to 1000." in str(caught.value)
    assert "hashes.sha256: 'ab' is not 64 hex digits." in str(caught.value)
    assert not lora.with_suffix(".memcard.json").exists()


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("trigger words", "trigger_words"),
        ("trigger-words", "trigger_words"),
        ("sampler", "settings.sampler"),
        ("settings.sampler", "settings.sampler"),
        ("allowNoCredit", "permissions.allowNoCredit"),
        ("links.my-page", "links.my-page"),
    ],
)
def test_fields_may_be_typed_as_people_do(lora: Path, typed: str, name: str) -> None:
    value = "https://example.org" if name.startswith("links") else "yes"

    assert name in job.set_card(lora, [(typed, value)], dry_run=True).content or name in dict(
        Card.from_json(json.dumps(job.set_card(lora, [(typed, value)]).content)).stated()
    )


@pytest.mark.parametrize(
    "typed", ["NAME", "links.NAME x", "links.", "origin", "extra", "notes", ""]
)
def test_what_is_no_field_cannot_be_set(lora: Path, typed: str) -> None:
    with pytest.raises(UsageError):
        job.set_card(lora, [(typed, "https://example.org")])


def test_a_dry_run_writes_nothing(lora: Path) -> None:
    made = job.set_card(lora, [("title", "Mine")], dry_run=True)

    assert made.content["title"] == "Mine"
    assert list(lora.parent.iterdir()) == [lora]


@pytest.mark.parametrize("content", ["{", "[]", '{"title": 3}', '{"memcard_card": 99}'])
def test_a_sidecar_that_cannot_be_read_is_left_as_it_is(lora: Path, content: str) -> None:
    sidecar = write(lora.with_suffix(".memcard.json"), content)

    with pytest.raises(ValueError, match=r"x\.memcard\.json"):
        job.set_card(lora, [("title", "Mine")])

    assert sidecar.read_text("utf-8") == content


def test_the_files_of_the_package_are_not_written_beside() -> None:
    with pytest.raises(UsageError, match="is a part of memcard itself"):
        job.set_card("starter", [("title", "x")])


def test_nothing_is_written_into_a_library(tmp_path: Path, lora: Path) -> None:
    write(tmp_path / "library.json", {"format": "memcard-library", "version": 1})
    (tmp_path / "files" / "ab").mkdir(parents=True)
    owned = lora.rename(tmp_path / "files" / "ab" / "abcd")

    with pytest.raises(UsageError, match="lies in a library"):
        job.set_card(owned, [("title", "x")])

    assert list(owned.parent.iterdir()) == [owned]


def test_a1111_gets_what_it_can_show(lora: Path) -> None:
    job.set_card(lora, [("strength", "0.7"), ("base_model", "SDXL 1.0"), ("remarks", "hm")])

    made = job.write_sidecar(lora, "a1111")

    found = json.loads((lora.parent / "x.json").read_text("utf-8"))
    assert made.path.name == "x.json"
    assert (found["preferred weight"], found["sd version"], found["notes"]) == (0.7, "SDXL", "hm")
    assert found["activation text"] == ", ".join(job.card(lora).trigger_words)


def test_a_sidecar_that_is_there_is_changed_only_when_asked(lora: Path) -> None:
    old = write(lora.with_suffix(".json"), {"description": "old", "foreign": 1})
    job.set_card(lora, [("description", "new")])

    with pytest.raises(UsageError, match=r"is there already\. Add --force"):
        job.write_sidecar(lora, "a1111")
    assert json.loads(old.read_text("utf-8")) == {"description": "old", "foreign": 1}

    job.write_sidecar(lora, "a1111", overwrite=True)
    found = json.loads(old.read_text("utf-8"))
    assert (found["description"], found["foreign"]) == ("new", 1)


def test_a_file_of_that_name_that_is_no_sidecar_is_never_replaced(lora: Path) -> None:
    old = write(lora.with_suffix(".json"), "[1, 2]")

    with pytest.raises(CorruptError, match="It was left as it is"):
        job.write_sidecar(lora, "a1111", overwrite=True)

    assert old.read_text("utf-8") == "[1, 2]"


def test_modelspec_beside_the_file_says_the_same_as_the_card(lora: Path) -> None:
    job.set_card(lora, [("title", "Mine"), ("clip_skip", "2")])
    before = job.card(lora)

    made = job.write_sidecar(lora, "modelspec-sidecar")

    assert made.path.name == "x.swarm.json"
    assert made.content["modelspec.title"] == "Mine"
    assert made.content["modelspec.encoder_layer"] == "2"
    assert dict(made.card.stated()) == dict(before.stated())


def test_an_unknown_style_lists_those_there_are(lora: Path) -> None:
    with pytest.raises(UsageError, match="there are: a1111, modelspec-sidecar"):
        job.write_sidecar(lora, "xml")


def test_a_full_disk_leaves_the_old_sidecar(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = write(lora.with_suffix(".memcard.json"), {"title": "old"})
    before = sidecar.read_bytes()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError):
        job.set_card(lora, [("title", "new")])
    monkeypatch.undo()

    assert sidecar.read_bytes() == before
    assert sorted(p.name for p in lora.parent.iterdir()) == ["x.memcard.json", "x.safetensors"]


def test_generation_finds_the_settings_where_the_card_says_they_are() -> None:
    checkpoint = open_file(starter_folder() / "base.safetensors")
    said = json.loads(checkpoint.metadata["memcard.card"])["settings"]
    checkpoint.close()

    assert {k: v for k, v in job.card("starter").settings.items() if k in said} == said
