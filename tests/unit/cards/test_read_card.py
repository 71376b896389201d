"""One card of everything that lies beside a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fixtures import sidecars
from fixtures.sidecars import Beside, write
from memcard.cards import Subject, names_in, read_card
from memcard.cards._take import html_text


def test_what_a_person_entered_counts_more_than_what_a_site_said(beside: Beside) -> None:
    card = read_card(beside({**sidecars.ALL, ".memcard.json": {"title": "Mine"}}))

    assert (card.title, card.origin["title"]) == ("Mine", "memcard_sidecar")
    assert (card.description, card.origin["description"]) == ("A brush.", "a1111_sidecar")
    assert (card.settings["strength"], card.settings["cfg"]) == (0.8, 5.5)
    assert card.origin["settings.cfg"] == "stability_matrix"  # a guess of Civitai's pictures yields
    assert card.origin["permissions.allowNoCredit"] == "civitai_info"
    assert "title: memcard_sidecar says 'Mine', lora_manager says 'Oil Brush'." in card.notes


def test_nothing_beside_it_is_an_empty_card(beside: Beside) -> None:
    assert list(read_card(beside()).stated()) == []


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("x.safetensors", "x"),
        ("x.v1.5.ckpt", "x.v1.5"),
        ("x.safetensors.index.json", "x"),
        ("x.SAFETENSORS.index.json", "x"),
    ],
)
def test_sidecars_are_named_after_the_file_without_its_ending(
    tmp_path: Path, name: str, stem: str
) -> None:
    write(tmp_path / f"{stem}.swarm.json", {"modelspec.title": "t"})

    assert read_card(Subject(tmp_path / name)).title == "t"


def test_a_folder_has_its_sidecars_beside_it(tmp_path: Path) -> None:
    (tmp_path / "my.model").mkdir()
    write(tmp_path / "my.model.memcard.json", {"title": "t"})

    assert read_card(Subject(tmp_path / "my.model")).title == "t"


def test_the_checkpoint_is_not_its_own_sidecar(tmp_path: Path) -> None:
    write(tmp_path / "x.json", {"description": "this is the checkpoint itself"})

    assert read_card(Subject(tmp_path / "x.json")).description is None


def test_names_that_were_listed_are_not_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "x.memcard.json", {"title": "t"})
    names = names_in(tmp_path)
    monkeypatch.setattr(os, "scandir", None)

    assert read_card(Subject(tmp_path / "x.safetensors", beside=names)).title == "t"
    assert read_card(Subject(tmp_path / "x.safetensors", beside={})).title is None


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.civitai.info")

    card = read_card(Subject(tmp_path / "x.safetensors"))

    assert card.notes == ("x.civitai.info: is no regular file. It is not used.",)


def test_a_sidecar_that_leads_nowhere_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "x.civitai.info").symlink_to("gone")

    card = read_card(Subject(tmp_path / "x.safetensors"))

    assert card.notes == ("x.civitai.info: No such file or directory. It is not used.",)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("plain, as it is", "plain, as it is"),
        ("a &amp; b", "a & b"),
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("a<br/>b<br>c", "a\nb\nc"),
        ("<ul><li>x</li><li><b>y</b></li></ul>", "- x\n- y"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<script>alert(1)</script>kept<style>p{}</style>", "kept"),
        ("&lt;script&gt;", "<script>"),
        ("<a href='x'>link</a> after", "link after"),
        ("<script>never closed", ""),
    ],
)
def test_pages_become_text(page: str, text: str) -> None:
    assert html_text(page) == text


def test_hostile_pages_take_no_time() -> None:
    for piece in ("<", "<a ", "<!--", "&#", "<script>", "</"):
        html_text(piece * 100_000)
