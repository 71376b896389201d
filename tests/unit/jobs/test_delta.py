"""Deltas: back to the very file, refused on another base, caught when damaged."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures import small
from memcard.cli.main import main
from memcard.core.progress import Progress
from memcard.errors import (
    CorruptError,
    IntegrityError,
    MemcardError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from memcard.formats import open_file
from memcard.jobs._delta_file import BLOCK, DeltaCheckpoint
from memcard.jobs.delta import delta_apply, delta_make, describe

GOLDEN = Path(__file__).parents[2] / "golden" / "delta_v1"


def tuned_of(arrays, seed=9, step=1e-4):
    rng = np.random.default_rng(seed)
    noise = {n: rng.standard_normal(a.shape) * step for n, a in arrays.items()}
    return {n: np.asarray(a.astype("f8") + noise[n]).astype(a.dtype) for n, a in arrays.items()}


@pytest.fixture
def pair(tmp_path):
    base = small.weights(1)
    tuned = tuned_of(base) | {"b.bias": base["b.bias"], "new": np.arange(500, dtype="<i8")}
    one = small.save(tmp_path / "base.safetensors", base)
    two = small.save(tmp_path / "tuned.safetensors", tuned, {"modelspec.title": "Tune"})
    return one, two


def made(pair, tmp_path, name="d.safetensors", **more):
    return delta_make(*pair, out=tmp_path / name, **more).out


def test_applying_gives_the_file_back_to_the_last_byte(pair, tmp_path):
    delta = made(pair, tmp_path)

    done = delta_apply(pair[0], delta, out=tmp_path / "back.safetensors")

    assert done.out.read_bytes() == pair[1].read_bytes()
    assert done.result_sha256 == sha256(pair[1].read_bytes()).hexdigest()
    assert (done.tensors, done.changed, done.notes) == (5, 4, ())
    assert (done.out_sha256, done.same_file) == (done.result_sha256, True)


def test_a_header_of_another_writer_comes_back_too(pair, tmp_path):
    """The reference pads its header with spaces and sorts by dtype; neither is ours."""
    arrays = tuned_of(small.weights(1)) | {"z": np.zeros(3, "f4"), "odd": np.arange(3, dtype="u1")}
    safetensors.numpy.save_file(arrays, pair[1], metadata={"ü": "✓"})

    done = delta_apply(pair[0], made(pair, tmp_path), out=tmp_path / "back.safetensors")

    assert done.out.read_bytes() == pair[1].read_bytes()


def test_a_close_fine_tune_is_small_and_equal_tensors_cost_nothing(tmp_path):
    arrays = small.weights(1, size=400_000)
    pair = [
        small.save(tmp_path / "a.safetensors", arrays),
        small.save(tmp_path / "b.safetensors", tuned_of(arrays)),
        small.save(tmp_path / "c.safetensors", arrays | {"scale": np.array(2.0, "f2")}),
    ]

    full = delta_make(pair[0], pair[1], out=tmp_path / "1.safetensors")
    little = delta_make(pair[0], pair[2], out=tmp_path / "2.safetensors")

    assert full.nbytes < 0.5 * full.result_bytes
    assert little.nbytes < 3000
    assert little.changed == 1


def test_a_ckpt_comes_back_as_tensors(pair, tmp_path):
    tensors = {n: torch.tensor(a) for n, a in tuned_of(small.weights(1)).items()}
    torch.save({"state_dict": tensors}, tmp_path / "t.ckpt")
    delta = delta_make(pair[0], tmp_path / "t.ckpt", out=tmp_path / "d.safetensors").out

    done = delta_apply(pair[0], delta, out=tmp_path / "back.safetensors")

    found = small.load(done.out)
    assert {n: a.tobytes() for n, a in found.items()} == {
        n: t.numpy().tobytes() for n, t in tensors.items()
    }
    assert done.same_file is False
    assert done.out_sha256 == sha256(done.out.read_bytes()).hexdigest() != done.result_sha256


def test_the_result_can_be_written_as_another_format(pair, tmp_path):
    done = delta_apply(pair[0], made(pair, tmp_path), out=tmp_path / "back.ckpt")

    theirs = open_file(done.out)
    assert done.same_file is False
    assert bytes(theirs.read("a.weight")) == bytes(open_file(pair[1]).read("a.weight"))


def test_another_base_is_refused_and_the_right_one_named(pair, tmp_path):
    delta = made(pair, tmp_path)
    other = small.save(tmp_path / "other.safetensors", small.weights(2))
    before = sorted(tmp_path.iterdir())

    with pytest.raises(MismatchError) as caught:
        delta_apply(other, delta, out=tmp_path / "back.safetensors")

    assert sha256(pair[0].read_bytes()).hexdigest() in str(caught.value)
    assert "'base.safetensors'" in str(caught.value)
    assert "4 of 4 tensors differ: 'a.weight'" in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_base_that_lacks_a_tensor_is_refused(pair, tmp_path):
    delta = made(pair, tmp_path)
    arrays = small.weights(1)
    del arrays["scale"]
    other = small.save(tmp_path / "other.safetensors", arrays)

    with pytest.raises(MismatchError, match="1 of 4 tensors differ: 'scale'"):
        delta_apply(other, delta, out=tmp_path / "back.safetensors")


def test_the_same_tensors_in_another_container_are_a_base(pair, tmp_path):
    delta = made(pair, tmp_path)
    tensors = {n: torch.tensor(a) for n, a in small.weights(1).items()}
    torch.save(tensors, tmp_path / "base.ckpt")

    done = delta_apply(tmp_path / "base.ckpt", delta, out=tmp_path / "back.safetensors")

    assert done.out.read_bytes() == pair[1].read_bytes()
    assert done.notes == ("The base is another file with the same tensors.",)


def test_the_delta_says_what_it_is_and_nothing_of_this_machine(pair, tmp_path):
    delta = made(pair, tmp_path)

    found = describe(delta)

    assert (found["mode"], found["version"]) == ("lossless", "1")
    assert (found["base_name"], found["result_name"]) == ("base.safetensors", "tuned.safetensors")
    assert found["base_sha256"] == sha256(pair[0].read_bytes()).hexdigest()
    assert found["base_size"] == str(pair[0].stat().st_size)
    assert found["result_size"] == str(pair[1].stat().st_size)
    assert str(tmp_path).encode() not in delta.read_bytes()
    assert list(safetensors.numpy.load_file(delta))[:1]  # any reader lists it
    with pytest.raises(NotFoundError, match="is no delta"):
        describe(pair[0])


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_change_no_byte(pair, tmp_path, threads):
    one = made(pair, tmp_path, "1.safetensors", threads=1)
    many = made(pair, tmp_path, "n.safetensors", threads=threads)

    back = delta_apply(pair[0], many, out=tmp_path / "b.safetensors", threads=threads)

    assert one.read_bytes() == many.read_bytes()
    assert back.out.read_bytes() == pair[1].read_bytes()


def test_tensors_of_several_blocks_are_read_from_anywhere(tmp_path):
    rng = np.random.default_rng(0)
    base = {"w": rng.standard_normal(BLOCK // 2 * 2 + 77).astype("f2")}  # two blocks and a bit
    tuned = {"w": base["w"].copy()}
    tuned["w"][BLOCK // 2 + 5] = 3  # the first block stays
    pair = [small.save(tmp_path / f"{n}.safetensors", a) for n, a in (("a", base), ("b", tuned))]
    delta = open_file(made(pair, tmp_path))
    result = DeltaCheckpoint(open_file(pair[0]), delta)
    part = memoryview(bytearray(BLOCK + 100))

    result.readinto("w", part, 33)

    assert part == tuned["w"].tobytes()[33 : BLOCK + 133]
    assert result.entries["w"].sizes[0] == 0
    assert result.read("w") == tuned["w"].tobytes()
    assert delta.specs["w"].nbytes < 10_000
    with pytest.raises(NotFoundError, match="'v'"):
        result.read("v")
    result.close()


def test_every_flipped_bit_is_caught_or_does_no_harm(pair, tmp_path):
    delta = made(pair, tmp_path)
    whole, rng = delta.read_bytes(), np.random.default_rng(0)
    wrong = []
    for at in rng.integers(0, len(whole), 30):
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "x.safetensors").write_bytes(broken)
        out = tmp_path / "out.safetensors"
        try:
            delta_apply(pair[0], tmp_path / "x.safetensors", out=out, overwrite=True)
        except MemcardError:
            continue
        if out.read_bytes() != pair[1].read_bytes():
            wrong.append(at)

    assert wrong == []


def test_a_damaged_block_leaves_no_file(pair, tmp_path):
    delta = made(pair, tmp_path)
    place = open_file(delta).extent("a.weight")
    broken = bytearray(delta.read_bytes())
    broken[place.offset + place.size - 1] ^= 1
    delta.write_bytes(broken)

    with pytest.raises(IntegrityError, match=r"'a\.weight': block 0"):
        delta_apply(pair[0], delta, out=tmp_path / "back.safetensors")

    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "base.safetensors",
        "d.safetensors",
        "tuned.safetensors",
    ]


def with_metadata(path, out, **changed):
    arrays = {n: a.copy() for n, a in safetensors.numpy.load_file(path).items()}
    metadata = dict(open_file(path).metadata) | {
        f"memcard.delta.{key}": value for key, value in changed.items()
    }
    metadata = {key: value for key, value in metadata.items() if value is not None}
    safetensors.numpy.save_file(arrays, out, metadata=metadata)
    return out


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"version": "2"}, UnsupportedError, "version 2, known is 1"),
        ({"mode": "replace"}, UnsupportedError, "mode 'replace'"),
        ({"result_size": "7"}, CorruptError, "not those of the original"),
        ({"base_sha256": None}, CorruptError, "does not state its base_sha256"),
    ],
)
def test_what_a_reader_does_not_know_is_refused(pair, tmp_path, changed, error, text):
    odd = with_metadata(made(pair, tmp_path), tmp_path / "odd.safetensors", **changed)

    with pytest.raises(error, match=text):
        delta_apply(pair[0], odd, out=tmp_path / "back.safetensors")


def test_a_delta_that_names_another_result_is_told_from_what_was_written(pair, tmp_path):
    odd = with_metadata(made(pair, tmp_path), tmp_path / "odd.safetensors", result_sha256="0" * 64)

    done = delta_apply(pair[0], odd, out=tmp_path / "back.safetensors")

    assert done.same_file is False
    assert done.out_sha256 == sha256(pair[1].read_bytes()).hexdigest()
    assert "another SHA-256" in done.notes[0]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"base": "x.safetensors.index.json"}, UsageError),
        ({"out": "d.ckpt"}, UsageError),
        ({"out": "tuned.safetensors", "overwrite": True}, UsageError),
        ({"base": "nope.safetensors"}, NotFoundError),
        ({"base": "."}, UsageError),
    ],
)
def test_refusals_of_make(pair, tmp_path, change, error):
    base = tmp_path / change.get("base", "base.safetensors")
    more = {"overwrite": change.get("overwrite", False)}
    (tmp_path / "x.safetensors.index.json").write_text("{}")

    with pytest.raises(error):
        delta_make(base, pair[1], out=tmp_path / change.get("out", "d.safetensors"), **more)

    assert not (tmp_path / "d.safetensors").exists()


def test_checkpoints_with_nothing_in_common_are_refused(pair, tmp_path):
    odd = small.save(tmp_path / "odd.safetensors", {"x": np.zeros(3, "f4")})

    with pytest.raises(MismatchError, match="no tensor in common"):
        delta_make(pair[0], odd, out=tmp_path / "d.safetensors")


SHAPES = st.sampled_from([(), (0,), (1,), (3, 0, 2), (7, 5), (33,)])
DTYPES = st.sampled_from(list(small.NUMPY))


@settings(max_examples=12, deadline=None)
@given(
    named=st.dictionaries(st.sampled_from("abcd"), st.tuples(SHAPES, DTYPES, DTYPES), min_size=1),
    seed=st.integers(0, 9),
)
def test_any_shapes_and_dtypes_come_back(tmp_path_factory, named, seed):
    folder, rng = tmp_path_factory.mktemp("d"), np.random.default_rng(seed)

    def filled(shape, dtype):
        kind = small.NUMPY[dtype]
        count = int(np.prod(shape)) * kind.itemsize
        return np.frombuffer(rng.bytes(count), kind).reshape(shape)

    base = {n: filled(shape, old) for n, (shape, old, _) in named.items()}
    tuned = {n: filled(shape, new) for n, (shape, _, new) in named.items()}
    pair = [small.save(folder / f"{n}.safetensors", a) for n, a in (("a", base), ("b", tuned))]

    done = delta_apply(pair[0], made(pair, folder), out=folder / "back.safetensors")

    assert done.out.read_bytes() == pair[1].read_bytes()


def test_deltas_of_version_1_are_read_for_ever(tmp_path):
    """Made by the first release that had deltas; never to be made anew."""
    done = delta_apply(
        GOLDEN / "base.safetensors", GOLDEN / "delta.safetensors", out=tmp_path / "o.safetensors"
    )

    wanted = (GOLDEN / "result.sha256").read_text().strip()
    assert sha256(done.out.read_bytes()).hexdigest() == wanted == done.result_sha256
    codecs = {e.codec for e in DeltaCheckpoint(*map(open_file, golden())).entries.values()}
    assert codecs == {"same", "raw", "planes_zstd", "delta_zstd"}


def golden():
    return GOLDEN / "base.safetensors", GOLDEN / "delta.safetensors"


def test_an_error_in_the_middle_leaves_the_old_file_and_no_litter(pair, tmp_path):
    delta = made(pair, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def stop(event):
        if isinstance(event, Progress) and event.phase == "pack":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        delta_make(*pair, out=delta, overwrite=True, progress=stop)

    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_makes_and_applies(pair, tmp_path, capsys):
    delta, back = tmp_path / "d.safetensors", tmp_path / "back.safetensors"

    assert main(["delta", "make", *map(str, pair), "-o", str(delta), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert main(["delta", "apply", str(pair[0]), str(delta), "-o", str(back)]) == 0

    assert facts["changed"] == 4
    assert back.read_bytes() == pair[1].read_bytes()
    assert f"written   {facts['result_sha256']}: same file" in capsys.readouterr().out
    other = str(tmp_path / "back.ckpt")
    assert main(["delta", "apply", str(pair[0]), str(delta), "-o", other]) == 0
    assert ": same tensors, another container" in capsys.readouterr().out
    assert (
        main(["delta", "apply", str(pair[1]), str(delta), "-o", str(tmp_path / "x.safetensors")])
        == 7
    )
