"""The merge job: files in, one file with its lineage out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fixtures import small
from memcard.errors import MismatchError, NotFoundError, UnsupportedError, UsageError
from memcard.jobs.bake import bake
from memcard.jobs.merge import merge
from memcard.recipes.text import from_json, recipe_id

MIT = {"memcard.card": json.dumps({"license": "MIT", "settings": {"cfg": 3}, "attribution": ["x"]})}
RAIL = {"modelspec.license": "creativeml-openrail-m", "modelspec.prediction_type": "v"}


@pytest.fixture
def pair(tmp_path):
    a = small.save(tmp_path / "a.safetensors", small.weights(1), MIT)
    b = small.save(tmp_path / "b.safetensors", small.weights(2), MIT)
    return a, b


def metadata(path):
    with Path(path).open("rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]


def test_the_result_is_read_by_safetensors_and_is_the_average(pair, tmp_path):
    out = tmp_path / "out.safetensors"

    made = merge("weighted_average", pair, weights=[0.7, 0.3], out=out)

    theirs = load_file(out)["a.weight"]
    a, b = (small.weights(i)["a.weight"].astype("f8") for i in (1, 2))
    assert np.array_equal(theirs, (0.7 * a + 0.3 * b).astype("f2"))
    assert (made.written, made.tensors, made.computed, made.nonfinite) == (True, 4, 4, 0)


def test_the_result_carries_its_recipe_parents_and_license(pair, tmp_path):
    made = merge("weighted_average", pair, weights=[3, 1], out=tmp_path / "out.safetensors")

    found = metadata(made.out)
    card = json.loads(found["memcard.card"])
    recipe = from_json(found["memcard.recipe"])
    assert found["memcard.recipe_id"] == recipe_id(recipe) == made.recipe_id
    assert [s.ref for s in recipe.inputs] == ["a.safetensors", "b.safetensors"]
    assert card["parents"] == [s.sha256 for s in recipe.inputs]
    assert card["license"] == "MIT"
    assert card["kind"] == "merge"
    assert card["title"] == "0.75 a + 0.25 b"
    assert card["settings"] == {"cfg": 3}
    assert card["attribution"] == ["x"]
    assert found["modelspec.merged_from"] == "a.safetensors, b.safetensors"
    assert json.loads(found["sd_merge_recipe"])["multiplier"] == 0.25
    assert list(json.loads(found["sd_merge_models"])) == sorted(card["parents"])


def test_nothing_of_this_machine_is_written_into_the_file(pair, tmp_path):
    made = merge("weighted_average", pair, out=tmp_path / "out.safetensors")

    assert str(tmp_path).encode() not in made.out.read_bytes()


def test_different_licenses_make_an_unknown_one_and_are_listed(pair, tmp_path):
    other = small.save(tmp_path / "c.safetensors", small.weights(3), RAIL)

    made = merge("weighted_average", [pair[0], other], out=tmp_path / "out.safetensors")

    card = json.loads(metadata(made.out)["memcard.card"])
    assert card["license"] == "unknown"
    assert [p["license"] for p in card["made_from"]] == ["MIT", "creativeml-openrail-m"]
    assert "modelspec.prediction_type" not in metadata(made.out)


def test_what_all_parents_state_is_kept(tmp_path):
    a = small.save(tmp_path / "a.safetensors", small.weights(1), RAIL | {"modelspec.title": "A"})
    b = small.save(tmp_path / "b.safetensors", small.weights(2), RAIL | {"modelspec.title": "A"})

    made = merge("weighted_average", [a, b], out=tmp_path / "out.safetensors")

    found = metadata(made.out)
    assert found["modelspec.prediction_type"] == "v"
    assert json.loads(found["memcard.card"])["license"] == "creativeml-openrail-m"
    assert "modelspec.title" not in found


def test_baking_the_result_again_gives_the_same_bytes(pair, tmp_path):
    made = merge("weighted_average", pair, weights=[0.7, 0.3], out=tmp_path / "one.safetensors")

    again = bake(made.out, tmp_path / "two.safetensors", threads=1)

    assert again.out.read_bytes() == made.out.read_bytes()


def test_a_ckpt_and_a_safetensors_are_merged(pair, tmp_path):
    tensors = {n: torch.tensor(a) for n, a in small.weights(2).items()}
    torch.save({"state_dict": tensors, "global_step": 3}, tmp_path / "b.ckpt")

    mixed = merge(
        "weighted_average", [pair[0], tmp_path / "b.ckpt"], out=tmp_path / "1.safetensors"
    )
    plain = merge("weighted_average", pair, out=tmp_path / "2.safetensors")

    one, two = small.load(mixed.out), small.load(plain.out)
    assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in two.items()}


def test_a_merge_can_be_written_as_ckpt(pair, tmp_path):
    made = merge("weighted_average", pair, out=tmp_path / "out.ckpt")

    theirs = torch.load(made.out, weights_only=True)  # noqa: TID251  # as a user of torch would
    theirs = theirs.get("state_dict", theirs)
    plain = merge("weighted_average", pair, out=tmp_path / "out.safetensors")
    assert np.array_equal(theirs["a.weight"].numpy(), small.load(plain.out)["a.weight"])


def test_a_dry_run_plans_and_writes_nothing(pair, tmp_path):
    before = sorted(tmp_path.iterdir())

    plan = merge("weighted_average", pair, out=tmp_path / "out.safetensors", dry_run=True)

    assert (plan.written, plan.tensors, plan.nbytes) == (False, 4, 2 * (60_000 + 693 + 7 + 1))
    assert 40e6 < plan.memory < 350e6
    assert sorted(tmp_path.iterdir()) == before
    assert json.dumps(plan.to_dict())


def test_an_existing_file_is_kept_unless_overwriting_is_allowed(pair, tmp_path):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"old")

    with pytest.raises(UsageError, match="is there already"):
        merge("weighted_average", pair, out=out)
    assert out.read_bytes() == b"old"

    merge("weighted_average", pair, out=out, overwrite=True)
    assert len(small.load(out)) == 4


def test_an_input_is_never_overwritten(pair):
    before = pair[0].read_bytes()

    with pytest.raises(UsageError, match="is an input"):
        merge("weighted_average", pair, out=pair[0], overwrite=True)

    assert pair[0].read_bytes() == before


@pytest.mark.parametrize(
    ("method", "change", "error"),
    [
        ("weighted_averag", {}, NotFoundError),
        ("cast", {}, NotFoundError),
        ("weighted_average", {"weights": [1]}, UsageError),
        ("weighted_average", {"wieghts": [1]}, UsageError),
        ("weighted_average", {"base": "starter"}, UsageError),
        ("weighted_average", {"out": "out.txt"}, UnsupportedError),
        ("weighted_average", {"out": "no/out.safetensors"}, NotFoundError),
        ("weighted_average", {"inputs": ["starter", "nope.safetensors"]}, NotFoundError),
    ],
)
def test_refusals_leave_no_file(pair, tmp_path, method, change, error):
    before = sorted(tmp_path.iterdir())
    out = tmp_path / change.pop("out", "out.safetensors")

    with pytest.raises(error):
        merge(method, change.pop("inputs", pair), out=out, **change)

    assert sorted(tmp_path.iterdir()) == before


def test_a_mismatch_leaves_no_file(pair, tmp_path):
    odd = small.save(tmp_path / "odd.safetensors", {"x": np.zeros(3, "f4")})

    with pytest.raises(MismatchError, match="'x': in input 2, not in input 1"):
        merge("weighted_average", [pair[0], odd], out=tmp_path / "out.safetensors")

    assert not (tmp_path / "out.safetensors").exists()


MEASURED = r"""
import re, sys
from pathlib import Path
from memcard.jobs.merge import merge
merge("weighted_average", sys.argv[1:3], weights=[0.7, 0.3], out=sys.argv[3])
assert "torch" not in sys.modules
# Not ru_maxrss: that keeps the size of the process that started this one.
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_files(tmp_path):
    arrays = {f"{i}.weight": np.zeros((5120, 1280), "f2") for i in range(12)}  # 157 MB each
    for name in ("a", "b"):
        small.save(tmp_path / f"{name}.safetensors", arrays)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *(tmp_path / f"{n}.safetensors" for n in "abc")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    for name in "abc":
        (tmp_path / f"{name}.safetensors").unlink()
    assert int(done.stdout) < 175 * 1024
