"""The packed library of version 1 in ``tests/golden`` is read for ever.

It was made by memcard 0.1 in November 2026: seven checkpoints were moved into it and packed, so that of none a
plain copy is left. Leases, locks and path hints were taken away.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from memcard.codecs import _ans, _ans_fast, _ans_plain
from memcard.errors import UnsupportedError
from memcard.jobs._stored import open_stored
from memcard.jobs.library import Library
from memcard.store import packed as records
from memcard.store import refs
from memcard.store.canonical import sealed
from memcard.store.objects import Objects

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "library_v1_packed"
CHECKPOINTS = json.loads((GOLDEN / "checkpoints.json").read_text("ascii"))


@pytest.fixture
def library(tmp_path: Path) -> Library:
    shutil.copytree(GOLDEN / "home", tmp_path / "home")
    return Library(tmp_path / "home")


def record_of(library: Library, name: str) -> records.Packed:
    found = records.get(library.layout, refs.find(library.layout, name)[1].manifest)
    assert found is not None
    return found


@pytest.mark.parametrize("loops", [_ans_fast, _ans_plain], ids=["compiled", "numpy"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_comes_out_as_it_was(
    name: str, loops: object, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ans, "kernels", lambda: loops)

    done = library.export(name, tmp_path / "out")

    sha256 = CHECKPOINTS[name]["sha256"]
    assert hashlib.sha256(done.path.read_bytes()).hexdigest() == done.sha256 == sha256


def test_it_has_every_way_to_store_a_checkpoint(library: Library) -> None:
    titles = {name: record_of(library, name).title for name in CHECKPOINTS}
    with Objects.everything(library.layout) as objects:
        packs = record_of(library, "near-merge").packs
        kinds = {one.kind for one in objects.include(packs[0]).objects.values()}

    assert titles == {name: facts["how"] for name, facts in CHECKPOINTS.items()}
    assert titles["tune"].startswith("difference to")
    assert record_of(library, "merge").packs == ()
    assert record_of(library, "twin").packs == record_of(library, "base").packs
    assert kinds == {"residual"}


def test_tensors_are_read_one_by_one(library: Library) -> None:
    name = "model.diffusion_model.middle_block.1.proj_in.weight"
    parts = {}
    for ref in ("tune", "other", "merge"):
        stored = open_stored(library.layout, refs.find(library.layout, ref)[1].manifest)
        parts[ref] = stored.read(name).cast("f").tolist()
        stored.close()

    for a, b, c in zip(parts["tune"], parts["other"], parts["merge"], strict=True):
        assert c == pytest.approx(0.7 * a + 0.3 * b, abs=1e-7)


def test_more_can_be_packed_beside_it(library: Library, tmp_path: Path) -> None:
    path = library.export("merge", tmp_path / "again.safetensors").path
    raw = bytearray(path.read_bytes())
    raw[-4] ^= 1  # the last bit of the last value
    path.write_bytes(raw)
    library.add([path])

    done = {d.name: d for d in library.pack().done}

    assert done["again"].stored < 2000
    assert {d.how for n, d in done.items() if n != "again"} == {"packed already"}


def test_a_record_of_a_newer_version_is_refused_with_the_remedy(library: Library) -> None:
    found = record_of(library, "base")
    path = records.path_of(library.layout, found.manifest)
    path.write_bytes(sealed({**json.loads(path.read_bytes()), "packed": 2}))

    with pytest.raises(UnsupportedError, match="pip install --upgrade memcard"):
        records.get(library.layout, found.manifest)


def test_the_specification_quotes_a_record_word_for_word() -> None:
    page = (ROOT / "docs" / "spec" / "library.md").read_text("utf-8")
    quoted = re.findall(r"^`(packed/[^`]+)`\n\n```json\n(.*?\n)```", page, re.MULTILINE | re.DOTALL)

    assert len(quoted) == 2
    for name, text in quoted:
        assert (GOLDEN / "home" / name).read_text("ascii") == text, name
