"""Finished cells on the disk, and how long cells take."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memcard.jobs import _compare_store
from memcard.jobs._compare_cells import Plan, Planned, Wish
from memcard.jobs._compare_plan import plan_cells
from memcard.jobs._compare_sources import Extra, Named
from memcard.jobs._compare_store import Store, key_of, read_cell
from memcard.jobs._compare_time import Timer, about, kind_of, work
from memcard.jobs._file_identity import sha256_of
from memcard.jobs.generate import run


@pytest.fixture(scope="module")
def cell() -> Planned:
    wish = Wish(("a red apple",), ("starter",), (), (None,), (1,), {"steps": (4,), "cfg": (3.0,)})
    return plan_cells(wish)[1][0]


def changed(cell: Planned, **settings: Any) -> Planned:
    assert cell.settings is not None
    return replace(cell, settings=replace(cell.settings, **settings))


def test_everything_that_decides_the_pixels_decides_the_key(
    cell: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora, other = Extra("a", "a", "0" * 64), Extra("b", "b", "1" * 64)
    cells = [
        cell,
        replace(cell, prompt="a rocket"),
        replace(cell, seed=2),
        replace(cell, loras=((lora, 1.0),)),
        replace(cell, loras=((lora, 0.5),)),
        replace(cell, loras=((other, 1.0),)),
        replace(cell, loras=((other, 1.0), (lora, 1.0))),
        replace(cell, loras=((lora, 1.0), (other, 1.0))),
        replace(cell, vae=lora),
        replace(cell, named=(Named(lora, 1.0, None),)),
        replace(cell, named=(Named(lora, 1.0, 0.5),)),
        replace(cell, model=replace(cell.model, sha256="2" * 64)),
        changed(cell, steps=5),
        changed(cell, cfg=3.5),
        changed(cell, sampler="euler"),
        changed(cell, schedule="normal"),
        changed(cell, width=128),
        changed(cell, height=128),
        changed(cell, negative="blur"),
        changed(cell, prediction_type="epsilon"),
        changed(cell, clip_skip=2),
        changed(cell, cfg_rescale=0.5),
    ]

    keys = [key_of(one, "cpu", "auto") for one in cells] + [key_of(cell, "cpu", "F16")]
    keys.append(key_of(cell, "cpu", "auto", ("4" * 64,)))
    monkeypatch.setattr(_compare_store, "ARITHMETIC", 99)
    keys.append(key_of(cell, "cpu", "auto"))

    assert len(set(keys)) == len(keys) == 25
    assert all(len(key) == 64 for key in keys)


def test_names_and_where_settings_come_from_do_not(cell: Planned) -> None:
    renamed = replace(cell, model=replace(cell.model, label="mine", ref="elsewhere"))
    origin = changed(cell, origin={})

    assert {key_of(one, "cpu", "auto") for one in (cell, renamed, origin)} == {cell.key}


def test_a_folder_is_known_by_all_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "a.safetensors").write_bytes(b"one")
    first = sha256_of(folder)

    (folder / "b.safetensors").write_bytes(b"two")
    second = sha256_of(folder)
    (folder / "b.safetensors").rename(folder / "c.safetensors")

    assert len({first, second, sha256_of(folder)}) == 3


def test_a_cell_is_kept_whole_and_read_back(cell: Planned, tmp_path: Path) -> None:
    store = Store(tmp_path)
    result = run("a red apple", seed=1, steps=1, cfg=1)

    path = store.put(cell.key, result)

    assert path == tmp_path / cell.key[:2] / f"{cell.key}.png"
    assert store.has(cell.key)
    assert read_cell(path)["seed"] == 1
    mark = tmp_path / "memcard-compare.json"
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted([mark, path])
    path.rename(store.path("0" * 64).parent.parent / path.name)
    assert not store.has(cell.key)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "other key"])
def test_a_damaged_cell_is_not_taken_for_one(cell: Planned, tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    path = store.put(cell.key, run("a red apple", seed=1, steps=1, cfg=1))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-40] ^= 1
    wrong = whole.replace(cell.key.encode(), b"0" * 64)
    path.write_bytes(
        {"cut": whole[:-30], "flip": bytes(flipped), "empty": b"", "text": b"no picture", "other key": wrong}[damage]
    )  # fmt: skip

    assert not store.has(cell.key)


def test_the_cells_of_longest_disuse_go_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for age, name in enumerate(("a", "b", "c", "d")):
        path = store.path(name * 64)
        path.parent.mkdir()
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))

    assert store.prune(frozenset({"d" * 64}), 400) == 0
    assert store.prune(frozenset({"d" * 64}), 250) == 2

    assert sorted(p.name[0] for p in tmp_path.rglob("*.png")) == ["a", "d"]


def test_the_usual_place_is_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_CACHE", str(tmp_path))
    assert Store().folder == tmp_path / "compare-1"
    assert Store().lasting

    monkeypatch.setenv("MEMCARD_CACHE", "")
    passing = Store()
    place = passing.folder
    assert place.is_dir()
    assert not passing.lasting
    del passing
    assert not place.exists()


def test_rates_are_remembered_and_a_broken_file_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_rates({"a": {"load": 1.0, "fixed": 2.0, "unit": 3.0}})
    store.keep_rates({"b": {"load": 4.0, "fixed": 5.0, "unit": 6.0}})

    assert store.rates()["a"] == {"load": 1.0, "fixed": 2.0, "unit": 3.0}
    assert len(store.rates()) == 2
    (tmp_path / "rates.json").write_text("{broken")
    assert store.rates() == {}


def test_work_counts_steps_guidance_and_pixels(cell: Planned) -> None:
    assert work(cell) == 4 * 2
    assert work(changed(cell, cfg=1.0)) == 4
    assert work(changed(cell, sampler="heun")) == 4 * 2 * 2
    assert work(changed(cell, width=128, height=128)) == 4 * 2 * 4
    assert work(replace(cell, settings=None)) == 0


def test_time_is_that_of_the_steps_and_of_each_loading(cell: Planned) -> None:
    rate = {"load": 10.0, "fixed": 1.0, "unit": 0.5}
    timer = Timer({kind_of(cell, "cpu", "auto"): rate}, "cpu", "auto")
    other = replace(cell, model=replace(cell.model, sha256="3" * 64))

    assert timer.seconds([cell]) == 10 + 1 + 0.5 * 8
    assert timer.seconds([cell, cell, other]) == 2 * 10 + 3 * (1 + 0.5 * 8)
    assert timer.seconds([]) == 0
    assert Timer({}, "cpu", "auto").seconds([cell]) is None


def test_speed_is_learnt_from_the_marks_of_the_steps(
    cell: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memcard.jobs._compare_time.time.perf_counter", lambda: 112.0)
    timer = Timer({}, "cpu", "auto")

    timer.learn(cell, [104.0, 106.0, 108.0, 110.0], start=100.0, loading=2.0)
    assert timer.seconds([cell]) == 8.0  # after one cold start the steps alone
    other = replace(cell, model=replace(cell.model, sha256="3" * 64))
    timer.learn(other, [104.0, 106.0, 108.0, 110.0], start=100.0, loading=2.0)

    assert timer.seconds([cell]) == 12.0
    assert timer.lasting() == timer.measured()


def test_one_cold_start_does_not_replace_what_is_known(cell: Planned) -> None:
    kind = kind_of(cell, "cpu", "auto")
    timer = Timer({kind: {"load": 1.0, "fixed": 1.0, "unit": 1.0}}, "cpu", "auto")

    timer.learn(cell, [1.0, 2.0], start=0.0, loading=0.5)

    assert timer.lasting() == {}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "less than a second"),
        (59.6, "about 60 s"),
        (120, "about 2 minutes"),
        (7200, "about 2.0 hours"),
    ],
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert about(seconds) == said


def test_each_model_is_taken_in_turn_whatever_the_order_of_axes() -> None:
    wish = Wish(("a", "b"), ("starter", "starter/raw"), (("starter/lora_pixel", (1.0, 0.0)),), (None,), (1, 2), {})  # fmt: skip
    axes, cells = plan_cells(wish)

    order = Plan(axes, None, cells, wish).ordered()  # type: ignore[arg-type]

    groups = [one.group for one in order]
    assert len(order) == 16
    assert groups == sorted(groups, key=list(dict.fromkeys(groups)).index)
    assert [one.model.label for one in order] == ["starter"] * 8 + ["starter/raw"] * 8
