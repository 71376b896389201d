"""The session on README's first screen, run line by line."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from memcard.cli.main import main
from memcard.jobs.library import Library
from memcard.jobs.resolve import resolve

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
SESSION = re.findall(r"^\$ memcard (.+?)(?:\s+#.*)?$", README, flags=re.MULTILINE)


def honest_ckpt(path: Path) -> None:
    """Write the starter as other people's tools would: torch.save with a state_dict inside."""
    base = resolve("starter")
    tensors = {
        name: torch.frombuffer(bytearray(base.read(name)), dtype=torch.float16).reshape(spec.shape)
        for name, spec in base.specs.items()
    }
    torch.save({"state_dict": tensors, "global_step": 4572}, path)


def test_the_session_of_the_readme_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    honest_ckpt(tmp_path / "somebody.ckpt")

    codes = {line: main(shlex.split(line)) for line in SESSION}

    assert len(codes) == 6
    assert {line: code for line, code in codes.items() if code} == {}
    assert len(list(tmp_path.glob("*.png"))) == 5
    assert [entry.name for entry in Library(tmp_path / "home").ls().entries] == ["half"]
    assert "ok" in capsys.readouterr().out
