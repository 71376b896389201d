import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import memcard
from memcard.cli.app import COMMANDS, SECTIONS, app
from memcard.cli.main import main

HEAVY = ("numpy", "torch", "rich", "fastapi", "huggingface_hub", "diffusers", "transformers", "PIL")


def imported_by(*args: str) -> set[str]:
    """Top-level packages that a run of memcard imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "memcard", *args],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["generate", "--help"], ["merge", "--help"]]
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    found = imported_by(*args)

    assert "click" in found
    assert found.isdisjoint(HEAVY)


def test_importing_memcard_imports_none_of_its_floors() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, memcard; print(sorted(m for m in sys.modules if m.startswith('memcard')))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.strip() == "['memcard', 'memcard._version']"


def test_every_public_name_resolves() -> None:
    assert [name for name in memcard.__all__ if getattr(memcard, name) is None] == []
    with pytest.raises(AttributeError, match="nonsense"):
        memcard.nonsense  # noqa: B018


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_the_same_line_in_the_list_and_on_its_own_page(name: str) -> None:
    command = app.get_command(click.Context(app), name)

    assert command is not None
    assert (command.help or "").splitlines()[0] == COMMANDS[name]


def test_each_command_is_one_file_and_each_file_a_command() -> None:
    folder = Path(memcard.__file__).parent / "cli"
    files = {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")}

    assert files - {"app", "main"} == set(COMMANDS)


def test_an_unknown_command_is_a_usage_error_with_the_nearest_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["inspec", "x"])

    assert code == 2
    assert "Did you mean 'inspect'" in capsys.readouterr().err


def test_a_missing_file_is_not_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main(["convert", str(tmp_path / "none.ckpt"), str(tmp_path / "x.safetensors")])

    assert code == 6
    assert "none.ckpt" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memcard.jobs.inspect.inspect_all", interrupted)

    assert main(["inspect", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    assert re.search(r"_MEMCARD_COMPLETE", capsys.readouterr().out)


def test_a_shell_really_gets_completions() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memcard"],
        env={"_MEMCARD_COMPLETE": "bash_complete", "COMP_WORDS": "memcard gen", "COMP_CWORD": "1", "PATH": "",
             "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "generate" in done.stdout


def test_every_command_stands_in_one_section() -> None:
    shown = [name for names in SECTIONS.values() for name in names]

    assert sorted(shown) == sorted(COMMANDS)
