"""Collecting packs: what is dead goes, what is needed stays readable, for readers and writers at work too."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures import packed_library, small
from fixtures.packed_library import PackedLibrary, flip
from memcard.jobs import _stored
from memcard.jobs.library import Library
from memcard.store import cards, refs
from memcard.store import packed as records
from memcard.store.gc_packs import rewrite, thin_packs
from memcard.store.writer import Writer

SIZE = 4000


@pytest.fixture
def kept(tmp_path: Path) -> PackedLibrary:
    return PackedLibrary(tmp_path)


def test_a_pack_that_nothing_needs_goes_and_comes_back(kept: PackedLibrary) -> None:
    before = kept.packs
    kept.library.rm("tune", "mix")
    kept.library.gc(days=0)  # the trash is emptied of the names first
    kept.library.gc(days=0)

    assert len(kept.packs) < len(before)
    kept.hide()
    assert kept.exported("base")
    assert kept.library.verify().ok


def test_what_the_trash_still_names_stays(kept: PackedLibrary) -> None:
    before = kept.packs
    kept.library.rm("tune", "mix")

    done = kept.library.gc()

    assert (done.put_away, kept.packs) == ((), before)
    kept.library.undo()
    kept.hide()
    assert all(kept.exported(name) for name in kept.arrays)


def mostly_dead(root: Path) -> PackedLibrary:
    """A library with one pack, of which the name that is left needs a quarter."""
    rng = packed_library.np.random.default_rng(5)
    arrays = {f"w{i}": rng.standard_normal(SIZE).astype("f4") for i in range(4)}
    kept = PackedLibrary(root, whole=arrays, part={"w0": arrays["w0"]})
    kept.library.rm("whole")
    kept.library.gc(days=0)
    return kept


def test_a_pack_that_is_mostly_dead_is_written_anew(tmp_path: Path) -> None:
    kept = mostly_dead(tmp_path)

    size = sum(path.stat().st_size for path in kept.packs)
    kept.library.gc(days=0)
    kept.library.gc(days=0)

    assert sum(path.stat().st_size for path in kept.packs) < size - 2 * SIZE * 4
    kept.hide()
    assert kept.exported("part")
    assert kept.library.verify().ok


def test_a_dry_run_tells_of_it_and_writes_nothing(tmp_path: Path) -> None:
    kept = PackedLibrary(tmp_path)
    kept.library.rm("base", "tune", "mix")
    before = kept.packs

    done = kept.library.gc(days=0, dry_run=True)

    assert (done.dry_run, kept.packs) == (True, before)


def test_a_damaged_pack_is_not_written_anew(tmp_path: Path) -> None:
    rng = packed_library.np.random.default_rng(5)
    arrays = {f"w{i}": rng.standard_normal(SIZE).astype("f4") for i in range(4)}
    kept = PackedLibrary(tmp_path, whole=arrays, part={"w0": arrays["w0"]})
    for path in kept.packs:
        flip(path, path.stat().st_size - 60)  # in the trailer
    kept.library.rm("whole")

    kept.library.gc(days=0)
    done = kept.library.gc(days=0)

    assert done.rewritten == ()
    assert kept.exported("part")


def test_packs_are_left_alone_while_a_writer_is_at_work(kept: PackedLibrary) -> None:
    kept.library.rm("tune", "mix")
    kept.library.gc(days=0)
    before = kept.packs

    with Writer(kept.library.layout):
        done = kept.library.gc(days=0)

    assert done.busy
    assert kept.packs == before


READER = """
import hashlib, sys
from pathlib import Path
from memcard.jobs.library import Library
library = Library(Path(sys.argv[1]))
with library.open("part") as checkpoint:
    print("open", flush=True)
    sys.stdin.readline()
    print(hashlib.sha256(b"".join(bytes(checkpoint.read(n)) for n in checkpoint.specs)).hexdigest())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there an open file cannot be renamed")
def test_a_reader_in_another_process_reads_on_while_its_pack_is_collected(tmp_path: Path) -> None:
    rng = packed_library.np.random.default_rng(5)
    arrays = {f"w{i}": rng.standard_normal(SIZE).astype("f4") for i in range(4)}
    kept = PackedLibrary(tmp_path, whole=arrays, part={"w0": arrays["w0"]})
    kept.hide()
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(kept.library.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "open\n"
    before = set(kept.packs)

    kept.library.rm("whole")
    for _ in range(3):
        kept.library.gc(days=0)
    assert before - set(kept.packs)
    said, _ = reader.communicate("go\n", timeout=60)

    assert said.strip() == hashlib.sha256(arrays["w0"].tobytes()).hexdigest()
    assert kept.exported("part")


def test_the_card_of_a_checkpoint_goes_and_comes_with_it(tmp_path: Path) -> None:
    library = Library(tmp_path / "home")
    path = small.save(tmp_path / "neon.safetensors", small.weights(1), {"modelspec.title": "Neon"})
    library.add([path])
    library.rm("neon")
    library.gc()
    assert len(list(cards.every(library.layout))) == 1

    library.gc(days=0)

    assert list(cards.every(library.layout)) == []
    library.undo()
    assert len(list(cards.every(library.layout))) == 1


def test_a_base_that_came_to_be_needed_meanwhile_is_kept(tmp_path: Path) -> None:
    kept = mostly_dead(tmp_path)
    layout = kept.library.layout
    names = [v.manifest for ref in refs.every(layout) for v in ref.versions]
    (thin,) = thin_packs(layout, names)
    whole = small.save(tmp_path / "again.safetensors", kept.arrays["whole"], {"other": "header"})
    kept.library.add([whole])
    kept.library.pack("again")

    with Writer(layout) as writer:
        assert not rewrite(writer, thin)

    whole.unlink()
    kept.library.export("again", whole)
    assert kept.library.verify().ok


def test_a_reader_that_was_overtaken_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = mostly_dead(tmp_path)
    layout, manifest = kept.library.layout, kept.library.show("part").version.manifest
    before = records.get(layout, manifest)
    kept.library.gc(days=0)
    kept.library.gc(days=0)
    now = records.get(layout, manifest)
    assert before is not None
    assert now is not None
    assert before.packs != now.packs
    answers = [before, now]
    monkeypatch.setattr(_stored.records, "get", lambda *_: answers.pop(0))

    stored = _stored.open_stored(layout, manifest)

    assert bytes(stored.read("w0")) == kept.arrays["part"]["w0"].tobytes()
    assert answers == []
    stored.close()
