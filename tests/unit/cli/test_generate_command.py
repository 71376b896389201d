"""memcard generate as people type it: many lines, and what a run would use."""

import io
import json
from pathlib import Path

import pytest

from memcard.cli.main import main

QUICK = ["--steps", "1", "--device", "cpu", "--dtype", "F32"]


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_each_line_of_a_file_becomes_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_text("# mine\na rocket\na red apple\n")

    code = main(
        [
            "generate",
            "--prompts",
            f"{tmp_path / 'p.txt'}",
            "-o",
            f"{tmp_path}",
            "--seed",
            "3",
            *QUICK,
        ]
    )

    out, err = capsys.readouterr()
    assert code == 0
    assert out.split() == [str(tmp_path / f"{name}-3.png") for name in ("a-rocket", "a-red-apple")]
    assert all(Path(path).is_file() for path in out.split())
    assert [line.split(",")[0] for line in err.splitlines()] == [
        "1/2  a rocket",
        "2/2  a red apple",
    ]


def test_stdin_feeds_it_and_one_line_that_fails_ends_it_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin(monkeypatch, b'{"prompt": "a rocket", "seed": 4}\n{"seed": 1}\ncaf\xe9\na dog\x1b[2J\n')

    code = main(
        ["generate", "--prompts", "-", "-o", str(tmp_path), "--json", "--seed", "5", *QUICK]
    )

    out, err = capsys.readouterr()
    first, second, third, fourth = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert (first["line"], first["of"], first["seed"]) == (1, None, 4)
    assert Path(first["file"]).is_file()
    assert (second["line"], second["exit_code"]) == (2, 2)
    assert "UTF-8" in third["error"]
    assert (fourth["line"], fourth["seed"]) == (4, 5)
    assert "2 lines failed; 2 pictures made." in err
    assert "\x1b" not in out + err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["a cat"], "leave PROMPT out"),
        (["--dry-run"], "about one run"),
        (["-o", "x.png"], "Name a folder"),
    ],
)
def test_what_does_not_go_with_lines_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    (tmp_path / "p.txt").write_text("a rocket\n")

    assert main(["generate", "--prompts", str(tmp_path / "p.txt"), *more]) == 2
    assert words in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_used_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["generate", "a rocket", "--lora", "starter/lora_pixel:0.5", "--dry-run", *QUICK]

    assert main(line) == 0
    out, err = capsys.readouterr()
    assert main([*line, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)

    shown = {" ".join(row.split()) for row in out.splitlines()}
    assert {"LoRAs starter/lora_pixel:0.5", "steps 1 user", "computed in F32 on cpu"} <= shown
    assert any(row.startswith("unet starter") for row in shown)
    assert "nothing was made" in err
    assert list(tmp_path.iterdir()) == []
    assert facts["settings"]["steps"] == 1
    assert facts["origin"]["steps"] == "user"
    assert facts["memory"]["fits"] is (facts["memory"]["needed"] <= facts["memory"]["free"])


def test_a_dry_run_needs_no_prompt_and_refuses_like_a_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["generate", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == "starter"

    assert main(["generate", "-c", "nowhere.safetensors", "--dry-run"]) == 6
    assert main(["generate", "a cat", "--size", "65x64", "--dry-run"]) == 2


@pytest.mark.parametrize(("out", "code"), [("missing/x.png", 6), ("x.bmp", 2)])
def test_a_place_that_cannot_be_is_told_before_anything_is_painted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, code: int
) -> None:
    def painted(*args: object, **kwargs: object) -> None:
        raise AssertionError("painted first")

    monkeypatch.setattr("memcard.jobs.generate_again.run", painted)

    assert main(["generate", "a cat", "-o", str(tmp_path / out)]) == code
