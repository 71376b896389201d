import subprocess
import sys
from pathlib import Path

import pytest

from memcard.cli import _card
from memcard.cli.main import main
from memcard.core.architecture import Component, Identity
from memcard.core.report import Report
from memcard.core.tensors import DTYPES, Spec

IDENTITY = Identity(
    kind="checkpoint",
    architecture="sd1",
    candidates=("sd1",),
    variant="inpainting",
    dialect="ldm",
    evidence=("conv_in takes 9 channels",),
    components={"unet": Component(859_520_964, 1_719_041_928, {"F16": 1_719_041_928}, None)},
    missing=("VAE: KL autoencoder, 4 channels",),
    prediction="epsilon",
    prediction_evidence=("the family's default",),
    ema=True,
)
REPORT = Report(
    Path("model.safetensors"),
    "ok",
    size=2_000_000_000,
    format="safetensors",
    tensors={"w": Spec(DTYPES["F16"], (2,))},
    identity=IDENTITY,
    modelspec={"title": "Neon \x1b[31m", "license": "CreativeML"},
    training={"rank": "16", "tags": {"cat": 15}},
    digests={"sha256": "ab" * 32},
)


def text(report: Report) -> str:
    return "\n".join(f"{label}: {' | '.join(lines)}" for label, lines in _card.rows(report))


@pytest.mark.parametrize(
    "line",
    [
        "is: Stable Diffusion 1.x, inpainting: checkpoint",
        "license: CreativeML",
        "trained: rank 16",
        "captions: cat (15)",
        "holds: unet  860 M  F16  1.72 GB",
        "missing: VAE: KL autoencoder, 4 channels",
        "predicts: the noise (epsilon): the family's default",
        "file: safetensors, 2.00 GB, ldm names",
        "because: conv_in takes 9 channels",
        f"sha256: {'ab' * 32}",
    ],
)
def test_the_card_says(line: str) -> None:
    assert line in text(REPORT)


def test_an_ambiguity_names_both_families() -> None:
    both = Identity(candidates=("sd1", "starter"))

    line = _card.is_line(Report(Path("x"), "ok", size=1, identity=both))

    assert line == "Stable Diffusion 1.x or memcard starter: unknown"


def test_a_strangers_title_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    _card.plain(REPORT)
    _card.framed(REPORT)

    assert "\x1b[31m" not in capsys.readouterr().out


def test_the_frame_holds_what_the_plain_card_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")

    _card.framed(REPORT)

    out = capsys.readouterr().out
    assert "model.safetensors" in out
    assert all(label in out for label, _ in _card.rows(REPORT))


@pytest.mark.parametrize(("n", "told"), [(7, "7"), (1500, "1.5 k"), (859_520_964, "860 M"), (2_567_463_684, "2.57 B")])  # fmt: skip
def test_numbers_of_parameters_are_as_people_say_them(n: int, told: str) -> None:
    assert _card.count(n) == told


def test_many_files_make_a_table_and_faults_follow_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.ckpt").write_bytes(b"<html>please log in")

    code = main(["inspect", "starter", "starter/raw", "starter/neon", str(tmp_path)])

    out, err = capsys.readouterr()
    assert code == 5
    assert out.splitlines()[0].split() == ["verdict", "is", "dtypes", "size", "path"]
    assert "is a web page" in out
    assert "4 checkpoints" in err
    assert "3 ok, 1 unsupported" in err


def test_a_folder_without_checkpoints_is_nothing_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path)]) == 1
    assert "no checkpoints" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path), "--json"]) == 1
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize("options", [[], ["--digests"], ["--json"]], ids=" ".join)
def test_no_tensor_library_is_loaded(options: list[str]) -> None:
    code = (
        "import sys; from memcard.cli.main import main; main(sys.argv[1:]); "
        "print({'torch', 'numpy', 'diffusers', 'transformers', 'rich', 'PIL'} & set(sys.modules))"
    )

    run = subprocess.run(
        [sys.executable, "-c", code, "inspect", "starter", *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert run.stdout.splitlines()[-1] == "set()"
