"""`memcard runs` on the command line: what it prints, what it asks, and how it ends."""

import json
import os
import subprocess
import sys
import time

import pytest

from fixtures.runs import log, losses, run_folder
from fixtures.training import write_save
from memcard.cli import _runs_view as view
from memcard.cli.main import main
from memcard.jobs import _runs_log
from memcard.training.keep import Keep
from memcard.training.saves import name_of


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def neon(home):
    keep = Keep(last=2, best=1, by="loss").to_dict()
    folder = run_folder(
        home / "runs" / "neon", steps=40, keep=keep, settings={"lr": 0.1}, id="0" * 16
    )
    for step in (5, 10):
        write_save(folder, step, metrics={"loss": 1 / step}, time=time.time() - 50)
    log(folder, losses(10))
    return folder


def said(capsys, *args):
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_list_tells_state_progress_loss_and_saves(neon, capsys):
    code, out, err = said(capsys, "runs")
    header, row = out.splitlines()
    assert code == 0
    assert header.split() == [
        "run",
        "state",
        "steps",
        "loss",
        "saves",
        "newest",
        "best",
        "disk",
        "when",
    ]
    assert row.startswith("neon  crashed  10/40 25 %  0.1   ")
    assert "█" in row
    assert row.split()[-3:] == ["s", "ago"] or row.endswith("ago")
    assert err == ""


def test_folders_can_be_named_and_json_has_the_same(neon, capsys):
    code, out, _ = said(capsys, "runs", neon.parent, "--json")
    (run,) = json.loads(out)
    assert code == 0
    assert (run["name"], run["state"], run["step"], run["steps"]) == ("neon", "crashed", 10, 40)
    assert run["saves"] == [5, 10]


def test_without_runs_it_ends_with_one(home, capsys):
    code, out, err = said(capsys, "runs")
    assert (code, out) == (1, "")
    assert "memcard.Checkpointer" in err


def test_a_narrow_terminal_gets_fewer_columns(neon, capsys, monkeypatch):
    monkeypatch.setattr(view, "width", lambda: 60)
    header, row = said(capsys, "runs")[1].splitlines()
    assert "disk" not in header
    assert len(row) <= 60


def test_where_there_is_no_unicode_plain_characters_do(neon):
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for arguments in (["runs"], ["runs", "show", "neon"]):
        done = subprocess.run(
            [sys.executable, "-m", "memcard", *arguments], capture_output=True, env=env, check=True
        )
        assert done.stdout.isascii()
        assert b"neon" in done.stdout
        assert b"*" in done.stdout or b"@" in done.stdout


def test_show_prints_everything(neon, capsys):
    code, out, _ = said(capsys, "runs", "show", "neon")
    assert code == 0
    assert "crashed after step 10 of 40, 25 %" in out
    assert "the 2 newest, the one of lowest loss" in out
    assert "python train.py" in out
    assert "lr 0.1" in out
    assert any(line.startswith("10 ") and line.endswith("best") for line in out.splitlines())
    assert "└─" in out


def test_a_page_is_written_once(neon, tmp_path, capsys):
    page = tmp_path / "run.html"
    assert said(capsys, "runs", "show", "neon", "--html", page)[0] == 0
    assert "<svg" in page.read_text()
    assert said(capsys, "runs", "show", "neon", "--html", page)[0] == 2
    assert said(capsys, "runs", "show", "neon", "--html", page, "--force")[0] == 0


def test_a_picture_is_written_once(neon, tmp_path, capsys):
    out = tmp_path / "curve.png"
    code, _, err = said(capsys, "runs", "show", "neon", "--png", out)
    assert code == 0
    assert f"picture: {out}" in err
    assert out.read_bytes().startswith(b"\x89PNG")
    assert said(capsys, "runs", "show", "neon", "--png", out)[0] == 2
    assert said(capsys, "runs", "show", "neon", "--png", out, "--force")[0] == 0


def test_of_a_long_log_show_says_that_it_read_samples(neon, capsys, monkeypatch):
    assert "samples" not in said(capsys, "runs", "show", "neon")[2]
    monkeypatch.setattr(_runs_log, "_WHOLE", 100)
    assert "samples from all over it" in said(capsys, "runs", "show", "neon")[2]


def test_resume_shows_the_command_and_starts_strangers_only_when_told(neon, tmp_path, capsys):
    command = {"argv": [sys.executable, "-c", "print(1)"], "cwd": str(tmp_path)}
    run_folder(neon, command=command, id="0" * 16)

    code, out, _ = said(capsys, "runs", "resume", "neon", "--dry-run")
    assert code == 0
    assert out == f"cd {tmp_path}\n{sys.executable} -c 'print(1)'\n"
    code, _, err = said(capsys, "runs", "resume", "neon")
    assert code == 2
    assert "--yes" in err
    done = subprocess.run(
        [sys.executable, "-m", "memcard", "runs", "resume", "neon", "--yes"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
    assert "neon goes on after step 10" in done.stderr


def test_promote_prints_what_was_made(neon, capsys):
    code, out, _ = said(capsys, "runs", "promote", "neon", "best", "--as", "mine", "--dry-run")
    assert code == 0
    assert "step 10 of neon, raw weights" in out
    code, out, _ = said(capsys, "runs", "promote", "neon", "5", "--as", "mine", "--json")
    assert (code, json.loads(out)["step"]) == (0, 5)
    assert said(capsys, "runs", "promote", "neon", "5", "--as", "mine")[0] == 2
    assert said(capsys, "runs", "promote", "neon", "5", "--as", "b", "--ema")[0] == 2
    assert said(capsys, "runs", "promote", "neon", "6", "--as", "b")[0] == 6


def test_prune_lists_and_says_the_way_back(neon, capsys):
    code, out, err = said(capsys, "runs", "prune", "neon", "--last", "1", "--dry-run")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()[1:]] == ["goes", "stays"]
    assert "would go to the trash" in err
    _, _, err = said(capsys, "runs", "prune", "neon", "--last", "1")
    entry = err.split("memcard undo ")[1].split(".")[0]
    assert said(capsys, "undo", entry)[0] == 0
    assert (neon / name_of(5)).exists()
    assert said(capsys, "runs", "prune", "neon", "--best", "1")[0] == 2
    assert "keep every save" in said(capsys, "runs", "prune", "neon")[2]


def test_verify_ends_with_eight_on_damage(neon, capsys):
    assert said(capsys, "runs", "verify", "neon")[0] == 0
    path = neon / name_of(10)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    code, out, _ = said(capsys, "runs", "verify", "neon")
    assert code == 8
    assert "every byte is right" in out
    assert "do not match" in out


def test_a_stranger_may_not_send_control_characters(home, capsys):
    folder = run_folder(home / "runs" / "x", name="\x1b[31mred", settings={"a": "\x1b[2J"})
    log(
        folder, [{"step": 1, "metrics": {"\x1b[1m": 1.0}}, {"step": 2, "metrics": {"\x1b[1m": 2.0}}]
    )
    for arguments in (("runs",), ("runs", "show", folder)):
        assert "\x1b" not in said(capsys, *arguments)[1]


def test_nothing_heavy_is_imported_for_a_list(neon):
    code = (
        "import sys; from memcard.cli.main import main; main(['runs']);"
        "assert not {'torch', 'rich'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 s"), (95, "2 min"), (5400, "1.5 h"), (40_000, "11 h"), (200_000, "2 d")],
)
def test_times_are_readable(seconds, text):
    assert view.span(seconds) == text
