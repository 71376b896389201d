"""The guide shows what the shelf has, and its example is what the command prints."""

import re
from pathlib import Path

import pytest

from fixtures import small
from memcard.cli.main import main
from memcard.core.license import USES, License
from memcard.jobs.merge import merge
from memcard.licenses import LICENSES

PAGE = (Path(__file__).parents[3] / "docs" / "license.md").read_text("utf-8")
WORDS = {"yes": "yes", "if": "if", "unknown": "?", "no": "no"}
AFTER = {
    "any": "any license",
    "carry": "its terms go along",
    "same": "the same license",
    "unknown": "?",
}


def row(entry: License) -> str:
    answers = " | ".join(WORDS[entry.terms[use].answer] for use in USES)
    where = f"[{entry.version}]({entry.source})" if "://" in entry.source else entry.version
    return f"| `{entry.id}` | {where} | {answers} | {AFTER[entry.derivatives]} |"


def test_the_table_of_licenses_is_that_of_the_shelf() -> None:
    shown = [line for line in PAGE.splitlines() if re.match(r"\| `[^`]+` \| .* \| (any|its|the|\?)", line)]  # fmt: skip

    assert shown == [row(LICENSES[name]) for name in LICENSES]


def test_every_question_is_explained() -> None:
    assert [use for use in USES if f"| `{use}` | May I {USES[use]}?" not in PAGE] == []


def test_the_page_says_that_it_is_no_advice() -> None:
    assert "not legal advice" in PAGE.split("##")[0].lower()


def test_the_example_is_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = {"painter": "CreativeML Open RAIL-M", "sketches": "CC BY-NC 4.0"}
    for i, (name, license_) in enumerate(said.items()):
        metadata = {"modelspec.license": license_}
        small.save(Path(f"{name}.safetensors"), small.weights(i, size=8), metadata)
    merge("weighted_average", [f"{name}.safetensors" for name in said], out="mix.safetensors")

    main(["license", "mix.safetensors"])

    shown = capsys.readouterr().out
    example = PAGE.split("$ memcard license mix.safetensors\n")[1].split("\n```")[0]
    assert shown.startswith(example.removesuffix("\n…"))
