"""The docs say what the code has, and nothing else."""

import re
import subprocess
import sys
from dataclasses import Field, fields
from pathlib import Path

import pytest

from memcard.cli.app import COMMANDS
from memcard.core.limits import DEFAULT, Limits
from memcard.core.registry import Registry

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {p.relative_to(DOCS).as_posix(): p.read_text("utf-8") for p in DOCS.rglob("*.md")}


def test_the_reference_is_generated_from_this_code() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_a_guide_or_the_readme(command: str) -> None:
    guides = [text for name, text in PAGES.items() if not name.startswith("reference/")]

    assert any(
        f"memcard {command}" in text for text in [*guides, (ROOT / "README.md").read_text("utf-8")]
    )


@pytest.mark.parametrize("shelf", ["formats", "ops", "generation.samplers"])
def test_every_plugin_is_in_the_docs_outside_the_reference(shelf: str) -> None:
    prose = "\n".join(text for name, text in PAGES.items() if not name.startswith("reference/"))

    assert [name for name in Registry[object](f"memcard.{shelf}") if f"`{name}`" not in prose] == []


def test_every_family_is_on_its_page_with_what_it_needs() -> None:
    rows = [row for row in PAGES["reference/families.md"].splitlines() if row.startswith("| `")]

    assert {row.split("`")[1] for row in rows} == set(Registry[object]("memcard.architectures"))
    assert all(row.count(" | ") == 6 for row in rows)


@pytest.mark.parametrize("field", fields(Limits), ids=lambda field: field.name)
def test_every_limit_is_in_its_specification_with_its_value(field: Field[int]) -> None:
    assert f"| `{field.name}` | {getattr(DEFAULT, field.name):,} |" in PAGES["spec/limits.md"]


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")

    assert [name for name in PAGES if name not in nav and not name.startswith("plans/")] == []


def test_the_architecture_page_takes_ten_minutes() -> None:
    assert len(PAGES["architecture.md"].split()) < 2000


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_the_readme_has_its_two_commands_in_one_line_each(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/readme_command.py", name], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip

    assert done.stdout.count("\n") == 1
    assert "pip install" in done.stdout


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text("utf-8"))

    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []
