"""The library of version 1 in ``tests/golden`` is read for ever.

It was made by memcard 0.1 in November 2026: "Neon light" was moved into it, then came to mean a second file,
which was copied. What differs from machine to machine (leases, path hints) was taken away.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from memcard.jobs.library import Library
from memcard.store import survey

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "library_v1" / "home"
NEW = "c3098ec74f7a55408f53e316f054621f62e5cc5baa2fdbcbd73d936a4f24a888"
OLD = "c9ab2387d65b49617e73694feaf9d71c0a7075933ce7fcac8c98bcb6ddd4f028"


@pytest.fixture
def library(tmp_path: Path) -> Library:
    shutil.copytree(GOLDEN, tmp_path / "home")  # with new times, as from a backup
    return Library(tmp_path / "home")


def test_names_and_what_they_meant_before(library: Library) -> None:
    (entry,) = library.ls().entries

    assert (entry.name, entry.sha256, entry.versions, entry.at_hand) == ("Neon light", NEW, 2, True)
    assert library.show(OLD[:8]).to_dict()["history"] == [
        {"sha256": OLD, "at": "2026-11-22T10:00:00Z"}
    ]


@pytest.mark.parametrize(("ref", "sha256"), [("neon light", NEW), (f"neon light@{OLD[:10]}", OLD)])
def test_both_files_come_out_as_they_were(
    library: Library, ref: str, sha256: str, tmp_path: Path
) -> None:
    done = library.export(ref, tmp_path / "out")

    assert hashlib.sha256(done.path.read_bytes()).hexdigest() == sha256


def test_the_manifest_tells_places_and_digests(library: Library) -> None:
    shown = library.show(f"neon light@{OLD[:8]}")

    tensor = shown.manifest.tensors["w"]
    assert str(tensor.spec) == "F16 [2, 2]"
    assert (tensor.at, tensor.blake3) == (
        160,
        "1cf2d106620ef29648aaded184b36ba279b979bffd44665f61d2979d3e094dc1",
    )
    assert shown.manifest.metadata == {"modelspec.title": "Neon"}
    bones = survey.get_bones(library.layout, shown.manifest.files[0].skeleton)
    assert bones == (library.layout.file(OLD)).read_bytes()[:160]


def test_it_can_be_changed_as_if_it_were_new(library: Library) -> None:
    library.rm("neon light")
    emptied = library.gc(days=0)  # the trash, and then what it alone had led to
    library.undo(emptied.entry)

    assert len(emptied.put_away) == 10
    assert library.layout.file(OLD).stat().st_size == 172


def test_the_specification_quotes_it_word_for_word() -> None:
    page = (ROOT / "docs" / "spec" / "library.md").read_text("utf-8")
    quoted = re.findall(r"^`([^`]+)`:\n\n```json\n(.*?\n)```", page, re.MULTILINE | re.DOTALL)

    assert len(quoted) >= 4
    for name, text in quoted:
        assert (GOLDEN / name).read_text("ascii") == text, name
