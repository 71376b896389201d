"""A newer memcard that knows more of the same bytes must not lose what an older one packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures.packed_library import PackedLibrary
from memcard.jobs import _library_members
from memcard.store import gc as collect
from memcard.store import manifest as manifests
from memcard.store import packed, refs


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackedLibrary:
    """A packed library; from then on memcard takes every file for another architecture."""
    kept, about = PackedLibrary(tmp_path), _library_members._about

    def more(checkpoint: Any) -> dict[str, Any]:
        return about(checkpoint) | {"architecture": "sd9"}

    monkeypatch.setattr(_library_members, "_about", more)
    return kept


def copied(kept: PackedLibrary) -> Path:
    copy = kept.root / "copy.safetensors"
    copy.write_bytes(kept.file("tune").read_bytes())
    return copy


def test_another_copy_leaves_the_name_with_its_packs(kept: PackedLibrary) -> None:
    layout, copy = kept.library.layout, copied(kept)
    record = refs.find(layout, "tune")[1].manifest

    (added,) = kept.library.add([copy])

    assert (added.status, added.manifest) == ("another copy", record)
    found = packed.get(layout, record)
    assert found is not None
    assert set(found.packs) <= collect.needed(layout).packs
    copy.unlink()
    kept.hide()
    assert kept.exported("tune")


def test_what_is_not_packed_gets_the_newer_manifest(kept: PackedLibrary) -> None:
    layout = kept.library.layout
    packed.path_of(layout, refs.find(layout, "tune")[1].manifest).unlink()

    kept.library.add([copied(kept)])

    assert refs.find(layout, "tune")[1].architecture == "sd9"


def test_a_damaged_manifest_does_not_keep_the_file_out(kept: PackedLibrary) -> None:
    layout = kept.library.layout
    old = refs.find(layout, "tune")[1].manifest
    manifests.path_of(layout, old).write_bytes(b"no manifest")

    (added,) = kept.library.add([copied(kept)])

    assert manifests.get(layout, added.manifest).architecture == "sd9"
