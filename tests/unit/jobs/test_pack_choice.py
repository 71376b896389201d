"""What packing makes of a library: recipes where there are any, near bases, and no long chains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ml_dtypes import bfloat16

from fixtures.long import mostly_slow
from fixtures.packing import SHAPES, Arrays, Folder, base, tuned
from memcard.jobs._pack_recipes import takes_away
from memcard.recipes.nodes import Apply, Params, Source
from memcard.store import packed as records
from memcard.store.objects import Objects

LARGE = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def mean(parts: list[Arrays], weights: list[float]) -> Arrays:
    found = {}
    for name in SHAPES:
        total = sum(w * p[name].astype("f8") for w, p in zip(weights, parts, strict=True))
        found[name] = np.asarray(total).astype("f4")
    return found


def stored(folder: Folder) -> dict[str, int]:
    done = {d.name: d.stored for d in folder.library.pack().done}
    folder.hide()
    folder.check()
    return done


@pytest.mark.parametrize(
    "weights", mostly_slow([[0.4, 0.3, 0.2, 0.1], [1 / 12] * 12], [0.4, 0.3, 0.2, 0.1])
)
def test_a_merge_of_many_is_stored_as_its_recipe(weights: list[float], folder: Folder) -> None:
    parts = [tuned(base(), i + 1) for i in range(len(weights))]
    for i, part in enumerate(parts):
        folder.add(f"part-{i}", part)
    folder.add("whole", mean(parts, weights))

    whole = sum(a.nbytes for a in base().values())
    assert stored(folder)["whole"] < 0.02 * whole  # of twelve, a few sums are rounded otherwise


def test_a_moving_average_of_snapshots_is_stored_as_its_recipe(folder: Folder) -> None:
    parts = [tuned(base(), i + 1) for i in range(6)]
    for i, part in enumerate(parts):
        folder.add(f"step-{i}", part)
    shares = [0.75 * 0.25 ** (5 - i) for i in range(6)]
    folder.add("average", mean(parts, [0.25**5, *shares[1:]]))

    assert stored(folder)["average"] < 0.05 * 4 * sum(a.size for a in base().values())


def test_a_block_weighted_merge_is_stored_as_its_recipe(folder: Folder) -> None:
    a, b = tuned(base(), 1), tuned(base(), 2)
    folder.add("a", a)
    folder.add("b", b)
    made = {}
    for (name, left), weight in zip(a.items(), (0.3, 0.5, 0.9, 0.25), strict=True):
        made[name] = (np.float32(1 - weight) * left + np.float32(weight) * b[name]).astype("f4")
    folder.add("made", made)

    assert stored(folder)["made"] == 0


def test_a_cast_of_a_merge_is_computed_from_the_merges_own_parts(folder: Folder) -> None:
    a, b = tuned(base(), 1), tuned(base(), 2)
    merge = mean([a, b], [0.7, 0.3])
    folder.add("a", a)
    folder.add("b", b)
    folder.add("merge", merge)
    folder.add("small", {n: v.astype(bfloat16) for n, v in merge.items()})

    assert stored(folder)["small"] == 0
    record = records.get(folder.library.layout, folder.manifest("small"))
    assert record is not None
    assert set(record.sources) == {folder.manifest("a"), folder.manifest("b")}


def test_a_cast_is_not_stored_because_another_cast_has_equal_tensors(folder: Folder) -> None:
    a = base()
    b = {n: v if n == LARGE else tuned(a, 1)[n] for n, v in a.items()}
    for name, arrays in {"a": a, "b": b}.items():
        folder.add(name, arrays)
        folder.add(f"{name}-half", {n: v.astype("f2") for n, v in arrays.items()})

    done = stored(folder)

    assert done["a-half"] == done["b-half"] == 0


def test_a_twin_of_a_nearly_right_merge_can_be_read_by_itself(folder: Folder) -> None:
    a, b = tuned(base(), 1), tuned(base(), 2)
    made = mean([a, b], [0.5, 0.5])
    made[LARGE][3, 5:9] += 1
    for name, arrays in {"a": a, "b": b, "made": made}.items():
        folder.add(name, arrays)
    path = folder.root / "twin.ckpt"
    torch.save({n: torch.from_numpy(v) for n, v in made.items()}, path)
    folder.library.add([path], name="twin")
    raw = path.read_bytes()

    stored(folder)
    path.unlink()
    folder.library.export("twin", path)

    assert path.read_bytes() == raw


def test_saves_of_a_run_are_no_deeper_than_two_differences(folder: Folder) -> None:
    arrays = base()
    folder.add("base", arrays)
    for step in range(1, 7):
        arrays = tuned(arrays, step, size=1e-5)
        folder.add(f"save-{step}", arrays)

    done = stored(folder)

    depths = set(_depths(folder).values())
    assert depths <= {0, 1, 2}
    assert all(done[f"save-{step}"] < 0.8 * done["base"] for step in range(1, 7))


def _depths(folder: Folder) -> dict[str, int]:
    found: dict[str, int] = {}
    objects = Objects.everything(folder.library.layout)
    for name in folder.digests:
        for tensor in folder.tensors(name):
            one = objects.get(tensor.blake3 or "")
            assert one is not None
            found[one.key] = one.depth
    objects.close()
    return found


def test_a_moment_of_an_optimizer_has_its_base_in_another_save(folder: Folder) -> None:
    arrays, rng = base(), np.random.default_rng(9)
    moments = {f"optimizer.{n}.exp_avg_sq": np.square(v) * 1e-4 for n, v in base(5).items()}
    folder.add("base", arrays)
    for step in (1, 2):
        arrays = tuned(arrays, step, size=1e-6)
        moments = {
            n: (v * (1 + 1e-4 * rng.random(v.shape))).astype("f4") for n, v in moments.items()
        }
        folder.add(f"save-{step}", {**arrays, **moments})

    done = stored(folder)

    assert done["save-2"] < 0.7 * done["save-1"]


def test_a_base_whose_plain_copy_lies_does_no_harm(folder: Folder) -> None:
    folder.add("base", base())
    folder.library.pack()
    folder.add("tune", tuned(base(), 1, size=1e-6))
    folder.forge("base")

    done = {d.name: d for d in folder.library.pack("tune").done}

    assert done["tune"].how.startswith("difference to")
    folder.hide()
    folder.check()


def test_small_tensors_are_kept_as_they_are(folder: Folder) -> None:
    rng = np.random.default_rng(0)
    folder.add("many", {f"t{i}": rng.random(40).astype("f4") for i in range(20)} | base())

    stored(folder)

    objects = Objects.everything(folder.library.layout)
    found = [objects.get(t.blake3 or "") for t in folder.tensors("many") if t.spec.elements == 40]
    assert {one.codec for one in found if one is not None} == {"raw"}
    objects.close()


def test_the_record_tells_the_space(folder: Folder) -> None:
    folder.add("base", base())
    folder.add("half", {n: v.astype("f2") for n, v in base().items()})
    layout = folder.library.layout
    assert records.packed_size(layout, folder.manifest("base")) is None

    done = {d.name: d.stored for d in folder.library.pack().done}

    for name in ("base", "half"):
        assert records.packed_size(layout, folder.manifest(name)) == done[name]
    assert done["base"] > 0
    assert done["half"] == 0


LEAVES = (Source("a" * 64), Source("b" * 64), Source("c" * 64))


@pytest.mark.parametrize(
    ("inputs", "style", "weights", "away"),
    [
        (2, "float32_change", (0.3,), False),
        (2, "float32_change", (1.4,), True),  # a + 1.4 (b - a): b is more likely the merge
        (3, "float32_change", (0.5,), True),
        (2, "float32", (0.5, 0.5), False),
        (3, "float32", (1.0, 1.0, -1.0), True),
    ],
)
def test_sums_that_take_away_are_told_from_merges(
    inputs: int, style: str, weights: tuple[float, ...], away: bool
) -> None:
    node = Apply("emulated_sum", LEAVES[:inputs], Params({"weights": weights, "style": style}))

    assert takes_away(node) is away
    assert takes_away(Apply("cast", (node,), Params({"dtype": "F16"}))) is away
