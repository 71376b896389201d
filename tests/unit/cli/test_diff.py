from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fixtures.small import save, weights
from memcard.cli._diff_text import percent
from memcard.cli.main import main

Out = pytest.CaptureFixture[str]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    old = {
        "model.diffusion_model.input_blocks.1.0.out_layers.3.weight": np.ones((4, 4), np.float32),
        "model.diffusion_model.middle_block.0.in_layers.2.weight": np.ones((4, 4), np.float32),
        "first_stage_model.decoder.conv_in.weight": np.ones((4, 4), np.float32),
        "gone": np.ones(1, np.float32),
    }
    new = {name: array for name, array in old.items() if name != "gone"}
    new["model.diffusion_model.middle_block.0.in_layers.2.weight"] = np.full(
        (4, 4), 1.5, np.float32
    )
    new["extra\x1b[31m"] = np.ones(1, np.float32)
    return str(save(tmp_path / "a.safetensors", old)), str(save(tmp_path / "b.safetensors", new))


def test_equal_files_end_with_0(files: tuple[str, str], capsys: Out) -> None:
    assert main(["diff", files[0], files[0]]) == 0

    assert "equal: 4 tensors, bit for bit" in capsys.readouterr().out


def test_a_difference_ends_with_1_and_is_shown_by_block(
    files: tuple[str, str], capsys: Out
) -> None:
    assert main(["diff", *files]) == 1

    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert (
        "different: of 3 tensors in both, 1 moved, 2 are equal bit for bit, 1 are only in A"
        in shown
    )
    assert "only in A: 1 tensor of other (gone)" in shown
    (line,) = [line for line in lines if line.startswith("  middle_block")]
    assert line.split() == [
        "middle_block",
        "1",
        "of",
        "1",
        "50",
        "%",
        "█" * 16,
        "1.00000",
        "0",
        "%",
        "0.5",
    ]
    assert any(line.split()[:3] == ["input_blocks.1", "1", "equal"] for line in lines)
    assert any(line.split()[:3] == ["vae", "1", "equal"] for line in lines)


def test_names_of_strangers_do_not_reach_the_terminal_raw(
    files: tuple[str, str], capsys: Out
) -> None:
    main(["diff", *files])

    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "extra\\x1b[31m" in shown


def test_the_tensors_that_moved_furthest_are_listed(tmp_path: Path, capsys: Out) -> None:
    a, b = (save(tmp_path / f"{i}.safetensors", weights(i)) for i in (1, 2))

    assert main(["diff", str(a), str(b), "--tensors", "2"]) == 1

    shown = capsys.readouterr().out
    assert shown.count("F16 ") == 2
    assert "dtype and shape" in shown


def test_json_has_the_same_facts(files: tuple[str, str], capsys: Out) -> None:
    assert main(["diff", *files, "--json"]) == 1

    facts = json.loads(capsys.readouterr().out)
    assert facts["equal"] is False
    assert facts["tensors"]["moved"] == 1
    assert facts["changed"][0]["relative_norm"] == 0.5
    assert facts["only_a"] == [{"name": "gone", "component": "other", "dtype": "F32", "shape": [1]}]


def test_keys_and_a_changed_dtype(tmp_path: Path, capsys: Out) -> None:
    a = save(
        tmp_path / "a.safetensors", {"w": np.ones((2, 2), np.float32), "v": np.ones(2, np.float32)}
    )
    b = save(tmp_path / "b.safetensors", {"w": np.ones(4, np.float32), "v": np.ones(2, np.float16)})

    assert main(["diff", str(a), str(b), "--keys"]) == 1

    shown = capsys.readouterr().out
    assert "shape: w is [2, 2], then [4]" in shown
    assert "dtype: 1 F32 to F16" in shown
    assert "values were not read" in shown


def test_a_heat_map_is_written_beside_the_text(
    files: tuple[str, str], tmp_path: Path, capsys: Out
) -> None:
    assert main(["diff", *files, "--png", str(tmp_path / "map.png")]) == 1

    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "map.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--png", "map.gif"], 2), (["--png", "map.png", "--keys"], 2), (["--tensors", "-1"], 2)],
)
def test_usage_errors_come_before_any_work(
    files: tuple[str, str], arguments: list[str], code: int, capsys: Out
) -> None:
    assert main(["diff", *files, *arguments]) == code

    assert capsys.readouterr().out == ""


def test_a_missing_file_is_not_found(capsys: Out) -> None:
    assert main(["diff", "starter", "no-such-file.safetensors"]) == 6

    assert "no-such-file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (float("inf"), "from zero"),
        (0.0, "0 %"),
        (1e-9, "<0.0001 %"),
        (0.043123, "4.31 %"),
        (0.99999, ">99.99 %"),
        (1.0, "100 %"),
        (25.0, "x 25"),
    ],
)
def test_shares_as_people_read_them(value: float | None, text: str) -> None:
    assert percent(value) == text
