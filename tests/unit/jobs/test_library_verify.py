"""Rot, edits and losses are found, told apart, and named down to the tensor."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import memcard
from fixtures import small
from memcard.errors import IntegrityError, NotFoundError, UsageError
from memcard.jobs import verify
from memcard.jobs.library import Library
from memcard.store import manifest as manifests
from memcard.store.layout import Layout
from memcard.store.whereabouts import Copy

PAST = 1_600_000_000_000_000_000


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home")


@pytest.fixture
def neon(tmp_path: Path) -> Path:
    path = small.save(tmp_path / "neon.safetensors", small.weights(1, size=3000))
    os.utime(path, ns=(PAST, PAST))
    return path


def flip(path: Path, at: int) -> None:
    """Turn one bit around as a failing disk does: nothing else shows."""
    stat = path.stat()
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << (at % 8)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(raw)
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_sound_library_is_ok_and_everything_was_read(library: Library, neon: Path) -> None:
    library.add([neon], how="copy")

    found = library.verify()

    assert found.ok
    assert [file.verdict for file in found.files] == ["ok", "ok"]
    assert sum(file.read for file in found.files) == 2 * neon.stat().st_size


def test_one_flipped_bit_anywhere_is_found_and_its_tensor_named(
    library: Library, neon: Path
) -> None:
    library.add([neon])
    with memcard.open(neon) as checkpoint:
        extents = {n: checkpoint.extent(n) for n in checkpoint.specs}
    rng = random.Random(0)

    for at in [*range(12), *(rng.randrange(neon.stat().st_size) for _ in range(60))]:
        flip(neon, at)
        found = library.verify("neon")
        flip(neon, at)

        (file,) = found.files
        inside = [n for n, e in extents.items() if e and e.offset <= at < e.offset + e.size]
        assert (file.verdict, list(file.tensors)) == ("rotten", inside)
        assert found.lost == ("neon",)
        assert "not what was added" in found.faults[0]
    assert library.verify().ok


@pytest.mark.slow
def test_no_flipped_bit_is_ever_exported(library: Library, neon: Path, tmp_path: Path) -> None:
    library.add([neon])
    rng, out = random.Random(1), tmp_path / "out.safetensors"
    refused = 0

    for at in (rng.randrange(neon.stat().st_size) for _ in range(2000)):
        flip(neon, at)
        with pytest.raises(IntegrityError):
            library.export("neon", out)
        refused += not out.exists()
        flip(neon, at)

    assert refused == 2000


def test_a_rotten_copy_beside_a_sound_one_is_a_fault_and_no_loss(
    library: Library, neon: Path
) -> None:
    library.add([neon], how="copy")
    flip(library.layout.file(library.show("neon").version.sha256), 500)

    found = library.verify()

    assert (found.ok, found.lost, len(found.faults)) == (False, (), 1)


def test_an_edited_file_is_changed_and_a_missing_one_missing(library: Library, neon: Path) -> None:
    library.add([neon])
    small.save(neon, small.weights(2, size=3000))
    assert [file.verdict for file in library.verify().files] == ["changed"]

    neon.unlink()

    found = library.verify()
    assert [file.verdict for file in found.files] == ["missing"]
    assert (found.lost, found.faults) == (("neon",), ())


def test_a_touched_file_with_the_same_bytes_is_served_again(library: Library, neon: Path) -> None:
    (added,) = library.add([neon], how="link")
    os.utime(neon, ns=(PAST + 9, PAST + 9))

    assert library.verify().ok

    assert added.kept in ("hardlink", "reflink")
    assert [copy.fitness for copy in library.show("neon").copies] == ["ok", "ok"]


def test_a_damaged_manifest_and_a_damaged_skeleton_are_told(library: Library, neon: Path) -> None:
    (added,) = library.add([neon])
    bones = next((library.path / "skeletons").glob("??/*"))
    flip(bones, 30)
    assert str(bones) in library.verify().faults[0]
    flip(bones, 30)

    flip(manifests.path_of(library.layout, added.manifest), 40)

    found = library.verify()
    assert added.manifest in found.faults[0]
    assert found.lost == ("neon",)


def test_a_sample_reads_its_share_and_all_seeds_together_everything(
    library: Library, neon: Path
) -> None:
    library.add([neon])
    at = neon.stat().st_size - 1
    flip(neon, at)

    found = [library.verify(sample=0.01, seed=seed) for seed in range(20)]

    assert all(f.files[0].read < neon.stat().st_size for f in found)
    assert {f.ok for f in found} == {True, False}


def test_what_cannot_be_meant_is_refused(library: Library, neon: Path) -> None:
    with pytest.raises(NotFoundError):
        library.verify()
    library.add([neon])
    with pytest.raises(UsageError, match="sample"):
        library.verify(sample=0)
    with pytest.raises(NotFoundError):
        library.verify("other")


def test_older_versions_are_read_too(library: Library, neon: Path) -> None:
    library.add([neon], how="copy")
    old = library.layout.file(library.show("neon").version.sha256)
    small.save(neon, small.weights(2, size=3000))
    library.add([neon])
    flip(old, 900)

    found = library.verify()

    assert len(found.faults) == 1
    assert found.lost == ()


@pytest.mark.parametrize("older", [0.0, 3600.0])
def test_a_copy_that_pack_removes_meanwhile_is_no_fault(
    library: Library, neon: Path, monkeypatch: pytest.MonkeyPatch, older: float
) -> None:
    """Between looking a copy up and reading it another process may have packed and freed it."""
    library.add([neon], how="move")
    library.verify()
    library.pack(keep_files=True)
    looked_up = verify.copies

    def then_freed(home: Layout, sha256: str) -> Iterator[Copy]:
        for copy in list(looked_up(home, sha256)):
            if copy.owned:
                copy.path.unlink(missing_ok=True)
            yield copy

    monkeypatch.setattr(verify, "copies", then_freed)

    found = library.verify(older_than=older)

    assert found.lost == ()
    assert [file.verdict for file in found.files if file.owned] == ["missing"]
