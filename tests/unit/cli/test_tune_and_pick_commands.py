import json
from pathlib import Path

import pytest

from memcard.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEMCARD_CACHE", str(tmp_path / "cache"))


def test_pick_prints_a_ranking_with_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pick", "neon", "glow"]) == 0

    shown = capsys.readouterr().out
    assert "1.  starter/finetune_neon" in shown
    assert "'glow' is in its title" in shown


def test_pick_as_json_has_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pick", "neon glow", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert [c["ref"] for c in found["candidates"]] == ["starter/finetune_neon"]
    assert found["words"] == ["neon", "glow"]


def test_pick_ends_with_one_if_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pick", "submarines"]) == 1

    assert "Nothing says that it is for 'submarines'" in capsys.readouterr().err


def test_tune_refuses_a_budget_nobody_can_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "starter", "--budget", "5"]) == 2

    assert "30 to 2000 pictures are possible" in capsys.readouterr().err


@pytest.mark.slow
def test_tune_prints_both_settings_and_where_the_page_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("cartoon of a robot\nflat icon of a rocket\n3d render of a lion\n")
    out = tmp_path / "out"

    code = main(["tune", "starter", "--prompts", str(prompts), "--budget", "30", "--steps", "3",
                 "--sampler", "dpmpp_2m", "-o", str(out)])  # fmt: skip

    shown = capsys.readouterr().out
    assert code in (0, 1)
    assert str(out / "index.html") in shown
    assert "adherence" in shown
