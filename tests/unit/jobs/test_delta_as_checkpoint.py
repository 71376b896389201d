"""A delta in the place of the checkpoint it makes: its base is found by contents, and nothing is written."""

import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pytest
import torch

import memcard
from fixtures import small
from memcard.cli.main import main
from memcard.errors import (
    CorruptError,
    IntegrityError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from memcard.formats import open_file
from memcard.jobs import resolve as resolving
from memcard.jobs._delta_file import BLOCK, DeltaCheckpoint
from memcard.jobs.convert import convert
from memcard.jobs.delta import delta_apply, delta_make
from memcard.jobs.diff import diff
from memcard.jobs.inspect import inspect
from memcard.jobs.lora import lora_bake, open_with_loras
from memcard.jobs.merge import merge
from memcard.jobs.resolve import locate, node_for, resolve
from memcard.recipes.nodes import Source


def changed(arrays, seed=9):
    rng = np.random.default_rng(seed)
    return {n: (a + rng.standard_normal(a.shape) * 1e-3).astype(a.dtype) for n, a in arrays.items()}


@pytest.fixture
def trio(tmp_path):
    """A base, its fine-tune, and the delta in a folder of its own beside the base."""
    folder = tmp_path / "models"
    folder.mkdir()
    base = small.save(folder / "base.safetensors", small.weights(1))
    tuned = small.save(
        tmp_path / "tuned.safetensors", changed(small.weights(1)), {"modelspec.title": "Tune"}
    )
    return base, tuned, delta_make(base, tuned, out=folder / "d.safetensors").out


def digest_of(path):
    return sha256(path.read_bytes()).hexdigest()


def assert_same(checkpoint, path):
    wanted = open_file(path)
    assert list(checkpoint.specs) == list(wanted.specs)
    assert all(checkpoint.read(n) == wanted.read(n) for n in wanted.specs)
    assert checkpoint.metadata == wanted.metadata
    wanted.close()


def test_it_opens_as_the_fine_tune_and_writes_nothing(trio, tmp_path):
    _, tuned, delta = trio
    before = sorted(tmp_path.rglob("*"))

    with memcard.open(delta) as checkpoint:
        assert checkpoint.format == "delta"
        assert_same(checkpoint, tuned)

    assert sorted(tmp_path.rglob("*")) == before


def test_any_part_can_be_read_from_any_thread(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal(BLOCK + 1000).astype("f2"), "v": np.ones(5, "f4")}
    base = small.save(tmp_path / "base.safetensors", arrays)
    tuned = small.save(tmp_path / "tuned.safetensors", changed(arrays))
    delta = delta_make(base, tuned, out=tmp_path / "d.safetensors").out
    wanted = bytes(open_file(tuned).read("w"))
    places = [int(x) for x in rng.integers(0, len(wanted) - 70_000, 60)]

    with memcard.open(delta) as checkpoint, ThreadPoolExecutor(4) as crew:

        def part(place):
            into = memoryview(bytearray(70_000))
            checkpoint.readinto("w", into, place)
            return bytes(into)

        found = list(crew.map(part, places))

    assert found == [wanted[place : place + 70_000] for place in places]


def test_the_base_may_have_any_name_and_lie_in_the_working_folder(trio, tmp_path, monkeypatch):
    base, tuned, delta = trio
    away = tmp_path / "elsewhere"
    away.mkdir()
    base.rename(away / "renamed.sft")
    monkeypatch.chdir(away)

    assert_same(resolve(delta), tuned)


def test_folders_of_bases_can_be_named_in_the_environment(trio, tmp_path, monkeypatch):
    base, tuned, delta = trio
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    base.rename(tmp_path / "full" / "x.safetensors")
    folders = [str(tmp_path / name) for name in ("missing", "empty", "full")]
    monkeypatch.setenv("MEMCARD_BASES", os.pathsep.join(folders))

    assert_same(resolve(delta), tuned)


def test_a_link_to_the_base_will_do(trio, tmp_path):
    base, tuned, delta = trio
    base.rename(tmp_path / "store")
    (delta.parent / "link.safetensors").symlink_to(tmp_path / "store")

    assert_same(resolve(delta), tuned)


def test_another_file_of_the_right_name_is_not_taken(trio, tmp_path):
    base, tuned, delta = trio
    base.rename(base.with_name("z.safetensors"))
    small.save(base, small.weights(2))

    assert_same(resolve(delta), tuned)


def test_only_what_can_be_the_base_is_hashed(trio, monkeypatch):
    base, _, delta = trio
    folder = delta.parent
    small.save(folder / "a_other_model.safetensors", small.weights(2))  # size and header fit
    small.save(folder / "b_other_size.safetensors", small.weights(1, size=1000))
    small.save(folder / "c_other_names.safetensors", {"x": np.zeros(3, "f4")})
    (folder / "d_broken.safetensors").write_bytes(bytes(base.stat().st_size))
    base.rename(folder / "z.safetensors")
    hashed = []
    real = resolving.digest
    monkeypatch.setattr(resolving, "digest", lambda p, *a: hashed.append(p.name) or real(p, *a))

    resolve(delta).close()

    assert hashed == ["z.safetensors"]


def test_without_its_base_the_error_says_which_one_is_wanted_and_what_to_do(trio):
    base, _, delta = trio
    wanted = digest_of(base)
    base.unlink()

    with pytest.raises(NotFoundError) as caught:
        memcard.open(delta)

    text = str(caught.value)
    assert str(delta) in text
    assert f"'base.safetensors' with SHA-256 {wanted}" in text
    assert "beside" in text
    assert "memcard delta apply BASE DELTA" in text


def test_the_base_can_be_named(trio, tmp_path):
    base, tuned, delta = trio
    base.rename(tmp_path / "store")

    with memcard.open(delta, base=tmp_path / "store") as checkpoint:
        assert_same(checkpoint, tuned)


def test_a_named_base_may_be_of_another_container(trio, tmp_path):
    base, tuned, delta = trio
    torch.save({n: torch.tensor(a) for n, a in small.load(base).items()}, tmp_path / "base.ckpt")
    base.unlink()

    with memcard.open(delta, base=tmp_path / "base.ckpt") as checkpoint:
        assert_same(checkpoint, tuned)


def test_a_wrong_base_is_refused_and_a_needless_one_too(trio):
    base, tuned, delta = trio

    with pytest.raises(MismatchError, match="is not the base of this delta"):
        memcard.open(delta, base=tuned)
    with pytest.raises(UsageError, match="is no delta"):
        memcard.open(tuned, base=base)


def test_a_base_that_changes_under_an_open_delta_is_caught(trio):
    base, _, delta = trio
    checkpoint = resolve(delta)
    offset = open_file(base).extent("a.weight").offset
    with base.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)

    with pytest.raises(IntegrityError):
        checkpoint.read("a.weight")


def test_a_base_that_was_damaged_without_a_trace_is_caught_by_apply(tmp_path, monkeypatch):
    """As by a failing disk: the remembered SHA-256 is still that of the sound file."""
    base = small.save(tmp_path / "base.safetensors", small.weights(1))
    tuned = small.save(tmp_path / "t.safetensors", small.weights(1) | {"scale": np.array(2, "f2")})
    delta = delta_make(base, tuned, out=tmp_path / "d.safetensors").out
    known = digest_of(base)
    broken = bytearray(base.read_bytes())
    broken[open_file(base).extent("a.weight").offset + 9] ^= 1
    base.write_bytes(broken)
    monkeypatch.setattr("memcard.jobs.delta.digest", lambda *a: known)

    with pytest.raises(IntegrityError, match=r"'a\.weight': block 0"):
        delta_apply(base, delta, out=tmp_path / "out.safetensors")

    assert not (tmp_path / "out.safetensors").exists()


def test_a_lora_is_baked_into_it_as_into_the_fine_tune(tmp_path):
    base = locate("starter")
    arrays = small.load(base)
    name = "model.diffusion_model.output_blocks.3.1.proj_in.weight"
    tuned = small.save(tmp_path / "t.safetensors", arrays | {name: arrays[name] * 2})
    delta = delta_make(base, tuned, out=tmp_path / "d.safetensors").out
    lora = [("starter/lora_pixel", 1.0)]

    one, two = (lora_bake(r, lora, tmp_path / f"{r.stem}.out.safetensors") for r in (tuned, delta))

    assert diff(one.out, two.out).equal
    assert set(memcard.load(delta)) == set(arrays)


def test_a_merge_with_a_delta_is_the_merge_with_the_fine_tune(trio, tmp_path):
    base, tuned, delta = trio

    one = merge(
        "weighted_average", [base, tuned], weights=(0.3, 0.7), out=tmp_path / "1.safetensors"
    )
    two = merge(
        "weighted_average", [base, delta], weights=(0.3, 0.7), out=tmp_path / "2.safetensors"
    )

    assert small.load(one.out)["a.weight"].tobytes() == small.load(two.out)["a.weight"].tobytes()
    assert digest_of(delta) in two.recipe


def test_a_merge_with_a_delta_bakes_again_to_the_same_bytes(trio):
    base, _, delta = trio
    made = merge("weighted_average", [base, delta], out=delta.parent / "m.safetensors")

    again = memcard.bake(made.out, delta.parent / "again.safetensors")

    assert again.out.read_bytes() == made.out.read_bytes()
    assert again.recipe_id == made.recipe_id


def test_its_base_cannot_be_the_output(trio, tmp_path):
    base, tuned, delta = trio
    before = base.read_bytes()

    with pytest.raises(UsageError, match="is an input of this very job"):
        merge("weighted_average", [tuned, delta], out=base, overwrite=True)
    with pytest.raises(UsageError, match="is an input of this very job"):
        convert(delta, base, overwrite=True)

    assert base.read_bytes() == before


def test_it_converts_to_the_fine_tune(trio, tmp_path):
    _, tuned, delta = trio

    done = convert(delta, tmp_path / "whole.safetensors")

    found, wanted = small.load(done.path), small.load(tuned)
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in wanted.items()}
    assert open_file(done.path).metadata["modelspec.title"] == "Tune"


def test_it_differs_from_the_fine_tune_in_nothing(trio, capsys):
    base, tuned, delta = trio

    assert diff(delta, tuned).equal
    assert not diff(base, delta).equal
    assert main(["diff", str(delta), str(tuned)]) == 0


def test_it_is_a_source_by_its_own_digest(trio):
    _, _, delta = trio

    assert node_for(delta) == Source(str(delta), digest_of(delta))


def test_no_delta_is_made_of_deltas(trio, tmp_path):
    base, tuned, delta = trio

    with pytest.raises(UnsupportedError, match=r"d\.safetensors: .*memcard convert"):
        delta_make(base, delta, out=tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=r"d\.safetensors: is a delta itself"):
        delta_make(delta, tuned, out=tmp_path / "x.safetensors")

    assert not (tmp_path / "x.safetensors").exists()


def test_a_delta_of_a_file_that_replaces_tensors_is_seen_through(tmp_path):
    """The starter's fine-tunes are such files."""
    neon = locate("starter/neon")
    delta = delta_make("starter", neon, out=tmp_path / "d.safetensors").out

    with memcard.open(delta) as found, memcard.open("starter/neon") as wanted:
        assert list(found.specs) == list(wanted.specs)
        assert all(found.read(name) == wanted.read(name) for name in wanted.specs)
        assert found.architecture == "starter"


def test_a_damaged_index_is_told_with_the_name_of_the_file(trio, tmp_path):
    _, _, delta = trio
    place = open_file(delta).extent("memcard.delta.index")
    broken = bytearray(delta.read_bytes())
    broken[place.offset + 20] ^= 0xFF
    delta.write_bytes(broken)

    with pytest.raises(CorruptError, match=r"d\.safetensors: delta"):
        memcard.open(delta)
    assert inspect(delta).verdict == "corrupt"


def test_inspect_tells_what_it_makes_and_of_what(trio, tmp_path):
    """From the index of the delta; the base need not be there."""
    base, _, _ = trio
    delta = delta_make(base, twin_like(tmp_path), out=tmp_path / "d.safetensors").out

    report = inspect(delta)

    assert report.identity.kind == "delta"
    assert report.identity.architecture == "starter"
    assert digest_of(base) in report.identity.missing[0]
    assert "base.safetensors" in report.identity.missing[0]


def twin_like(folder):
    """The starter with one tensor of the small base, so that a delta between them is possible."""
    arrays = small.load(locate("starter")) | {"scale": np.array(2.0, "f2")}
    return small.save(folder / "whole.safetensors", arrays)


def test_generation_reads_a_delta_and_its_lora_as_those_of_the_fine_tune(tmp_path):
    base = locate("starter")
    arrays = small.load(base)
    name = "model.diffusion_model.out.2.weight"
    tuned = small.save(tmp_path / "tuned.safetensors", arrays | {name: arrays[name] * 2})
    delta = delta_make(base, tuned, out=tmp_path / "d.safetensors").out
    lora = [("starter/lora_pixel", 0.5)]

    for loras in ([], lora):
        one, two = (open_with_loras(ref, loras) for ref in (tuned, delta))
        assert list(one.specs) == list(two.specs)
        assert all(one.read(n) == two.read(n) for n in [*list(one.specs)[::20], name])


@pytest.mark.slow
def test_pictures_are_made_of_a_delta(tmp_path):
    arrays = small.load(locate("starter"))
    name = "model.diffusion_model.out.2.weight"
    tuned = small.save(
        tmp_path / "tuned.safetensors",
        arrays | {name: (arrays[name] * 0.5).astype(arrays[name].dtype)},
        dict(open_file(locate("starter")).metadata),
    )
    delta = delta_make("starter", tuned, out=tmp_path / "d.safetensors").out

    one, two = (memcard.generate("cat", ref, seed=1, steps=1)[0] for ref in (tuned, delta))

    assert one.tobytes() == two.tobytes()
    assert delta.stat().st_size < 100_000


def test_the_result_of_apply_and_of_open_agree(trio, tmp_path):
    base, _, delta = trio
    whole = delta_apply(base, delta, out=tmp_path / "whole.safetensors").out

    checkpoint = resolve(delta)

    assert isinstance(checkpoint, DeltaCheckpoint)
    assert set(checkpoint.parts) == {base, delta}
    assert_same(checkpoint, whole)
