"""Checkpoints of several files in the library: diffusers folders and indexes of shards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import memcard
from fixtures import small
from memcard.errors import IntegrityError, NotFoundError, UsageError
from memcard.formats import create
from memcard.jobs.library import Library

PAST = 1_600_000_000_000_000_000


def age(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, ns=(PAST, PAST))


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def written(out: str, prefix: str = "", seed: int = 1) -> Path:
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{prefix}{name}": a for name, a in small.weights(seed).items()}
    with create(out, max_shard=100_000) as sink:
        sink.begin({name: small.spec_of(a) for name, a in arrays.items()}, {})
        for name, array in arrays.items():
            sink.write(name, memoryview(array.tobytes()))
    return sink.result


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(f"{tmp_path}/models/pipeline/", "unet.")
    root = tmp_path / "models" / "pipeline"
    (root / "README.md").write_text("A card.")
    (root / ".cache").mkdir()
    (root / ".cache" / "x").write_text("hidden")
    age(root)
    return root


def test_a_folder_is_one_checkpoint_with_all_its_files(
    library: Library, folder: Path, tmp_path: Path
) -> None:
    (added,) = library.add([folder])

    assert (added.name, added.status) == ("pipeline", "new")
    manifest = library.show("pipeline").manifest
    expected = {n: b for n, b in contents(folder).items() if not n.startswith(".")}
    assert {f.name: f.size for f in manifest.files} == {n: len(b) for n, b in expected.items()}
    assert all(tensor.blake3 for tensor in manifest.tensors.values())
    with library.open("pipeline") as stored, memcard.open(folder) as checkpoint:
        assert stored.specs == checkpoint.specs
    library.export("pipeline", tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def test_a_checkpoint_that_lies_loose_in_a_folder_is_added_too(
    library: Library, folder: Path
) -> None:
    (folder / "model_index.json").write_text("{}")
    loose = small.save(folder / "pruned.safetensors", small.weights(9))
    (folder / "training_args.bin").write_bytes(b"no checkpoint")
    age(folder)

    added = library.add([folder])

    assert [(one.name, one.status) for one in added] == [("pipeline", "new"), ("pruned", "new")]
    assert library.locate("pruned") == loose
    assert {e.path.name: e.state for e in library.scan([folder.parent])} == {
        "pipeline": "known", "pruned.safetensors": "known", "training_args.bin": "unreadable",
    }  # fmt: skip


def test_a_name_is_meant_for_the_folder_alone(library: Library, folder: Path) -> None:
    (folder / "model_index.json").write_text("{}")
    small.save(folder / "pruned.safetensors", small.weights(9))

    assert [one.name for one in library.add([folder], name="mine")] == ["mine"]


def test_an_unchanged_folder_is_not_read_again_and_a_changed_one_is(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.add([folder])
    with monkeypatch.context() as patch:
        patch.setattr("memcard.jobs.add.describe", None)
        assert library.add([folder])[0].status == "unchanged"
    (folder / "new.txt").write_text("new")

    (again,) = library.add([folder])

    assert (again.name, again.status) == ("pipeline", "changed")


def test_a_folder_of_which_a_file_was_changed_is_not_served(library: Library, folder: Path) -> None:
    library.add([folder])
    (folder / "README.md").write_text("Another card.")

    with pytest.raises(IntegrityError, match="was changed since"):
        library.open("pipeline")
    (folder / "README.md").unlink()
    with pytest.raises(NotFoundError, match="is not there"):
        library.open("pipeline")


def test_a_folder_is_not_moved_but_can_be_linked_and_outlives_the_old_one(
    library: Library, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="several files"):
        library.add([folder], how="move")
    expected = {n: b for n, b in contents(folder).items() if not n.startswith(".")}

    library.add([folder], how="link")
    folder.rename(folder.with_name("elsewhere"))

    library.export("pipeline", tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def test_an_export_replaces_no_folder_unasked_and_never_its_own_source(
    library: Library, folder: Path, tmp_path: Path
) -> None:
    library.add([folder])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    with pytest.raises(UsageError, match="is there already"):
        library.export("pipeline", tmp_path / "out")
    with pytest.raises(UsageError, match="holds the very files"):
        library.export("pipeline", folder, overwrite=True)

    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_shards_are_one_checkpoint_named_by_their_index(library: Library, tmp_path: Path) -> None:
    index = written(f"{tmp_path}/models/big.safetensors.index.json")
    age(index.parent)

    (added,) = library.add([index.parent])

    assert added.name == "big"
    assert library.locate("big") == index
    assert len(library.show("big").manifest.files) == 3
    library.export("big", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(index.parent)


def test_links_to_folders_are_not_followed_and_circles_are_no_trap(
    library: Library, folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "private.txt").write_text("private")
    (folder / "tokenizer").symlink_to(outside)
    (folder / "unet" / "round").symlink_to(folder)

    library.add([folder])

    names = [file.name for file in library.show("pipeline").manifest.files]
    assert not [name for name in names if name.startswith(("tokenizer", "unet/round"))]
