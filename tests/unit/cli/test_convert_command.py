"""memcard convert: options as people write them, and what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fixtures.small import save
from memcard.cli.main import main
from memcard.formats import open_file


def test_parts_may_be_repeated_or_joined_with_commas(tmp_path: Path, twin_path: Path) -> None:
    one, two = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")

    assert main(["convert", str(twin_path), one, "--only", "unet", "--only", "vae"]) == 0
    assert main(["convert", str(twin_path), two, "--only", "unet,vae"]) == 0

    assert Path(one).read_bytes() == Path(two).read_bytes()


@pytest.mark.parametrize("option", ["--force", "--overwrite"])
def test_a_file_is_replaced_only_when_asked(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "a.safetensors", {"w": np.ones(2, np.float32)})
    (target := tmp_path / "b.safetensors").write_bytes(b"mine")

    assert main(["convert", str(source), str(target)]) == 2
    assert target.read_bytes() == b"mine"
    assert main(["convert", str(source), str(target), option]) == 0
    assert target.read_bytes() == source.read_bytes()
    assert "is there already" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan(
    tmp_path: Path, twin_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"{tmp_path / 'folder'}/"

    code = main(["convert", str(twin_path), target, "--dry-run", "--dtype", "fp32"])

    shown = capsys.readouterr()
    assert code == 0
    assert "F16 to F32: 1124 tensors" in shown.out
    assert "unet: " in shown.out
    assert "nothing was written" in shown.err
    assert list(tmp_path.iterdir()) == []


def test_overflow_ends_with_a_mismatch_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "a.safetensors", {"w": np.array([1e30], np.float32)})
    target = tmp_path / "b.safetensors"

    assert main(["convert", str(source), str(target), "--dtype", "fp16"]) == 7
    assert not target.exists()
    assert "--allow-overflow" in capsys.readouterr().err
    code = main(
        ["convert", str(source), str(target), "--dtype", "fp16", "--allow-overflow", "--json"]
    )
    assert code == 0
    assert json.loads(capsys.readouterr().out)["overflow"] == {"w": 1}


def test_a_folder_by_its_slash_and_shards_by_size(tmp_path: Path, twin_path: Path) -> None:
    assert main(["convert", str(twin_path), f"{tmp_path}/folder/", "--max-shard", "4MB"]) == 0
    assert (tmp_path / "folder" / "model_index.json").is_file()
    assert (
        tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    ).is_file()
    assert len(open_file(tmp_path / "folder").specs) == len(open_file(twin_path).specs)


@pytest.mark.parametrize("options", [[], ["--dtype", "bf16"], ["--dialect", "diffusers"]], ids=str)
def test_no_tensor_library_is_loaded(options: list[str], tmp_path: Path, twin_path: Path) -> None:
    code = (
        "import sys; from memcard.cli.main import main; main(sys.argv[1:]);"
        "print({'torch', 'diffusers', 'transformers', 'rich'} & set(sys.modules))"
    )
    args = ["convert", str(twin_path), str(tmp_path / "b.safetensors"), *options]

    run = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False
    )

    assert run.stdout.splitlines()[-1] == "set()", run.stderr


def test_plain_conversion_does_not_load_numpy(tmp_path: Path, twin_path: Path) -> None:
    code = (
        "import sys; from memcard.cli.main import main; main(sys.argv[1:]);"
        "print('numpy' in sys.modules)"
    )
    args = ["convert", str(twin_path), str(tmp_path / "b.ckpt")]

    run = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False
    )

    assert run.stdout.splitlines()[-1] == "False", run.stderr
