"""The library of version 2 in ``tests/golden`` is read for ever.

It is that of version 1, to which memcard added in November 2026 a file ("brass", moved) and a checkpoint of
several files ("Shards", copied), whose manifests have the short form. What differs from machine to machine
(leases, path hints, places) was taken away.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import zstandard

from memcard.jobs.library import Library
from memcard.store import manifest as manifests
from memcard.store import refs, survey
from memcard.store.writer import Writer

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "library_v2" / "home"
BRASS = "20b3171d5c6b71cd95e90af40e57439181a57476eef4efd10f8e6e3db8013ae0"
SHARDS = "d574e64beb014ad0f359726f140581a33e0cc747a41cde6a7f1fcf1fe1f156a0"
OLD = "c9ab2387d65b49617e73694feaf9d71c0a7075933ce7fcac8c98bcb6ddd4f028"
FORMS = [".json", ".json", ".zst", ".zst"]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    shutil.copytree(GOLDEN, tmp_path / "home")
    return Library(tmp_path / "home")


def forms(library: Library) -> list[str]:
    names = manifests.every(library.layout)
    return sorted(manifests.path_of(library.layout, name).suffix for name in names)


def test_it_has_manifests_of_both_forms(library: Library) -> None:
    assert json.loads(library.layout.card.read_bytes())["version"] == 2
    assert forms(library) == FORMS


@pytest.mark.parametrize(("ref", "sha256"), [("brass", BRASS), (f"neon light@{OLD[:10]}", OLD)])
def test_files_come_out_as_they_were(
    library: Library, ref: str, sha256: str, tmp_path: Path
) -> None:
    done = library.export(ref, tmp_path / "out")

    assert hashlib.sha256(done.path.read_bytes()).hexdigest() == sha256


def test_several_files_come_out_as_they_were(library: Library, tmp_path: Path) -> None:
    done = library.export("shards", tmp_path / "out")

    assert done.sha256 == SHARDS
    manifest = library.show("shards").manifest
    for file in manifest.files:
        found = next((tmp_path / "out").rglob(file.name)).read_bytes()
        assert hashlib.sha256(found).hexdigest() == file.sha256


def test_a_short_manifest_tells_places_and_digests(library: Library) -> None:
    manifest = library.show("brass").manifest

    assert {n: (str(t.spec), t.at) for n, t in manifest.tensors.items()} == {
        "norm.weight": ("F32 [2]", 312),
        "proj.weight": ("F16 [2, 3]", 320),
        "scale": ("F32 []", 332),
        "unused": ("F16 [0, 4]", 336),
    }
    assert manifest.metadata == {"modelspec.title": "Brass ü"}
    bones = survey.get_bones(library.layout, manifest.files[0].skeleton)
    assert bones == library.layout.file(BRASS).read_bytes()[:312]
    tensors = library.show("shards").manifest.tensors.values()
    assert [(t.file, t.at) for t in tensors] == [(1, 136), (1, 144), (2, 72)]


def test_the_id_is_that_of_the_canonical_json_in_either_form(library: Library) -> None:
    home = library.layout
    with Writer(home) as writer:
        for name in tuple(manifests.every(home)):
            found = manifests.get(home, name)
            raw = found.to_bytes()
            assert hashlib.sha256(raw).hexdigest() == name

            manifests.path_of(home, name).unlink()
            writer.keep(home.manifest(name), raw)
            assert manifests.get(home, name) == found
            home.manifest(name).unlink()
            assert manifests.put(writer, found) == name
            assert manifests.get(home, name) == found

    assert forms(library) == [".zst"] * 4


def test_it_can_be_changed_as_if_it_were_new(library: Library) -> None:
    library.rm("brass")
    library.rm("neon light")
    emptied = library.gc(days=0)
    assert forms(library) == [".zst"]

    library.undo(emptied.entry)

    assert forms(library) == FORMS
    assert library.verify().ok


def test_the_specification_quotes_it_word_for_word() -> None:
    page = (ROOT / "docs" / "spec" / "library.md").read_text("utf-8")
    ((name, text),) = re.findall(
        r"^`(manifests/[^`]+\.zst)`[^`]*```json\n(.*?\n)```", page, re.MULTILINE | re.DOTALL
    )

    packed = (GOLDEN / name).read_bytes()
    assert zstandard.ZstdDecompressor().decompress(packed).decode("ascii") == text


def test_the_name_leads_to_the_short_manifest(library: Library) -> None:
    name = refs.find(library.layout, "brass")[1].manifest

    assert manifests.path_of(library.layout, name) == library.layout.short_manifest(name)
