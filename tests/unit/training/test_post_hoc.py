"""Snapshots of two widths, and the average of a third one that nobody kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fixtures import small
from memcard.cli.main import main
from memcard.errors import DiskError, MismatchError, NotFoundError, UnsupportedError, UsageError
from memcard.formats import open_file
from memcard.jobs.ema_posthoc import ema_posthoc
from memcard.jobs.resolve import resolve
from memcard.training.decays import POST_HOC, Power
from memcard.training.ema import EMA
from memcard.training.post_hoc import Snapshots

STEPS, EVERY = 1024, 32
GOLDEN = Path(__file__).parents[2] / "golden" / "ema_v1"
WANTED = (0.03, 0.07, 0.15, 0.25)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))


def train(model, steps, each, seed=1):
    source = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=source), alpha=0.01)
        model[1].num_batches_tracked += 1
        each()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training with snapshots, and the averages of other widths as they were kept all along."""
    folder, model = tmp_path_factory.mktemp("run"), net()
    pair, direct = EMA(model, POST_HOC), EMA(model, [Power(s) for s in WANTED], dtype=torch.float64)
    snapshots = Snapshots(pair, folder / "ema", every=EVERY)
    train(model, STEPS, lambda: (pair.update(), direct.update(), snapshots.step()))
    return folder, {s: direct.weights(f"power_{s}") for s in WANTED}, model


@pytest.mark.parametrize(
    ("sigma", "most"), [(0.03, 2e-2), (0.07, 1e-3), (0.15, 1e-3), (0.25, 2e-2)]
)
def test_a_width_nobody_kept_is_as_if_it_had_been_kept_all_along(run, tmp_path, sigma, most):
    folder, kept, model = run

    made = ema_posthoc([folder], sigma_rel=sigma, out=tmp_path / "ema.safetensors")

    got = _loaded(made.out)
    wanted = kept[sigma]["0.weight"].double().numpy()
    smoothed = np.abs(wanted - model[0].weight.detach().double().numpy()).max()
    assert np.abs(got["0.weight"] - wanted).max() < most * smoothed


def _loaded(path):
    checkpoint = open_file(path)
    found = {
        n: np.frombuffer(checkpoint.read(n), "<f4").reshape(s.shape).astype("f8")
        for n, s in checkpoint.specs.items()
        if s.dtype.name == "F32"
    }
    checkpoint.close()
    return found


def test_counters_are_those_of_the_last_snapshot(run, tmp_path):
    made = ema_posthoc([run[0]], sigma_rel=0.1, at=512, out=tmp_path / "ema.safetensors")

    assert int(small.load(made.out)["1.num_batches_tracked"]) == 512


def test_a_snapshot_is_a_checkpoint_that_says_what_it_is(run):
    folder, _, model = run
    files = sorted((folder / "ema").iterdir())

    last = open_file(files[-1])
    said, specs = dict(last.metadata), dict(last.specs)
    last.close()

    assert [p.name for p in files[:2]] == [
        "ema-000000032-0.050.safetensors",
        "ema-000000032-0.100.safetensors",
    ]
    assert len(files) == 2 * STEPS // EVERY
    assert (said["memcard.ema.step"], said["memcard.ema.sigma_rel"]) == ("1024", "0.1")
    assert float(said["memcard.ema.gamma"]) == pytest.approx(6.94, abs=0.005)
    assert json.loads(said["memcard.card"])["kind"] == "ema"
    assert set(specs) == set(model.state_dict())


def test_snapshots_in_half_precision_take_half_the_space(tmp_path):
    model = net()
    ema = EMA(model, Power(0.1))
    snapshots = Snapshots(ema, tmp_path, every=5, dtype=torch.float16)

    train(model, 5, lambda: (ema.update(), snapshots.step()))

    array = small.load(next(tmp_path.iterdir()))["0.weight"]
    assert array.dtype == np.float16
    assert np.array_equal(array, ema.weights()["0.weight"].half().numpy())


def test_a_resumed_training_belongs_to_the_same_run(tmp_path):
    model = net()
    ema = EMA(model, POST_HOC)
    train(model, 8, lambda: (ema.update(), Snapshots(ema, tmp_path, every=4).step()))
    state = ema.state_dict()

    again = EMA(model, POST_HOC)
    again.load_state_dict(state)
    train(model, 4, lambda: (again.update(), Snapshots(again, tmp_path, every=4).step()))

    made = ema_posthoc([tmp_path], sigma_rel=0.1, out=tmp_path / "x.safetensors")
    assert "at step 12" in made.notes[-1]


def test_tied_weights_and_large_tensors_go_to_the_file_once(tmp_path, monkeypatch):
    monkeypatch.setattr("memcard.training.post_hoc._BLOCK", 64)
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    model[1].weight = model[0].weight
    ema = EMA(model, Power(0.1))
    ema.update()

    (path,) = Snapshots(ema, tmp_path, every=1).step()

    found = small.load(path)
    assert set(found) == {"0.weight", "0.bias", "1.bias"}
    assert np.array_equal(found["0.weight"], model[0].weight.detach().numpy())


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    import errno
    import os

    ema = EMA(net(), Power(0.1))
    ema.update()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskError, match="No space left"):
        Snapshots(ema, tmp_path, every=1).step()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ema", "every", "text"),
    [
        ({"decay": 0.9}, 5, "this EMA keeps none"),
        ({"decay": Power(0.1), "start": 3}, 5, "starts after step 3"),
        ({"decay": Power(0.1), "every": 4}, 6, "must be a multiple of 4"),
        ({"decay": Power(0.1)}, 0, "every is 0"),
    ],
)
def test_odd_wishes_are_refused(tmp_path, ema, every, text):
    with pytest.raises(UsageError, match=text):
        Snapshots(EMA(net(), **ema), tmp_path, every=every)


def test_between_two_updates_there_is_nothing_to_save(tmp_path):
    ema = EMA(net(), Power(0.1), every=2)
    snapshots = Snapshots(ema, tmp_path, every=2)
    with pytest.raises(UsageError, match="no step was done"):
        snapshots.save()

    ema.update()

    assert snapshots.step() == []
    with pytest.raises(UsageError, match="step 1 is not averaged"):
        snapshots.save()


def test_a_dtype_without_a_name_is_refused(tmp_path):
    model = nn.Linear(1, 1)
    model.register_buffer("odd", torch.empty(2, dtype=torch.bits8))
    ema = EMA(model, Power(0.1))
    ema.update()

    with pytest.raises(UnsupportedError, match=r"'odd' is torch\.bits8"):
        Snapshots(ema, tmp_path, every=1).step()


def linked(folder, files):
    folder.mkdir()
    for path in files:
        (folder / path.name).symlink_to(path)
    return folder


def test_a_missing_last_snapshot_is_refused_with_what_could_be_done(run, tmp_path):
    files = sorted((run[0] / "ema").iterdir())[:-1]
    folder = linked(tmp_path / "run", files)

    with pytest.raises(MismatchError, match=r"sigma_rel 0\.1.*at=992 or 960") as caught:
        ema_posthoc([folder], sigma_rel=0.15, out=tmp_path / "x.safetensors")

    assert "of step 1024" in str(caught.value)
    assert ema_posthoc([folder], sigma_rel=0.15, at=992, out=tmp_path / "x.safetensors").written


def test_snapshots_of_two_trainings_are_refused(run, tmp_path):
    model = net()
    ema = EMA(model, POST_HOC)
    train(model, 2048, ema.update)
    Snapshots(ema, tmp_path / "other", every=2048).save()

    with pytest.raises(MismatchError, match="the snapshots are of 2 trainings"):
        ema_posthoc([run[0], tmp_path / "other"], sigma_rel=0.1, out=tmp_path / "x.safetensors")


def test_a_folder_without_snapshots_is_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nothing")

    with pytest.raises(NotFoundError, match="no snapshots of averages"):
        ema_posthoc([tmp_path], sigma_rel=0.1, out=tmp_path / "x.safetensors")


def test_a_file_that_does_not_say_its_step_is_refused(tmp_path):
    path = small.save(tmp_path / "a.safetensors", small.weights(1))

    with pytest.raises(UsageError, match="does not say of which step"):
        ema_posthoc([path], sigma_rel=0.1, out=tmp_path / "x.safetensors")


def test_a_width_out_of_range_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"sigma_rel is 0\.5"):
        ema_posthoc([run[0]], sigma_rel=0.5, out=tmp_path / "x.safetensors")


def test_the_command(run, tmp_path, capsys):
    out = tmp_path / "ema.safetensors"

    assert (
        main(["ema", "posthoc", str(run[0]), "--sigma-rel", "0.15", "--out", str(out), "--json"])
        == 0
    )

    facts = json.loads(capsys.readouterr().out)
    assert facts["written"] is True
    assert facts["recipe"]["node"]["op"] == "weighted_average"
    assert len(facts["recipe"]["node"]["inputs"]) == 2 * STEPS // EVERY


def test_a_name_alone_is_a_file_here_and_a_name_in_the_library(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    command = ["ema", "posthoc", str(run[0]), "--sigma-rel", "0.15", "--out", "slow-v1.5"]

    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "home").exists()
    assert main(command) == 0
    assert "The library knows it as slow-v1.5" in capsys.readouterr().out

    named = resolve("slow-v1.5")
    assert {n: bytes(named.read(n)) for n in named.specs} == {
        n: small.load(tmp_path / "slow-v1.5.safetensors")[n].tobytes() for n in named.specs
    }
    named.close()
    (tmp_path / "slow-v1.5.safetensors").unlink()
    assert main(command) == 2
    assert "is the name of a checkpoint in the library" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


def test_a_file_that_is_named_stays_out_of_the_library(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    ema_posthoc([run[0]], sigma_rel=0.15, out=tmp_path / "x.safetensors")
    assert not (tmp_path / "home").exists()
    with pytest.raises(UsageError, match="x:y"):
        ema_posthoc([run[0]], sigma_rel=0.15, out="x:y")


def test_golden_snapshots_give_what_they_always_gave(tmp_path):
    wanted = json.loads((GOLDEN / "expected.json").read_text())

    made = ema_posthoc([GOLDEN], sigma_rel=wanted["sigma_rel"], out=tmp_path / "ema.safetensors")

    got = _loaded(made.out)
    for key, values in wanted["made"].items():
        assert np.allclose(got[key], values, rtol=1e-6)
        smoothed = np.abs(np.subtract(wanted["kept_all_along"][key], wanted["raw"][key])).max()
        assert np.abs(got[key] - wanted["kept_all_along"][key]).max() < 0.1 * smoothed


def test_a_snapshot_written_today_says_what_a_golden_one_says(tmp_path):
    ema = EMA(nn.BatchNorm1d(3), POST_HOC)
    ema.load_state_dict({**ema.state_dict(), "run": "0123456789abcdef", "steps": 64})
    now = Snapshots(ema, tmp_path, every=64).save()

    for path in now:
        old, new = open_file(GOLDEN / path.name), open_file(path)
        assert dict(new.metadata) == dict(old.metadata)
        assert dict(new.specs) == dict(old.specs)
        old.close()
        new.close()
