"""Packing: little space, the same bytes, and nothing lost."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ml_dtypes import bfloat16

import memcard
from fixtures import small
from fixtures.packing import SHAPES, Folder, base, tuned
from memcard.errors import IntegrityError, NotFoundError
from memcard.jobs.merge import merge
from memcard.store import packed as records
from memcard.store import refs


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_fine_tune_is_stored_as_a_difference_and_comes_back(folder: Folder) -> None:
    folder.add("base", base())
    folder.add("tune", tuned(base(), 1, size=1e-6))

    done = {d.name: d for d in folder.library.pack().done}
    folder.hide()

    assert done["base"].how == "alone"
    assert done["tune"].how.startswith("difference to")
    assert done["tune"].stored < 0.7 * done["base"].stored
    folder.check()


def test_packing_again_costs_nothing(folder: Folder) -> None:
    folder.add("base", base())
    first = folder.library.pack()
    before = sorted(p.name for p in folder.library.path.rglob("*.pack"))

    again = folder.library.pack()

    assert [d.how for d in again.done] == ["packed already"]
    assert again.stored == first.stored
    assert sorted(p.name for p in folder.library.path.rglob("*.pack")) == before


def test_a_checkpoint_of_known_tensors_takes_nothing(folder: Folder) -> None:
    one = base()
    folder.add("one", one)
    folder.add("two", {n: a for n, a in one.items() if not n.startswith("first")})

    folder.how()

    assert len(list(folder.library.path.rglob("*.pack"))) == 1
    folder.hide()
    folder.check()


MADE = {
    "0.7 a + 0.3 b": lambda a, b: (0.7 * a.astype("f8") + 0.3 * b.astype("f8")).astype(a.dtype),
    "half": lambda a, b: a.astype("f2"),
    "brain": lambda a, b: b.astype(bfloat16),
    "naive": lambda a, b: (np.float32(0.75) * a + np.float32(0.25) * b).astype("f4"),
}


@pytest.mark.parametrize("how", MADE)
def test_what_was_computed_from_others_is_stored_as_its_recipe(how: str, folder: Folder) -> None:
    a, b = tuned(base(), 1), tuned(base(), 2)
    folder.add("a", a)
    folder.add("b", b)
    folder.add("made", {n: MADE[how](a[n], b[n]) for n in SHAPES})

    done = {d.name: d for d in folder.library.pack().done}

    assert done["made"].stored == 0
    folder.hide()
    folder.check()


def test_a_recipe_that_is_nearly_right_is_stored_with_what_differs(folder: Folder) -> None:
    a, b = tuned(base(), 1), tuned(base(), 2)
    made = {n: ((a[n].astype("f8") + b[n]) / 2).astype("f4") for n in SHAPES}
    made["model.diffusion_model.middle_block.1.proj_in.weight"][3, 5:9] += 1
    for name, arrays in {"a": a, "b": b, "made": made}.items():
        folder.add(name, arrays)

    done = {d.name: d for d in folder.library.pack().done}

    assert set(done["made"].how.replace("0.5 ", "").split(" + ")) == {"a", "b"}
    assert 0 < done["made"].stored < 2000
    folder.hide()
    folder.check()


def test_the_order_of_adding_does_not_matter_for_a_merge(folder: Folder) -> None:
    a, b = tuned(base(), 1), tuned(base(), 2)
    folder.add("aa_merge", {n: (0.5 * a[n] + 0.5 * b[n]).astype("f4") for n in SHAPES})
    folder.add("b", b)
    folder.add("a", a)

    done = {d.name: d for d in folder.library.pack().done}

    assert done["aa_merge"].stored == 0
    folder.hide()
    folder.check()


def test_a_packed_checkpoint_is_read_tensor_by_tensor(folder: Folder) -> None:
    a, b = tuned(base(), 1), tuned(base(), 2)
    folder.add("a", a)
    folder.add("b", b)
    folder.add("made", {n: (0.5 * a[n] + 0.5 * b[n]).astype("f4") for n in SHAPES})
    folder.library.pack()
    folder.hide()

    for name, arrays in {"b": b, "made": {n: (0.5 * a[n] + 0.5 * b[n]) for n in SHAPES}}.items():
        with folder.library.open(name) as checkpoint:
            assert list(checkpoint.specs) == list(SHAPES)
            for tensor, values in arrays.items():
                assert bytes(checkpoint.read(tensor)) == values.tobytes()
                part = memoryview(bytearray(12))
                checkpoint.readinto(tensor, part, 40)
                assert bytes(part) == values.tobytes()[40:52]


def test_own_copies_are_removed_and_users_files_are_not(folder: Folder) -> None:
    folder.add("mine", base(), how="move")
    folder.add("theirs", tuned(base(), 1))
    path = folder.root / "theirs.safetensors"
    before = path.stat()

    done = {d.name: d for d in folder.library.pack().done}

    assert done["mine"].freed > 0
    assert done["theirs"].freed == 0
    assert not [p for p in (folder.library.path / "files").rglob("*") if p.is_file()]
    assert path.stat() == before
    folder.hide()
    folder.check()


def test_own_copies_can_be_kept(folder: Folder) -> None:
    folder.add("mine", base(), how="move")

    folder.library.pack(keep_files=True)

    assert folder.library.locate("mine").is_file()


def test_a_ckpt_shares_all_tensors_with_its_twin(folder: Folder) -> None:
    arrays = base()
    folder.add("twin", arrays)
    path = folder.root / "twin.ckpt"
    torch.save({n: torch.from_numpy(a) for n, a in arrays.items()}, path)
    folder.library.add([path], name="ckpt")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    done = {d.name: d for d in folder.library.pack().done}
    path.unlink()

    assert min(done["ckpt"].stored, done["twin"].stored) == 0
    folder.library.export("ckpt", path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def test_a_file_that_changed_since_it_was_added_is_left_alone(folder: Folder) -> None:
    folder.add("a", base())
    path = folder.root / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"1234")

    (done,) = folder.library.pack().done

    assert "no unchanged plain copy" in done.skipped


def test_a_file_that_lies_about_its_time_is_not_packed(folder: Folder) -> None:
    folder.add("a", base())
    path = folder.root / "a.safetensors"
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-4] + b"1234")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    with pytest.raises(IntegrityError):
        folder.library.pack()

    _, version = refs.find(folder.library.layout, "a")
    assert records.get(folder.library.layout, version.manifest) is None
    assert not list(folder.library.path.rglob("*.pack"))


def test_a_damaged_pack_is_never_served(folder: Folder) -> None:
    folder.add("a", base())
    folder.library.pack()
    folder.hide()
    (pack,) = folder.library.path.rglob("*.pack")
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 2] ^= 4
    pack.chmod(0o644)
    pack.write_bytes(raw)

    with pytest.raises(IntegrityError):
        folder.library.export("a", folder.root / "out.safetensors")
    assert not (folder.root / "out.safetensors").exists()


def test_a_missing_pack_is_named(folder: Folder) -> None:
    folder.add("a", base())
    folder.library.pack()
    folder.hide()
    (pack,) = folder.library.path.rglob("*.pack")
    pack.unlink()

    with pytest.raises(NotFoundError, match="lacks this pack"):
        folder.library.open("a")


def test_names_behind_a_prefix_find_their_base(folder: Folder) -> None:
    arrays = base()
    folder.add("base", arrays)
    folder.add("save", {f"state.module.{n}": a for n, a in tuned(arrays, 1).items()})

    done = {d.name: d for d in folder.library.pack().done}

    assert done["save"].how.startswith("difference to")
    folder.hide()
    folder.check()


def test_gc_keeps_what_packed_checkpoints_need_and_puts_away_the_rest(folder: Folder) -> None:
    a, b = tuned(base(), 1), tuned(base(), 2)
    folder.add("a", a)
    folder.add("b", b)
    folder.add("made", {n: (0.5 * a[n] + 0.5 * b[n]).astype("f4") for n in SHAPES})
    folder.add("other", base(7))
    folder.library.pack()
    folder.hide()
    folder.library.rm("a", "b", "other")
    _age(folder.library.path)

    folder.library.gc(days=0)
    done = folder.library.gc(days=0)

    kept = sorted(p.stem for p in folder.library.path.rglob("*.pack") if "trash" not in p.parts)
    _, version = refs.find(folder.library.layout, "made")
    with folder.library.open("made") as checkpoint:
        assert len(checkpoint.specs) == len(SHAPES)
    record = records.get(folder.library.layout, version.manifest)
    assert record is not None
    assert len(record.sources) == 2
    assert len(kept) == 2
    del folder.digests["a"], folder.digests["b"], folder.digests["other"]
    folder.check()
    assert done.nbytes >= 0


def _age(root: Path) -> None:
    """Make everything older than what gc leaves alone."""
    from memcard.store import gc

    gc.YOUNG  # noqa: B018
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (10**9, 10**9))


METHODS: dict[str, dict[str, Any]] = {
    "weighted_average": {"weights": [0.37, 0.63]},
    "slerp": {"t": 0.4},
    "ties": {"base": "base", "density": 0.3},
    "dare_ties": {"base": "base", "density": 0.5, "seed": 7},
}


@pytest.mark.parametrize("method", METHODS)
def test_what_memcard_made_is_its_recorded_recipe(method: str, folder: Folder) -> None:
    """Also of methods that nobody could guess."""
    params = dict(METHODS[method])
    for name, arrays in {"base": base(), "a": tuned(base(), 1), "b": tuned(base(), 2)}.items():
        folder.add(name, arrays)
    paths = [folder.root / f"{name}.safetensors" for name in "ab"]
    if "base" in params:
        params["base"] = folder.root / "base.safetensors"
    out = folder.root / "made.safetensors"
    merge(method, paths, out=out, **params)
    folder.digests["made"] = hashlib.sha256(out.read_bytes()).hexdigest()
    folder.library.add([out])

    done = {d.name: d for d in folder.library.pack().done}

    assert done["made"].how.startswith("recorded: ")
    assert done["made"].stored == 0
    folder.hide()
    folder.check()


def test_a_recorded_recipe_that_is_not_true_changes_nothing(folder: Folder) -> None:
    a, b = tuned(base(), 1), tuned(base(), 2)
    folder.add("a", a)
    folder.add("b", b)
    out = folder.root / "made.safetensors"
    merge("weighted_average", [folder.root / f"{n}.safetensors" for n in "ab"], out=out)
    said = dict(memcard.open(out).metadata)
    small.save(out, base(9), said)
    folder.digests["made"] = hashlib.sha256(out.read_bytes()).hexdigest()
    folder.library.add([out])

    done = {d.name: d for d in folder.library.pack().done}

    assert not done["made"].how.startswith("recorded")
    folder.hide()
    folder.check()


def test_inspect_gives_the_size_of_the_checkpoint_not_of_its_record(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.add("a", base())
    size = (folder.root / "a.safetensors").stat().st_size
    folder.library.pack()
    folder.hide()
    monkeypatch.setenv("MEMCARD_HOME", str(folder.library.path))

    report = memcard.inspect("a")

    assert (report.verdict, report.size) == ("ok", size)
