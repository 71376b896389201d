"""Snapshots in, one average out: with its recipe, and as the recurrence would have kept it."""

import json

import numpy as np
import pytest

from fixtures import small
from memcard.cli.main import main
from memcard.errors import MismatchError, UsageError
from memcard.jobs.bake import bake
from memcard.jobs.ema import ema_combine
from memcard.maths.ema import gamma_of

LAST, EVERY = 512, 32


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A short training whose EMAs of widths 0.05 and 0.1 were saved now and then."""
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    widths = (0.05, 0.1, 0.15)
    weights, averages = np.zeros(50), {s: np.zeros(50) for s in widths}
    paths = []
    for step in range(1, LAST + 1):
        weights = weights + rng.standard_normal(50) * 0.01
        for sigma in widths:
            beta = (1 - 1 / step) ** (gamma_of(sigma) + 1)
            averages[sigma] = beta * averages[sigma] + (1 - beta) * weights
        for sigma in widths[:2] if step % EVERY == 0 else ():
            paths.append(folder / f"phema-{step:07d}-{sigma:.3f}.safetensors")
            small.save(paths[-1], {"w": averages[sigma].astype("f4")})
    return paths, averages[0.15], weights


def test_a_width_nobody_kept_comes_out_as_if_it_had_been(training, tmp_path):
    paths, wanted, weights = training

    made = ema_combine(paths, sigma_rel=0.15, out=tmp_path / "ema.safetensors")

    got = small.load(made.out)["w"].astype("f8")
    assert np.abs(got - wanted).max() < 2e-3 * np.abs(wanted - weights).max()
    assert "sigma_rel 0.15 at step 512 is off by 0." in made.notes[-1]


def test_the_recipe_is_a_weighted_sum_and_gives_the_same_bytes(training, tmp_path):
    made = ema_combine(training[0], sigma_rel=0.12, out=tmp_path / "1.safetensors")

    again = bake(_beside(made.recipe, training[0]), tmp_path / "2.safetensors", threads=1)

    node = json.loads(made.recipe)["node"]
    assert (node["op"], node["params"]["normalize"]) == ("weighted_average", False)
    assert len(node["params"]["weights"]) == len(training[0])
    assert again.out.read_bytes() == made.out.read_bytes()


def _beside(recipe, paths):
    for path in paths:
        recipe = recipe.replace(f'"{path.name}"', json.dumps(str(path)))
    return recipe


def test_steps_and_widths_can_be_given(training, tmp_path):
    plain = []
    for i, path in enumerate(training[0]):
        plain.append(tmp_path / f"{i}.safetensors")
        plain[-1].write_bytes(path.read_bytes())
    steps = [EVERY * (1 + i // 2) for i in range(len(plain))]

    given = ema_combine(
        plain,
        sigma_rel=0.15,
        steps=steps,
        snapshot_sigmas=[0.05, 0.1] * (len(plain) // 2),
        out=tmp_path / "a.safetensors",
    )
    named = ema_combine(training[0], sigma_rel=0.15, out=tmp_path / "b.safetensors")

    assert np.array_equal(small.load(given.out)["w"], small.load(named.out)["w"])


def test_what_the_file_says_goes_before_its_name(tmp_path):
    told = {"memcard.ema.step": "100", "memcard.ema.sigma_rel": "0.2"}
    path = small.save(tmp_path / "x-0000900-0.050.safetensors", {"w": np.ones(3, "f4")}, told)

    made = ema_combine([path], sigma_rel=0.2, out=tmp_path / "ema.safetensors")

    assert "at step 100 is off by 0.00%" in made.notes[-1]


def test_snapshots_after_the_target_step_are_left_out(training, tmp_path):
    made = ema_combine(training[0], sigma_rel=0.1, at=256, out=tmp_path / "ema.safetensors")

    kept = small.load(next(p for p in training[0] if "0000256-0.100" in p.name))["w"]
    assert np.allclose(small.load(made.out)["w"], kept, rtol=1e-5, atol=1e-8)
    assert len(json.loads(made.recipe)["node"]["inputs"]) == 2 * 256 // EVERY


def test_a_poor_fit_is_told(training, tmp_path):
    made = ema_combine(training[0][:2], sigma_rel=0.1, at=512, out=tmp_path / "ema.safetensors")

    assert "More snapshots" in made.notes[-1]


def test_the_plain_mean_of_the_last_few(tmp_path):
    arrays = [small.weights(i) for i in range(4)]
    paths = [small.save(tmp_path / f"s-{i:05d}.safetensors", a) for i, a in enumerate(arrays)]

    made = ema_combine(paths[::-1], last=3, out=tmp_path / "soup.safetensors")

    wanted = (sum(a["a.weight"].astype("f8") for a in arrays[1:]) / 3).astype("f2")
    assert np.abs(small.load(made.out)["a.weight"] - wanted).max() <= 2**-14
    assert [i["source"] for i in json.loads(made.recipe)["node"]["inputs"]] == [
        p.name for p in paths[1:]
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "either which width"),
        ({"sigma_rel": 0.1, "last": 2}, "either which width"),
        ({"last": 1}, "last is 1; it goes from 2 to 2"),
        ({"last": 9}, "last is 9"),
        ({"sigma_rel": 0.4}, "sigma_rel is 0.4"),
        ({"sigma_rel": 0.1}, "its step is not known"),
        ({"sigma_rel": 0.1, "steps": [1, 2]}, "its width is not known"),
        ({"sigma_rel": 0.1, "steps": [1]}, "1 given for 2"),
        (
            {"sigma_rel": 0.1, "steps": [8, 9], "snapshot_sigmas": [0.1], "at": 2},
            "before the first",
        ),
        ({"sigma_rel": 0.1, "steps": [8, 8], "snapshot_sigmas": [0.1]}, "there twice"),
    ],
)
def test_refusals_leave_no_file(tmp_path, change, text):
    pair = [small.save(tmp_path / f"{n}.safetensors", small.weights(i)) for i, n in enumerate("ab")]

    with pytest.raises(UsageError) as caught:
        ema_combine(pair, out=tmp_path / "out.safetensors", **change)

    assert text in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_snapshots_of_different_models_are_refused(tmp_path):
    pair = [
        small.save(tmp_path / "a.safetensors", small.weights(1)),
        small.save(tmp_path / "b.safetensors", {"x": np.zeros(3, "f4")}),
    ]

    with pytest.raises(MismatchError, match="do not fit together"):
        ema_combine(pair, last=2, out=tmp_path / "out.safetensors")


def test_the_command(training, tmp_path, capsys):
    out = tmp_path / "ema.safetensors"
    names = [str(path) for path in training[0]]

    assert main(["ema", "combine", *names, "--sigma-rel", "0.12", "--out", str(out), "--json"]) == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["written"] is True
    assert small.load(out)["w"].shape == (50,)
    assert main(["ema", "combine", *names, "--out", str(tmp_path / "x.safetensors")]) == 2
