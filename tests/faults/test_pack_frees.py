"""Packing removes a plain copy only when nothing else needs it and the packs give it back at that very time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faults.program import counted
from fixtures import small
from memcard.jobs.library import Library

ONE = small.weights(1, "F32", size=4000)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home")


def sharded(root: Path, arrays: small.Arrays) -> tuple[Path, bytes]:
    """Write an index of one shard; return it and the bytes of the shard."""
    root.mkdir(parents=True)
    shard = small.save(root / "m-00001-of-00001.safetensors", arrays)
    index = root / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(arrays, shard.name)}))
    return index, shard.read_bytes()


def owned(library: Library) -> list[bytes]:
    return [
        p.read_bytes()
        for p in (library.path / "files").rglob("*")
        if p.suffix != ".json" and p.is_file()
    ]


def test_a_file_that_another_checkpoint_needs_stays(library: Library, tmp_path: Path) -> None:
    index, raw = sharded(tmp_path / "models", ONE)
    library.add([index], name="several", how="copy")
    single = tmp_path / "single.safetensors"
    single.write_bytes(raw)
    library.add([single], name="single", how="copy")
    single.unlink()
    for path in index.parent.iterdir():
        path.unlink()

    library.pack("single", threads=1)

    done = library.export("several", tmp_path / "out")
    assert (done.path / "m-00001-of-00001.safetensors").read_bytes() == raw
    counted("copy that something needs", 1)


def test_a_file_that_a_removed_name_needs_stays(library: Library, tmp_path: Path) -> None:
    index, raw = sharded(tmp_path / "models", ONE)
    library.add([index], name="several", how="copy")
    single = tmp_path / "single.safetensors"
    single.write_bytes(raw)
    library.add([single], name="single", how="copy")
    for path in (single, *index.parent.iterdir()):
        path.unlink()
    library.rm("several")

    library.pack("single", threads=1)
    library.undo()

    done = library.export("several", tmp_path / "out")
    assert (done.path / "m-00001-of-00001.safetensors").read_bytes() == raw
    counted("copy that something needs", 1)


def test_a_good_copy_stays_when_the_pack_has_rotted(library: Library, tmp_path: Path) -> None:
    path = small.save(tmp_path / "one.safetensors", ONE)
    raw = path.read_bytes()
    library.add([path], how="copy")
    library.pack(threads=1)
    (pack,) = library.path.rglob("*.pack")
    rotten = bytearray(pack.read_bytes())
    rotten[len(rotten) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(rotten)
    path.write_bytes(raw)
    library.add([path], how="copy")  # as the error about the pack advises
    path.unlink()

    (done,) = library.pack(threads=1).done
    assert "damaged" in done.skipped

    assert owned(library) == [raw]
    out = library.export("one", tmp_path / "out.safetensors")
    assert out.path.read_bytes() == raw
    counted("copy that something needs", 1)
