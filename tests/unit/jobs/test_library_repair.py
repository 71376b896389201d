"""Damaged packs, skeletons and files are found, and mended from whatever has the same values."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures import small
from fixtures.packed_library import PackedLibrary, flip, merged
from fixtures.packing import Folder, base, tuned
from memcard.errors import MemcardError, NotFoundError
from memcard.jobs._verified_when import When
from memcard.jobs.library import Library
from memcard.store import files, survey
from memcard.store import packed as records
from memcard.store.objects import pack_path
from memcard.store.pack import Pack
from memcard.store.writer import Writer

PAST = 1_600_000_000_000_000_000


@pytest.fixture
def kept(tmp_path: Path) -> PackedLibrary:
    return PackedLibrary(tmp_path)


def pack_of(kept: PackedLibrary, name: str) -> Path:
    """The pack that was written for a checkpoint."""
    record = records.get(kept.library.layout, kept.library.show(name).version.manifest)
    assert record is not None
    return next(path for path in kept.packs if path.stem == record.packs[0])


def damaged(path: Path, seed: int = 0) -> str:
    """Flip a bit in the values of a random object; return its key."""
    with Pack.open(path) as pack:
        one = random.Random(seed).choice([o for o in pack.objects.values() if o.size > 1000])
        at = one.blocks[0].offset + one.blocks[0].stored // 2
    flip(path, at)
    return one.key


def test_verify_reads_packs_and_what_recipes_compute(kept: PackedLibrary) -> None:
    kept.hide()

    found = kept.library.verify()

    assert found.ok, found.faults
    assert {pack.state for pack in found.packs} == {"ok"}
    assert sum(pack.read for pack in found.packs) >= 0.9 * sum(p.stat().st_size for p in kept.packs)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_object_is_named_with_all_checkpoints_that_need_it(
    kept: PackedLibrary, seed: int
) -> None:
    key = damaged(pack_of(kept, "base"), seed)
    kept.hide()

    found = kept.library.verify()

    (pack,) = [pack for pack in found.packs if pack.state == "damaged"]
    assert key in pack.objects
    # the tune may be a difference to this tensor, the mix is computed from both
    assert set(pack.needed_by) >= {"base", "mix"}
    assert set(found.lost) == {"base", "tune", "mix"}
    assert any("base" in fault and "memcard repair" in fault for fault in found.faults)


def test_a_plain_copy_saves_from_being_lost(kept: PackedLibrary) -> None:
    damaged(pack_of(kept, "base"))

    found = kept.library.verify()

    assert found.faults
    assert found.lost == ()


def test_damage_is_mended_from_the_users_file_and_undone_from_the_trash(
    kept: PackedLibrary,
) -> None:
    old = pack_of(kept, "base")
    damaged(old)
    before = {name: kept.file(name).read_bytes() for name in kept.arrays}

    done = kept.library.repair()

    assert done.ok, done.faults
    assert set(done.exact) >= {"base", "tune"}
    assert not old.exists()
    assert {name: kept.file(name).read_bytes() for name in kept.arrays} == before
    kept.hide()
    assert kept.library.verify().ok
    assert all(kept.exported(name) for name in kept.arrays)
    (entry,) = done.entries
    assert kept.library.undo(entry).verb == "repair"
    assert old.exists()


def test_many_damages_at_once_are_mended(kept: PackedLibrary) -> None:
    for seed, path in enumerate(kept.packs):
        damaged(path, seed)
        damaged(path, seed + 7)

    assert kept.library.repair().ok

    kept.hide()
    assert all(kept.exported(name) for name in kept.arrays)


def test_what_was_a_difference_is_one_again(kept: PackedLibrary) -> None:
    before = sum(path.stat().st_size for path in kept.packs)
    path = pack_of(kept, "tune")
    with Pack.open(path) as pack:
        one = max((o for o in pack.objects.values() if o.base), key=lambda o: o.size)
    flip(path, one.blocks[0].offset + 20)

    assert kept.library.repair().ok

    assert sum(path.stat().st_size for path in kept.packs) < 1.02 * before
    kept.hide()
    assert kept.exported("tune")


def test_a_dry_run_changes_nothing(kept: PackedLibrary) -> None:
    damaged(pack_of(kept, "tune"))
    before = sorted(path for path in kept.library.path.rglob("*") if path.is_file())

    done = kept.library.repair(dry_run=True)

    assert done.mended
    assert sorted(path for path in kept.library.path.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("how", ["missing", "cut off", "of zeros"])
def test_a_pack_that_is_lost_as_a_whole_is_made_again(kept: PackedLibrary, how: str) -> None:
    path = pack_of(kept, "base")
    if how == "missing":
        path.unlink()
    else:
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[: size // 2] if how == "cut off" else bytes(size))
    assert not kept.library.verify().ok

    done = kept.library.repair()

    assert done.ok, done.faults
    kept.hide()
    assert kept.library.verify().ok
    assert all(kept.exported(name) for name in kept.arrays)


@pytest.mark.parametrize("how", ["missing", "cut off", "of zeros"])
def test_a_lost_pack_of_differences_holds_differences_again(kept: PackedLibrary, how: str) -> None:
    path = pack_of(kept, "tune")
    size = path.stat().st_size
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: size // 2] if how == "cut off" else bytes(size))

    done = kept.library.repair()

    assert done.ok, done.faults
    with Pack.open(pack_of(kept, "tune")) as pack:
        assert any(one.base is not None for one in pack.objects.values())
    assert pack_of(kept, "tune").stat().st_size < 1.02 * size
    kept.hide()
    assert kept.library.verify().ok
    assert all(kept.exported(name) for name in kept.arrays)


def test_when_the_pack_of_the_base_is_lost_too_there_are_differences_to_the_new_one(
    kept: PackedLibrary,
) -> None:
    before = sum(path.stat().st_size for path in kept.packs)
    for path in kept.packs:
        path.unlink()

    done = kept.library.repair()

    assert done.ok, done.faults
    assert sum(path.stat().st_size for path in kept.packs) < 1.02 * before
    kept.hide()
    assert kept.library.verify().ok
    assert all(kept.exported(name) for name in kept.arrays)


def test_a_lost_pack_of_residuals_holds_residuals_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    first, second = tuned(base(), 1), tuned(base(), 2)
    made = merged(first, second)
    made["model.diffusion_model.middle_block.1.proj_in.weight"][3, 5:9] += 1
    for name, arrays in {"first": first, "second": second, "made": made}.items():
        folder.add(name, arrays)
    folder.library.pack()
    layout, manifest = folder.library.layout, folder.manifest("made")
    before = records.get(layout, manifest)
    assert before is not None
    (path,) = [pack_path(layout, name) for name in before.packs]
    raw = path.read_bytes()
    path.unlink()

    done = folder.library.repair()

    assert done.ok, done.faults
    assert records.get(layout, manifest) == before
    assert path.read_bytes() == raw
    with Pack.open(path) as pack:
        assert {one.kind for one in pack.objects.values()} == {"residual"}
    folder.hide()
    assert folder.library.verify().ok
    folder.check()


def test_without_its_base_a_lost_pack_is_made_of_values(kept: PackedLibrary) -> None:
    layout = kept.library.layout
    record = records.get(layout, kept.library.show("tune").version.manifest)
    assert record is not None
    with Writer(layout) as writer:
        records.put(writer, replace(record, title="difference to 0123456789ab"))
    pack_of(kept, "tune").unlink()

    assert kept.library.repair().ok

    kept.hide()
    assert kept.library.verify().ok
    assert all(kept.exported(name) for name in kept.arrays)


def test_what_is_nowhere_stays_lost_and_nothing_is_put_away(kept: PackedLibrary) -> None:
    path = pack_of(kept, "tune")
    damaged(path)
    kept.hide()

    done = kept.library.repair()

    assert not done.ok
    assert "tune" in done.lost
    assert any("nowhere to be found" in fault for fault in done.faults)
    assert path.exists()
    assert kept.exported("base")
    kept.back("tune")
    assert kept.library.repair().ok
    kept.hide("tune")
    assert all(kept.exported(name) for name in kept.arrays)


def test_values_of_another_file_mend_too(kept: PackedLibrary, tmp_path: Path) -> None:
    twin = small.save(tmp_path / "twin.safetensors", kept.arrays["base"], {"note": "other header"})
    kept.library.add([twin])
    damaged(pack_of(kept, "base"))
    kept.hide()

    done = kept.library.repair()

    assert done.ok, done.faults
    assert "twin.safetensors" in done.mended[0].how
    twin.unlink()
    assert kept.exported("base")


def test_what_a_recipe_computes_mends_a_pack(kept: PackedLibrary, tmp_path: Path) -> None:
    twin = small.save(tmp_path / "twin.safetensors", kept.arrays["mix"], {"note": "other header"})
    kept.library.add([twin])
    kept.library.pack("twin", recipes=False)
    raw = twin.read_bytes()
    twin.unlink()
    kept.hide()
    damaged(pack_of(kept, "twin"))

    done = kept.library.repair()

    assert done.ok, done.faults
    assert "the recipe" in done.mended[0].how
    kept.library.export("twin", twin)
    assert twin.read_bytes() == raw


def test_a_file_of_the_librarys_own_is_copied_from_another_place(tmp_path: Path) -> None:
    library = Library(tmp_path / "home")
    neon = small.save(tmp_path / "neon.safetensors", small.weights(1, size=3000))
    os.utime(neon, ns=(PAST, PAST))
    library.add([neon], how="copy")
    sha256 = library.show("neon").version.sha256
    flip(library.layout.file(sha256), 900)
    assert not library.verify().ok

    done = library.repair()

    assert done.ok, done.faults
    assert library.layout.file(sha256).read_bytes() == neon.read_bytes()
    assert library.verify().ok
    neon.unlink()
    assert library.locate("neon") == library.layout.file(sha256)


def test_a_rotten_file_of_the_users_is_left_alone_and_told(tmp_path: Path) -> None:
    library = Library(tmp_path / "home")
    neon = small.save(tmp_path / "neon.safetensors", small.weights(1, size=3000))
    os.utime(neon, ns=(PAST, PAST))
    library.add([neon])
    flip(neon, 900)
    before = neon.read_bytes()

    done = library.repair()

    assert neon.read_bytes() == before
    assert "stays as it is" in done.faults[0]
    assert done.lost == ("neon",)


def test_a_skeleton_is_made_again(kept: PackedLibrary) -> None:
    skeleton = kept.library.show("base").manifest.files[0].skeleton
    path = kept.library.layout.skeleton(skeleton.blake3)
    path.write_bytes(b"no skeleton")
    assert not kept.library.verify().ok

    assert kept.library.repair().ok

    assert len(survey.get_bones(kept.library.layout, skeleton)) == skeleton.size


def test_an_owned_file_comes_back_from_its_packs(kept: PackedLibrary) -> None:
    library, path = kept.library, kept.file("tune")
    library.add([path], how="copy")
    sha256 = library.show("tune").version.sha256
    flip(library.layout.file(sha256), 2000)
    kept.hide()

    done = library.repair()

    assert done.ok, done.faults
    owned = files.get(library.layout, sha256)
    assert owned is not None
    owned.check()
    assert kept.exported("tune")


def test_a_sound_library_is_left_as_it_is(kept: PackedLibrary) -> None:
    before = sorted(path for path in kept.library.path.rglob("*") if path.is_file())

    done = kept.library.repair()

    assert done.ok
    assert done.mended == ()
    assert sorted(path for path in kept.library.path.rglob("*") if path.is_file()) == before
    with pytest.raises(NotFoundError):
        kept.library.repair("nothing of this name")


def test_a_stopped_verification_goes_on_where_it_was(
    kept: PackedLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_CACHE", str(tmp_path / "cache"))
    first = kept.library.verify(older_than=3600)

    second = kept.library.verify(older_than=3600)
    flip(kept.file("base"), 900)
    os.utime(kept.file("base"))
    third = kept.library.verify(older_than=3600)

    assert first.passed == 0
    assert second.ok
    assert sum(f.read for f in second.files) == sum(p.read for p in second.packs) == 0
    assert second.passed == len(first.files) + len(first.packs) + 1  # and the recipe of the mix
    assert [f.verdict for f in third.files].count("changed") == 1
    assert kept.library.verify().faults == ()


def test_what_was_found_sound_is_remembered_line_by_line(tmp_path: Path) -> None:
    when = When("0f", tmp_path)
    for _ in range(20):
        when.note("pack a")
    path = next(tmp_path.iterdir())
    with path.open("a") as file:
        file.write("torn")

    again = When("0f", tmp_path)

    assert again.age("pack a") < 60
    assert again.age("pack b") == float("inf")
    assert len(path.read_text().splitlines()) == 1
    assert When("0f", tmp_path / "a file" / "below").age("pack a") == float("inf")


def test_a_sample_of_packs_reads_its_share(kept: PackedLibrary) -> None:
    kept.hide()
    damaged(pack_of(kept, "base"))

    seen = [kept.library.verify(sample=0.3, seed=seed) for seed in range(12)]

    assert {bool(found.faults) for found in seen} == {True, False}
    whole = sum(path.stat().st_size for path in kept.packs)
    assert all(sum(pack.read for pack in found.packs) < whole for found in seen)


def test_a_record_that_is_damaged_is_told(kept: PackedLibrary) -> None:
    manifest = kept.library.show("tune").version.manifest
    records.path_of(kept.library.layout, manifest).write_text("{}")

    found = kept.library.verify()

    assert any("packed" in fault for fault in found.faults)
    shutil.rmtree(kept.library.layout.shelf("packed"))
    assert kept.library.verify().ok
    kept.hide()
    with pytest.raises(MemcardError):
        kept.exported("base")
