"""Packing takes nothing away that is not safe elsewhere: originals, estimates, interruptions."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures import small
from fixtures.packing import SHAPES, Folder, base, tuned
from memcard.core.progress import Event, Progress
from memcard.errors import IntegrityError, LockedError
from memcard.jobs import pack as job
from memcard.jobs._pack_shelf import Shelf
from memcard.jobs._pack_write import Plan
from memcard.jobs._stored import decoded, open_stored
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store import places
from memcard.store.canonical import sealed


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_originals_go_to_the_trash_when_asked_and_come_back(folder: Folder) -> None:
    folder.add("a", base())
    path = folder.root / "a.safetensors"
    raw = path.read_bytes()

    (done,) = folder.library.pack(replace_originals=True).done

    assert done.replaced == (str(path),)
    assert not path.exists()
    assert places.known(folder.library.layout, path) is None
    folder.check()
    (entry,) = folder.library.trashed()
    assert str(path) in entry.title
    told = folder.library.undo()
    assert told.items == (str(path),)
    assert path.read_bytes() == raw
    assert folder.library.locate("a") == path
    assert folder.library.add([path])[0].status == "unchanged"
    assert folder.library.trashed() == ()


def test_what_was_packed_before_can_have_its_original_replaced_later(folder: Folder) -> None:
    folder.add("a", base())
    folder.library.pack()

    (done,) = folder.library.pack(replace_originals=True).done

    assert len(done.replaced) == 1
    folder.check()


def test_originals_behind_links_and_changed_ones_are_left_alone(folder: Folder) -> None:
    real, links = folder.root / "real", folder.root / "links"
    real.mkdir()
    folder.add("a", base())
    folder.add("b", tuned(base(), 1))
    (folder.root / "a.safetensors").rename(real / "a.safetensors")
    links.symlink_to(real)
    folder.library.add([links / "a.safetensors"])
    folder.library.pack()
    changed = folder.root / "b.safetensors"
    changed.write_bytes(b"something else")

    folder.library.pack(replace_originals=True)

    assert (real / "a.safetensors").is_file()
    assert changed.read_bytes() == b"something else"
    assert folder.library.trashed() == ()


def test_what_lost_a_pack_is_packed_again_before_its_original_goes(folder: Folder) -> None:
    folder.add("a", base())
    folder.library.pack()
    (pack,) = folder.library.path.rglob("*.pack")
    pack.unlink()

    (done,) = folder.library.pack(replace_originals=True).done

    assert done.how == "alone"
    assert pack.is_file()
    folder.hide()
    folder.check()


def test_a_pack_that_is_put_away_before_its_record_is_made_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.add("a", base())
    prove = job.prove
    left = [2]

    def taken_away(shelf: Shelf, plan: Plan, threads: int) -> None:
        prove(shelf, plan, threads)
        for path in folder.library.path.rglob("*.pack") if left[0] else ():
            path.unlink()
        left[0] = max(0, left[0] - 1)

    monkeypatch.setattr(job, "prove", taken_away)

    assert folder.how() == {"a": "alone"}
    folder.hide()
    folder.check()


def test_a_collector_that_never_stops_is_told(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.add("a", base())
    monkeypatch.setattr(job, "gone", lambda shelf, found: list(found.packs))

    with pytest.raises(LockedError, match="memcard pack"):
        folder.library.pack()


def test_what_was_removed_meanwhile_is_passed_over(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.add("a", base())
    folder.add("b", tuned(base(), 1))
    manifests.path_of(folder.library.layout, folder.manifest("a")).unlink()

    done = {d.name: d for d in folder.library.pack().done}

    assert "lacks this manifest" in done["a"].skipped
    assert done["b"].how == "alone"


def test_a_recipe_that_gives_other_values_is_not_served(folder: Folder) -> None:
    a, b = tuned(base(), 1), tuned(base(), 2)
    for name, arrays in {"a": a, "b": b}.items():
        folder.add(name, arrays)
    folder.add("made", {n: (0.5 * a[n] + 0.5 * b[n]).astype("f4") for n in SHAPES})
    folder.library.pack()
    folder.hide()
    path = records.path_of(folder.library.layout, folder.manifest("made"))
    found = json.loads(path.read_bytes().replace(b"0.5", b"0.75"))
    path.write_bytes(sealed(found))

    with folder.library.open("made") as checkpoint, pytest.raises(IntegrityError, match="recipe"):
        checkpoint.read(next(iter(SHAPES)))


def test_an_estimate_writes_nothing_and_comes_near(folder: Folder) -> None:
    folder.add("base", base())
    folder.add("tune", tuned(base(), 1, size=1e-5))
    folder.add("half", {n: v.astype("f2") for n, v in base().items()})
    folder.add("same", base() | {"extra": np.zeros(8, "f4")})
    before = _files(folder)

    estimate = {d.name: d for d in folder.library.pack(dry_run=True).done}

    assert _files(folder) == before
    done = {d.name: d for d in folder.library.pack().done}
    for name in ("base", "tune"):
        assert estimate[name].stored == pytest.approx(done[name].stored, rel=0.1)
    assert estimate["half"].stored == done["half"].stored == 0
    assert estimate["same"].stored < 1000
    assert [d.how for d in folder.library.pack(dry_run=True).done] == ["packed already"] * 4


def test_an_estimate_says_what_cannot_be_packed(folder: Folder) -> None:
    folder.add("a", base())
    (folder.root / "a.safetensors").unlink()

    (done,) = folder.library.pack(dry_run=True).done

    assert "no unchanged plain copy" in done.skipped


def _files(folder: Folder) -> list[tuple[str, int]]:
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.root.rglob("*") if p.is_file())


@pytest.mark.parametrize("after", [1, 3, 5, 8])
def test_packing_can_be_interrupted_and_goes_on(after: int, folder: Folder) -> None:
    folder.add("base", base(), how="move")
    folder.add("tune", tuned(base(), 1), how="move")
    left = after

    def interrupt(event: Event) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.library.pack(progress=interrupt)
    folder.check()
    assert not [p for p in folder.library.path.rglob("*") if p.name.endswith(".part")]

    folder.library.pack()
    folder.check()
    assert all(d.how == "packed already" for d in folder.library.pack().done)


def test_progress_rises_to_the_whole(folder: Folder) -> None:
    folder.add("base", base())
    folder.add("tune", tuned(base(), 1))
    heard: list[Progress] = []

    folder.library.pack(progress=lambda e: heard.append(e) if isinstance(e, Progress) else None)

    assert [e.done for e in heard] == sorted(e.done for e in heard)
    assert heard[-1].done == heard[-1].total == sum(p.stat().st_size for p in _plain(folder))


def _plain(folder: Folder) -> list[Path]:
    return list(folder.root.glob("*.safetensors"))


def test_a_skeleton_that_is_not_the_files_is_found(folder: Folder) -> None:
    folder.add("a", base())
    path = folder.root / "a.safetensors"
    stat, raw = path.stat(), path.read_bytes()
    path.write_bytes(raw.replace(b"first_stage_model", b"First_stage_model", 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    with pytest.raises(IntegrityError, match="skeleton"):
        folder.library.pack()

    assert records.get(folder.library.layout, folder.manifest("a")) is None


@pytest.mark.parametrize("threads", [1, 3])
def test_files_are_cut_at_the_blocks_of_their_packs(threads: int, folder: Folder) -> None:
    rng = np.random.default_rng(3)
    arrays = {f"tiny.{i}": rng.random(5).astype("f4") for i in range(30)}
    arrays |= {"large.weight": rng.standard_normal(2_600_001).astype("f2")} | base()
    folder.add("a", arrays)
    folder.library.pack()
    raw = (folder.root / "a.safetensors").read_bytes()

    stored = open_stored(folder.library.layout, folder.manifest("a"))
    pieces = list(stored.pieces(0))
    found = b"".join(decoded(stored, 0, threads))

    assert found == raw
    assert [at for at, _ in pieces] == [0, *np.cumsum([size for _, size in pieces])[:-1].tolist()]
    assert max(size for _, size in pieces) <= 8 << 20
    assert len(pieces) < 6
    stored.close()


def test_an_iterator_that_is_given_up_leaves_no_thread(folder: Folder) -> None:
    folder.add("a", {n: np.zeros(s, "f4") for n, s in SHAPES.items()} | base())
    folder.library.pack()
    stored = open_stored(folder.library.layout, folder.manifest("a"))

    chunks = decoded(stored, 0)
    next(chunks)
    chunks.close()

    stored.close()


def test_what_lost_the_pack_of_its_base_is_packed_again(folder: Folder) -> None:
    folder.add("a", base())
    folder.library.pack()
    (pack,) = folder.library.layout.packs.rglob("*.pack")
    folder.add("b", tuned(base(), 1))
    assert folder.how()["b"].startswith("difference to")
    pack.unlink()

    folder.library.pack()

    folder.hide()
    folder.check()


@pytest.mark.parametrize("moment", ["write", "prove", "record"])
def test_packs_that_gc_puts_away_meanwhile_are_written_again(
    folder: Folder, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.add("a", base())
    folder.add("b", tuned(base(), 1))
    real, calls = getattr(job, moment), list[int]()

    def racing(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # of b, whose base is there
            for pack in folder.library.layout.packs.rglob("*.pack"):
                pack.rename(folder.root / pack.name)
        return real(*args)

    monkeypatch.setattr(job, moment, racing)

    folder.library.pack(threads=1)

    folder.library.pack(threads=1)  # a, whose pack went away after it was on record
    folder.hide()
    folder.check()


def test_recipes_call_their_parents_by_the_names_of_the_library(folder: Folder) -> None:
    first = base()
    second = tuned(first, 1, 1e-3)
    folder.add("a", first)
    folder.add("b", second)
    folder.library.pack()
    path = small.save(folder.root / "b.safetensors", tuned(first, 2, 1e-3))  # "b" means it now
    os.utime(path, ns=(10**18, 10**18 + 50))
    folder.library.add([path])
    folder.library.pack()
    folder.add("mix", {n: 0.5 * first[n] + 0.5 * second[n] for n in SHAPES})

    done = {d.name: d for d in folder.library.pack("mix").done}["mix"]

    old = hashlib.sha256(small.save(folder.root / "old.tmp", second).read_bytes()).hexdigest()
    assert sorted(done.how.split(" + ")) == ["0.5 a", f"0.5 b@{old[:8]}"]


def _packs(folder: Folder) -> list[Path]:
    return sorted((folder.root / "home").rglob("*.pack"))


def _damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)


def test_a_base_that_has_rotted_is_found_before_a_copy_goes(folder: Folder) -> None:
    """Differences are taken to the plain copy, so nothing else would read the base's pack."""
    folder.add("a", base())
    folder.library.pack()
    (old,) = _packs(folder)
    _damage(old)
    folder.add("b", tuned(base(), 1), how="link")
    copy = folder.library.locate("b")

    with pytest.raises(IntegrityError, match="damaged"):
        folder.library.pack("b", replace_originals=True)

    assert copy.is_file()
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == folder.digests["b"]


def test_a_pack_the_disk_did_not_keep_is_found_before_a_copy_goes(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.add("a", base(), how="link")
    copy, real = folder.library.locate("a"), job.write

    def then_damaged(*args: Any) -> int:
        found = real(*args)
        _damage(_packs(folder)[0])
        return found

    monkeypatch.setattr(job, "write", then_damaged)
    with pytest.raises(IntegrityError, match="other bytes than were written"):
        folder.library.pack(replace_originals=True)

    assert hashlib.sha256(copy.read_bytes()).hexdigest() == folder.digests["a"]
    assert records.get(folder.library.layout, folder.manifest("a")) is None


def test_damage_below_a_recipe_is_told_and_nothing_is_served(folder: Folder) -> None:
    folder.add("a", base())
    folder.add("b", tuned(base(), 1))
    half = {n: (v + folder_b) / 2 for (n, v), folder_b in zip(base().items(), tuned(base(), 1).values(), strict=True)}  # fmt: skip
    folder.add("m", {n: v.astype("f4") for n, v in half.items()})
    assert "0.5" in folder.how()["m"]
    folder.hide()
    with closing(open_stored(folder.library.layout, folder.manifest("m"))) as stored:
        before = {name: bytes(stored.read(name)) for name in stored.specs}
    for path in _packs(folder):
        _damage(path)

    stored, refused = open_stored(folder.library.layout, folder.manifest("m")), 0
    for name in stored.specs:
        try:
            assert bytes(stored.read(name)) == before[name]
        except IntegrityError as error:
            assert "is damaged" in str(error)  # noqa: PT017  # some tensors are whole
            refused += 1
    stored.close()

    assert refused


def test_an_export_from_a_damaged_base_names_its_pack_and_leaves_no_file(folder: Folder) -> None:
    """Blocks are not checked one by one where the file's digest is: that must not hide which one it was."""
    folder.add("a", base())
    folder.library.pack()
    (old,) = _packs(folder)
    folder.add("b", tuned(base(), 1))
    folder.library.pack()
    folder.hide()
    _damage(old)
    out = folder.root / "out.safetensors"

    with pytest.raises(IntegrityError, match=old.stem):
        folder.library.export("b", out)

    assert not out.exists()
    assert [p.name for p in folder.root.iterdir() if p.name.startswith(".out")] == []
