"""A folder of models is listed in no time, and added without a file being touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fixtures import small
from memcard.errors import NotFoundError
from memcard.formats import create
from memcard.jobs.library import Library

PAST = 1_600_000_000_000_000_000


def saved(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small.save(path, small.weights(seed, size=3000))
    os.utime(path, ns=(PAST, PAST + seed))
    return path


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "sub/b", "sub/c")):
        saved(tmp_path / "models" / f"{name}.safetensors", seed)
    (tmp_path / "models" / "broken.ckpt").write_bytes(b"nothing")
    (tmp_path / "models" / "notes.txt").write_text("no model")
    return tmp_path / "models"


def states(library: Library, *folders: Path, hashed: bool = False) -> dict[str, str]:
    return {e.path.name: e.state for e in library.scan(folders, hashed=hashed)}


def seen(folder: Path) -> dict[Path, tuple[object, ...]]:
    return {
        p: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_mode, p.stat().st_ino)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }


def test_a_scan_lists_and_changes_nothing_and_makes_no_library(
    library: Library, models: Path
) -> None:
    before = seen(models)

    found = library.scan([models])

    assert {e.path.name: e.state for e in found} == {
        "a.safetensors": "new", "b.safetensors": "new", "c.safetensors": "new",
        "broken.ckpt": "unreadable",
    }  # fmt: skip
    assert found[0].size == (models / "a.safetensors").stat().st_size
    assert "broken.ckpt" in found[1].note
    assert not library.path.exists()
    assert seen(models) == before


def test_hashing_adds_what_is_new_where_it_is(library: Library, models: Path) -> None:
    before = seen(models)

    library.scan([models], hashed=True)

    assert {entry.name for entry in library.ls().entries} == {"a", "b", "c"}
    assert seen(models) == before
    assert set(states(library, models).values()) == {"known", "unreadable"}


def test_an_interrupted_scan_goes_on_where_it_was(
    library: Library, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def interrupt(event: object) -> None:
        if getattr(event, "phase", "") == "scan" and getattr(event, "done", 0) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.scan([models], hashed=True, progress=interrupt)
    assert len(library.ls().entries) == 2

    from memcard.jobs import add

    real = add.describe
    monkeypatch.setattr(
        add, "describe", lambda path, *a: (read.append(path.name), real(path, *a))[1]
    )
    library.scan([models], hashed=True)

    assert read == ["c.safetensors"]


def test_a_moved_file_keeps_its_name_and_a_changed_one_too(library: Library, models: Path) -> None:
    library.scan([models], hashed=True)
    (models / "a.safetensors").rename(models / "sub" / "renamed.safetensors")
    saved(models / "sub" / "b.safetensors", 9)

    found = {e.path.name: e for e in library.scan([models], hashed=True)}

    moved = found["renamed.safetensors"]
    assert (moved.state, moved.name, moved.note) == (
        "moved",
        "a",
        f"was at {models / 'a.safetensors'}",
    )
    assert (found["b.safetensors"].state, found["b.safetensors"].name) == ("changed", "b")
    assert [copy.path.name for copy in library.show("a").copies] == ["renamed.safetensors"]
    assert {entry.name for entry in library.ls().entries} == {"a", "b", "c"}


def test_links_out_of_the_folder_and_circles_are_not_followed(
    library: Library, models: Path, tmp_path: Path
) -> None:
    outside = saved(tmp_path / "outside" / "private.safetensors", 5)
    (models / "there").symlink_to(outside.parent)
    (models / "file.safetensors").symlink_to(outside)
    (models / "sub" / "round").symlink_to(models)
    (models / "nowhere.safetensors").symlink_to(tmp_path / "nothing")

    found = states(library, models, hashed=True)

    assert sorted(found) == ["a.safetensors", "b.safetensors", "broken.ckpt", "c.safetensors"]
    assert {entry.name for entry in library.ls().entries} == {"a", "b", "c"}


def test_a_folder_that_is_not_there_is_not_found(library: Library, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        library.scan([tmp_path / "no"])


def test_what_was_young_when_it_was_added_is_compared_not_called_changed(
    library: Library, models: Path
) -> None:
    young = models / "a.safetensors"
    os.utime(young)
    library.add([young])

    assert states(library, models)["a.safetensors"] == "known"

    stat, raw = young.stat(), bytearray(young.read_bytes())
    raw[-1] ^= 1
    young.write_bytes(raw)  # within one tick of a coarse clock
    os.utime(young, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert states(library, models)["a.safetensors"] == "changed"


def test_parts_of_a_folder_that_were_young_are_compared_too(
    library: Library, tmp_path: Path
) -> None:
    out = tmp_path / "models" / "big.safetensors.index.json"
    out.parent.mkdir()
    with create(str(out), max_shard=5000) as sink:
        arrays = small.weights(1, size=3000)
        sink.begin({name: small.spec_of(a) for name, a in arrays.items()}, {})
        for name, array in arrays.items():
            sink.write(name, memoryview(array.tobytes()))
    index = sink.result
    library.add([index])

    assert states(library, index.parent)[index.name] == "known"
