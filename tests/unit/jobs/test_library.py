"""The library as people use it: add, look, export, remove, undo."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

import memcard
from fixtures import small
from memcard.core.architecture import Identity
from memcard.errors import (
    CorruptError,
    DiskError,
    IntegrityError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from memcard.jobs.library import Library
from memcard.store import survey as surveys
from memcard.store.canonical import read_object, sealed

PAST = 1_600_000_000_000_000_000


def saved(path: Path, seed: int = 1) -> Path:
    """A file that was not just written, so that its time can be trusted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small.save(path, small.weights(seed), {"modelspec.title": f"number {seed}"})
    os.utime(path, ns=(PAST, PAST + seed))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_it_is(path: Path) -> tuple[object, ...]:
    stat = path.stat()
    return path.read_bytes(), stat.st_mtime_ns, stat.st_mode, stat.st_ino, stat.st_nlink


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home")


@pytest.fixture
def neon(tmp_path: Path) -> Path:
    return saved(tmp_path / "models" / "neon.safetensors")


def test_an_added_file_stays_where_it_is_and_is_known_by_name_and_digest(
    library: Library, neon: Path
) -> None:
    before = as_it_is(neon)

    (added,) = library.add([neon])

    assert (added.name, added.status, added.kept) == ("neon", "new", "in place")
    assert added.sha256 == sha256(neon)
    assert as_it_is(neon) == before
    assert library.locate("neon") == library.locate(added.sha256[:10]) == neon
    assert not (library.path / "files").exists()


def test_every_tensor_is_recorded_with_its_place_and_digest(library: Library, neon: Path) -> None:
    from blake3 import blake3

    library.add([neon])
    manifest = library.show("neon").manifest

    raw = neon.read_bytes()
    with memcard.open(neon) as checkpoint:
        assert manifest.specs == checkpoint.specs
        assert manifest.metadata == checkpoint.metadata
        for name, tensor in manifest.tensors.items():
            values = bytes(checkpoint.read(name))
            assert tensor.at is not None
            assert raw[tensor.at : tensor.at + len(values)] == values
            assert tensor.blake3 == blake3(values).hexdigest()
    assert manifest.digests["blake3"] == blake3(raw).hexdigest()


def test_skeleton_and_values_are_the_whole_file(library: Library, neon: Path) -> None:
    library.add([neon])
    manifest = library.show("neon").manifest

    bones = surveys.get_bones(library.layout, manifest.files[0].skeleton)

    raw, rebuilt, taken = neon.read_bytes(), bytearray(), 0
    for tensor in sorted(manifest.tensors.values(), key=lambda t: t.at or 0):
        gap = (tensor.at or 0) - len(rebuilt)
        rebuilt += bones[taken : taken + gap]
        taken += gap
        rebuilt += raw[len(rebuilt) : len(rebuilt) + tensor.spec.nbytes]
    assert bytes(rebuilt + bones[taken:]) == raw


def test_an_unchanged_file_is_not_read_again(
    library: Library, neon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.add([neon])
    monkeypatch.setattr("memcard.jobs.add.describe", None)

    (again,) = library.add([neon])

    assert (again.name, again.status) == ("neon", "unchanged")


def test_a_file_written_just_now_is_read_again_for_its_time_proves_nothing(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small.save(tmp_path / "new.safetensors", small.weights(1))
    library.add([path])
    monkeypatch.setattr("memcard.jobs.add.describe", None)

    with pytest.raises(TypeError):
        library.add([path])


def test_a_copy_elsewhere_is_the_same_checkpoint(library: Library, neon: Path) -> None:
    library.add([neon])

    (copy,) = library.add([saved(neon.parent / "copy.safetensors")])

    assert (copy.name, copy.status) == ("neon", "another copy")
    assert len(library.ls().entries) == 1
    neon.unlink()
    assert library.locate("neon") == copy.path


def test_the_same_bytes_as_a_newer_memcard_sees_them_keep_their_name(
    library: Library, neon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = library.add([neon])
    monkeypatch.setattr(
        "memcard.jobs._library_members.identify", lambda *args: Identity("lora", "sdxl")
    )

    (new,) = library.add([saved(neon.parent / "copy.safetensors")])

    assert (new.name, new.status) == ("neon", "another copy")
    assert new.manifest != old.manifest
    shown = library.show("neon")
    assert (shown.version.kind, shown.ref.history) == ("lora", ())
    assert library.add([neon])[0].status == "unchanged"


def test_names_are_made_unique(library: Library, neon: Path) -> None:
    library.add([neon])

    (other,) = library.add([saved(neon.parent / "x" / "neon.safetensors", 2)])

    assert other.name == "neon-2"


def test_a_taken_name_is_refused_unless_it_may_move(library: Library, neon: Path) -> None:
    other = saved(neon.parent / "other.safetensors", 2)
    library.add([neon])
    with pytest.raises(UsageError, match="name of another checkpoint"):
        library.add([other], name="NEON")

    (moved,) = library.add([other], name="neon", update=True)

    assert (moved.name, moved.status) == ("neon", "changed")
    old = library.show(f"neon@{sha256(neon)[:8]}")
    assert old.version.sha256 == sha256(neon)
    assert library.show("neon").version.sha256 == sha256(other)


def test_a_changed_file_is_not_served_until_it_is_added_again(library: Library, neon: Path) -> None:
    before = sha256(neon)
    library.add([neon])
    saved(neon, 2)
    with pytest.raises(IntegrityError, match="was changed since it was added"):
        library.open("neon")

    (again,) = library.add([neon])

    assert (again.name, again.status, again.sha256) == ("neon", "changed", sha256(neon))
    assert [v.sha256 for v in library.show("neon").ref.history] == [before]
    with pytest.raises(NotFoundError, match="add another copy"):
        library.locate(f"neon@{before[:8]}")


def test_a_file_that_is_gone_is_named_with_the_remedy(library: Library, neon: Path) -> None:
    library.add([neon])
    neon.rename(neon.with_name("moved.safetensors"))

    with pytest.raises(NotFoundError, match=r"neon\.safetensors is not there.*memcard add"):
        library.open("neon")

    library.add([neon.with_name("moved.safetensors")])
    assert library.open("neon").format == "safetensors"


def test_the_wrong_file_under_the_same_size_and_time_is_not_exported(
    library: Library, neon: Path, tmp_path: Path
) -> None:
    library.add([neon])
    raw, stat = bytearray(neon.read_bytes()), neon.stat()
    raw[-1] ^= 1
    with neon.open("r+b") as file:
        file.write(raw)
    os.utime(neon, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    with pytest.raises(IntegrityError, match="its SHA-256 is"):
        library.export("neon", tmp_path / "out.safetensors")

    assert not (tmp_path / "out.safetensors").exists()


def test_an_export_is_the_file_it_was(library: Library, neon: Path, tmp_path: Path) -> None:
    library.add([neon])

    done = library.export("neon", tmp_path)

    assert done.path == tmp_path / "neon.safetensors"
    assert done.path.read_bytes() == neon.read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        library.export("neon", done.path)
    with pytest.raises(UsageError, match="the file to export itself"):
        library.export("neon", neon, overwrite=True)
    with pytest.raises(NotFoundError, match="no such folder"):
        library.export("neon", tmp_path / "no" / "x.safetensors")


def test_a_sound_copy_stands_in_for_a_rotten_one(
    library: Library, neon: Path, tmp_path: Path
) -> None:
    library.add([neon], how="copy")
    owned = library.path / "files" / sha256(neon)[:2] / sha256(neon)
    stat, expected = owned.stat(), neon.read_bytes()
    owned.chmod(0o644)
    owned.write_bytes(bytes(len(expected)))
    os.utime(owned, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    done = library.export("neon", tmp_path / "out.safetensors")

    assert done.path.read_bytes() == expected


def test_a_hard_link_takes_no_space_and_outlives_the_old_name(library: Library, neon: Path) -> None:
    mode = neon.stat().st_mode
    (added,) = library.add([neon], how="link")

    assert added.kept in ("hardlink", "reflink")
    assert neon.stat().st_mode == mode
    neon.unlink()
    with library.open("neon") as checkpoint:
        assert len(checkpoint.specs) == 4


def test_a_hard_link_that_was_edited_in_place_is_refused(library: Library, neon: Path) -> None:
    (added,) = library.add([neon], how="link")
    if added.kept != "hardlink":
        pytest.skip("the file system makes reflinks, which nobody can edit from outside")
    with neon.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")

    with pytest.raises(IntegrityError, match="was changed since"):
        library.open("neon")
    with pytest.raises(IntegrityError):
        library.export("neon", neon.with_name("out.safetensors"))


def test_a_moved_file_is_the_librarys_and_read_only(library: Library, neon: Path) -> None:
    expected = neon.read_bytes()

    (added,) = library.add([neon], how="move")

    assert added.kept == "move"
    assert not neon.exists()
    place = library.locate("neon")
    assert place.read_bytes() == expected
    assert place.stat().st_mode & 0o222 == 0
    assert library.path in place.parents


def test_a_rotten_file_of_the_library_is_replaced_before_the_users_own_goes_away(
    library: Library, neon: Path
) -> None:
    expected = neon.read_bytes()
    library.add([neon], how="copy")
    owned = library.layout.file(sha256(neon))
    owned.chmod(0o644)
    owned.write_bytes(bytes(len(expected)))

    library.add([neon], how="move")

    assert not neon.exists()
    assert library.locate("neon").read_bytes() == expected


def test_a_third_name_of_a_moved_file_is_still_watched(library: Library, neon: Path) -> None:
    third = neon.with_name("third.safetensors")
    os.link(neon, third)
    library.add([neon], how="move")
    with third.open("r+b") as file:
        file.write(b"\x01")

    with pytest.raises(IntegrityError, match="was changed since"):
        library.open("neon")


def test_what_comes_to_lie_where_a_moved_file_was_is_something_new(
    library: Library, neon: Path
) -> None:
    library.add([neon], how="move")

    (added,) = library.add([saved(neon, 2)])

    assert (added.name, added.status) == ("neon-2", "new")


def test_the_librarys_own_files_are_neither_added_nor_written_over(
    library: Library, neon: Path
) -> None:
    library.add([neon], how="move")
    owned = library.locate("neon")

    with pytest.raises(UsageError, match="in the library itself"):
        library.add([owned], how="move")
    with pytest.raises(UsageError, match="in the library itself"):
        library.export("neon", owned, overwrite=True)

    assert owned.exists()


def test_an_older_version_is_not_removed_by_removing_its_name(library: Library, neon: Path) -> None:
    old = sha256(neon)
    library.add([neon])
    library.add([saved(neon, 2)])

    with pytest.raises(UsageError, match="older version of neon"):
        library.rm(old[:12])

    assert len(library.ls().entries) == 1


def test_where_there_are_no_hard_links_a_move_is_a_rename(
    library: Library, neon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*args: object, **kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", unable)
    expected, inode = neon.read_bytes(), neon.stat().st_ino

    library.add([neon], how="move")

    assert not neon.exists()
    assert library.locate("neon").read_bytes() == expected
    assert library.locate("neon").stat().st_ino == inode


def test_where_there_are_no_links_at_all_linking_is_refused_and_nothing_lost(
    library: Library, neon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*args: object, **kwargs: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", unable)
    monkeypatch.setattr("memcard.store.files._reflinked", lambda *args: False)

    with pytest.raises(UsageError, match="cannot be linked"):
        library.add([neon], how="link")

    assert library.locate("neon") == neon


def test_a_link_is_never_moved_and_its_target_stays(library: Library, neon: Path) -> None:
    link = neon.with_name("link.safetensors")
    link.symlink_to(neon)

    with pytest.raises(UsageError, match="is a link"):
        library.add([link], how="move")

    assert neon.exists()
    assert library.add([link])[0].name == "link"
    assert library.locate("link") == link


def test_rm_touches_no_file_and_undo_brings_the_name_back(library: Library, neon: Path) -> None:
    library.add([neon])
    before = library.show("neon").to_dict()

    planned = library.rm("neon", dry_run=True)
    done = library.rm("neon")

    assert planned.entry is None
    assert done.stays == (str(neon),)
    assert neon.exists()
    with pytest.raises(NotFoundError):
        library.show("neon")
    assert library.undo().title == "neon"
    assert library.show("neon").to_dict() == before


def test_undo_never_overwrites_a_new_name(library: Library, neon: Path) -> None:
    library.add([neon])
    library.rm("neon")
    other = saved(neon.parent / "other.safetensors", 2)
    library.add([other], name="neon")

    with pytest.raises(UsageError, match="in use again"):
        library.undo()

    assert library.show("neon").version.sha256 == sha256(other)
    library.rm("neon")
    assert [entry.title for entry in library.trashed()] == ["neon", "neon"]


def test_gc_keeps_what_names_history_and_trash_lead_to(library: Library, neon: Path) -> None:
    library.add([neon], how="copy")
    library.add([saved(neon, 2)])  # the first version is in the history now
    library.add([saved(neon.parent / "b.safetensors", 3)], how="copy")
    library.rm("b")

    done = library.gc()

    assert done.put_away == ()
    library.undo()
    assert {entry.name for entry in library.ls().entries if entry.at_hand} == {"neon", "b"}


def test_gc_in_two_steps_frees_the_librarys_files_and_no_others(
    library: Library, neon: Path
) -> None:
    library.add([neon], how="copy")
    library.rm("neon")
    expected = sha256(neon)

    planned = library.gc(days=0, dry_run=True)
    first = library.gc(days=0)

    assert planned.put_away == first.put_away
    assert first.nbytes > neon.stat().st_size
    assert not list((library.path / "files").glob("??/*"))
    library.undo(first.entry)
    assert list((library.path / "files").glob("??/*"))
    second = library.gc(days=0)
    third = library.gc(days=0)
    assert third.removed == (second.entry,)
    assert library.trashed() == ()
    assert sha256(neon) == expected


def test_gc_does_nothing_while_a_name_cannot_be_read(library: Library, neon: Path) -> None:
    library.add([neon], how="copy")
    (library.path / "refs" / "neon.json").write_bytes(b"{")

    with pytest.raises(IntegrityError, match="nothing is put away"):
        library.gc(days=0)

    assert library.trashed() == ()


def test_files_in_the_librarys_folder_that_are_not_its_own_are_left_alone(
    library: Library, neon: Path
) -> None:
    library.add([neon])
    strangers = [
        library.path / name
        for name in ("files/aa/notes.txt", "tmp/mine", "trash/x/y", "refs/a.txt")
    ]
    for path in strangers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")

    library.rm("neon")
    library.gc(days=0)
    library.gc(days=0)

    assert [path.read_bytes() for path in strangers] == [b"mine"] * len(strangers)


def test_one_bad_file_among_many_is_named_before_anything_is_added(
    library: Library, neon: Path
) -> None:
    (neon.parent / "a.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    (neon.parent / "b.ckpt").write_bytes(b"nothing")

    with pytest.raises(CorruptError, match=r"2 of 3 .*none was.*a\.safetensors.*b\.ckpt"):
        library.add([neon.parent])

    assert not library.path.exists()


def test_what_is_not_there_is_not_found(library: Library, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        library.add([tmp_path / "no.ckpt"])
    with pytest.raises(NotFoundError, match="is no library yet"):
        library.ls()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnsupportedError, match="no checkpoint lies there"):
        library.add([tmp_path / "empty"])


def test_a_newer_library_is_neither_read_nor_written(library: Library, neon: Path) -> None:
    library.add([neon])
    card = library.path / "library.json"
    card.write_bytes(sealed({**json.loads(card.read_text()), "version": 3}))
    before = sorted(library.path.rglob("*"))

    for verb in (library.ls, lambda: library.add([neon]), library.gc):
        with pytest.raises(UnsupportedError, match="pip install --upgrade"):
            verb()

    assert sorted(library.path.rglob("*")) == before


def test_a_lost_card_is_no_reason_to_begin_anew(library: Library, neon: Path) -> None:
    library.add([neon])
    (library.path / "library.json").unlink()

    with pytest.raises(CorruptError, match="is missing"):
        library.add([saved(neon, 2)])


def test_a_library_on_a_read_only_disk_can_be_read(
    library: Library, neon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.add([neon])
    real = os.open

    def read_only(path: os.PathLike[str], flags: int, *args: int, **kwargs: int) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and library.path in Path(path).parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr("os.open", read_only)

    assert library.ls().entries[0].at_hand
    assert library.add([neon])[0].status == "unchanged"
    library.export("neon", tmp_path / "out.safetensors")
    with pytest.raises(DiskError, match="Read-only"):
        library.rm("neon")
    assert library.show("neon").ref.name == "neon"


def test_a_ckpt_and_a_safetensors_of_the_same_weights_share_the_digests_of_their_tensors(
    library: Library, neon: Path
) -> None:
    memcard.convert(neon, neon.with_suffix(".ckpt"))
    library.add([neon.parent])

    twins = [library.show(name).manifest for name in ("neon", "neon-2")]

    assert {m.format for m in twins} == {"safetensors", "torch_zip"}
    first, second = ({n: t.blake3 for n, t in m.tensors.items()} for m in twins)
    assert first == second


def test_the_records_are_as_the_specification_says(library: Library, neon: Path) -> None:
    (added,) = library.add([neon])

    record = read_object(library.layout.adopted(added.sha256))

    stat = neon.stat()
    assert record["manifest"] == added.manifest
    assert record["places"][0].pop("seen").endswith("Z")
    assert record["places"] == [
        {"path": str(neon), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns,
         "inode": stat.st_ino, "device": stat.st_dev}
    ]  # fmt: skip


def test_a_list_can_be_narrowed(library: Library, neon: Path) -> None:
    library.add([neon, saved(neon.parent / "Other one.safetensors", 2)])

    assert [e.name for e in library.ls("SAFE other").entries] == ["Other one"]
    assert library.ls("nothing").entries == ()
    neon.unlink()
    assert [e.at_hand for e in library.ls().entries] == [False, True]


def test_an_ambiguous_digest_is_a_question(library: Library, neon: Path) -> None:
    (one,) = library.add([neon])
    ref = library.path / "refs" / "neon.json"
    text = ref.read_text().replace('"name":"neon"', '"name":"twin"')
    twin = text.replace(one.sha256, one.sha256[:20] + "0" * 44)
    (library.path / "refs" / "twin.json").write_bytes(sealed(json.loads(twin)))

    with pytest.raises(MismatchError, match="several fit"):
        library.locate(one.sha256[:12])
