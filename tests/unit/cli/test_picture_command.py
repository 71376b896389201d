"""memcard picture as people type it."""

import json
from pathlib import Path

import pytest

from fixtures import foreign_images as foreign
from fixtures.foreign_images import png, write
from memcard.cli.main import main


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write(tmp_path / "a.png", png({"parameters": foreign.A1111, "other": "x"}))


def test_a_picture_is_shown_with_what_is_missing(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["picture", str(image)]) == 0

    lines = capsys.readouterr().out.splitlines()
    shown = [" ".join(line.split()) for line in lines]
    assert "made by A1111" in shown
    assert "size 512x768" in shown
    assert "checkpoint v1-5-pruned 45dee52b12" in shown
    assert any("The LoRA 'film' (hash 9a2b3c4d5e6f) is not at hand." in line for line in shown)


def test_json_is_an_object_for_one_and_a_list_for_several(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["picture", str(image), "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    other = write(image.with_name("b.png"), png({"parameters": foreign.FORGE}))
    assert main(["picture", str(image), str(other), "--json"]) == 0
    both = json.loads(capsys.readouterr().out)

    assert one["seed"] == 965400086
    assert one["again"]["missing"]
    assert [facts["tool"] for facts in both] == ["A1111", "Forge"]


def test_a_text_is_printed_as_it_stands(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["picture", str(image), "--raw", "parameters"]) == 0
    assert capsys.readouterr().out == f"{foreign.A1111}\n"

    assert main(["picture", str(image), "--raw", "none"]) == 2
    assert "There are: parameters, other." in capsys.readouterr().err


def test_a_picture_that_says_nothing_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["picture", str(write(tmp_path / "a.png", png({})))]) == 1
    assert "Nothing in the file says how it was made." in capsys.readouterr().out


def test_faults_have_their_exit_codes(tmp_path: Path) -> None:
    assert main(["picture", str(tmp_path / "none.png")]) == 6
    assert main(["picture", str(write(tmp_path / "a.png", b"BM nothing"))]) == 5
    assert main(["picture", str(write(tmp_path / "b.png", b"\x89PNG\r\n\x1a\n"))]) == 4


def test_no_control_character_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        tmp_path / "a.png", png({"parameters": "a\x1b[2Jcat\nSteps: 1, Seed: 2, CFG scale: 3"})
    )

    main(["picture", str(path)])
    main(["picture", str(path), "--raw", "parameters"])
    main(["picture", str(path), "--json"])

    assert "\x1b" not in capsys.readouterr().out
