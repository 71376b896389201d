"""Commands as people and scripts use them: facts on stdout, the right exit code."""

import json
from pathlib import Path

import pytest

from memcard.cli.main import main

BROKEN = b"\x08\0\0\0\0\0\0\0{notjson"


def facts(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out)


def test_inspect_prints_an_object_for_one_path_and_a_list_for_several(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["inspect", "starter", "--json"]) == 0
    one = facts(capsys)
    assert main(["inspect", "starter", "starter/raw", "--json"]) == 0
    several = facts(capsys)

    assert isinstance(one, dict)
    assert (one["verdict"], one["architecture"]) == ("ok", "starter")
    assert isinstance(several, list)
    assert several[0] == one


def test_inspect_ends_with_the_gravest_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.safetensors").write_bytes(BROKEN)
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    files = {p.stem: str(p) for p in tmp_path.iterdir()}

    codes = [main(["inspect", files[name]]) for name in ("broken", "note", "evil")]

    assert codes == [4, 5, 3]
    assert main(["inspect", "starter", *files.values()]) == 3
    assert "UNSAFE" in capsys.readouterr().out


def test_inspect_lists_tensors_and_digests(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "starter", "--tensors", "--digests"]) == 0

    out = capsys.readouterr().out
    assert "model.diffusion_model.input_blocks.0.0.weight" in out
    assert "autov3" in out


def test_convert_there_and_back_gives_the_same_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ckpt, back = tmp_path / "a.ckpt", tmp_path / "b.safetensors"

    assert main(["convert", "starter", str(ckpt)]) == 0
    assert main(["convert", str(ckpt), str(back), "--json"]) == 0

    from memcard.jobs.resolve import locate

    assert back.read_bytes() == locate("starter").read_bytes()
    assert main(["convert", "starter", str(back)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_merge_plans_then_writes_then_bakes_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again = tmp_path / "m.safetensors", tmp_path / "again.safetensors"
    line = ["merge", "weighted_average", "starter", "starter/raw", "--weights", "0.7,0.3"]

    assert main([*line, "--out", str(out), "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().err
    assert not out.exists()
    assert main([*line, "--out", str(out), "--json"]) == 0
    made = facts(capsys)
    assert main(["bake", str(out), "--out", str(again)]) == 0

    assert isinstance(made, dict)
    assert made["recipe"]["node"]["op"] == "weighted_average"
    assert again.read_bytes() == out.read_bytes()


def test_set_passes_parameters_and_refuses_unknown_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        "merge",
        "weighted_average",
        "starter",
        "starter/raw",
        "--out",
        str(tmp_path / "m.safetensors"),
    ]

    assert main([*line, "--set", "normalize=false", "--dry-run"]) == 0
    assert main([*line, "--set", "normalise=false"]) == 2
    assert "Did you mean 'normalize'" in capsys.readouterr().err
    assert main([*line, "--set", "nonsense"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_slip_in_a_merge_is_refused_with_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "m.safetensors")

    assert main(["merge", "weighted_averag", "starter", "starter/raw", "--out", out]) == 6
    err = capsys.readouterr().err
    assert "Did you mean 'weighted_average'" in err
    assert "identity" not in err
    assert main(["merge", "weighted_average", "starter", "--out", out]) == 2
    assert "at least two" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_lora_info_says_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    from memcard.jobs.resolve import names

    lora = next(name for name in names() if "/lora_" in name)

    assert main(["lora", "info", lora, "--base", "starter"]) == 0
    assert "every layer fits starter" in capsys.readouterr().out
    assert main(["lora", "info", lora, "--json"]) == 0
    assert isinstance(facts(capsys), dict)


def test_lora_bake_writes_a_whole_checkpoint(tmp_path: Path) -> None:
    from memcard.jobs.inspect import inspect
    from memcard.jobs.resolve import names

    lora, out = next(name for name in names() if "/lora_" in name), tmp_path / "styled.safetensors"

    assert main(["lora", "bake", "starter", f"{lora}:0.5", "--out", str(out)]) == 0
    assert inspect(out).architecture == "starter"


def test_generate_prints_files_and_facts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"

    assert main(["generate", "a rocket", "--steps", "2", "--seed", "1", "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert "cfg 3.0 (card)" in printed.err
    assert (
        main(["generate", "a rocket", "--steps", "2", "--seed", "1", "-o", str(out), "--json"]) == 0
    )
    found = facts(capsys)
    assert isinstance(found, dict)
    assert found["files"] == [str(out)]
    assert main(["generate", "a rocket", "--size", "65x64", "-o", str(out)]) == 2
