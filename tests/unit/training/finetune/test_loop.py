import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memcard.errors import CorruptError, MismatchError, UsageError
from memcard.training.ema import EMA
from memcard.training.finetune.adapters import Adapter, choose
from memcard.training.finetune.cache import Cache
from memcard.training.finetune.folder import Folder
from memcard.training.finetune.lessons import Cut, Lessons, chance_of
from memcard.training.finetune.loop import Loop, Moment, optimizer, running, smoothed
from memcard.training.finetune.model import Model
from memcard.training.finetune.settings import Settings

Make = Callable[..., Model]


def settings(**more: Any) -> Settings:
    said = {"steps": 6, "lr": 1e-2, "batch": 2, "width": 16, "height": 16, "rank": 2, "alpha": 2.0}
    return Settings(**{**said, **more})


def run(
    model: Model, folder: Folder, told: Settings, start: int = 0, state: Any = None
) -> tuple[list[Moment], dict[str, Any]]:
    adapter = Adapter(told.rank, told.alpha) if told.rank else None
    learnt = choose(
        model, adapter=adapter, text_encoder=told.text_encoder, checkpointing=told.checkpointing
    )
    lessons = Lessons(
        model, Cut.of(folder, told, model.step), told, Cache(folder.path.parent / "cache")
    )
    lessons.prepare()
    stepper = optimizer(learnt, told)
    average = EMA(learnt, 0.9) if told.ema else None
    if state is not None:
        learnt.load_state_dict(state["learnt"])
        stepper.load_state_dict(state["stepper"])
    moments, states = [], {}
    for moment in Loop(model, learnt, lessons, told, stepper, average).run(start):
        moments.append(moment)
        states[moment.step] = {
            "learnt": {k: v.clone() for k, v in learnt.state_dict().items()},
            "stepper": copy.deepcopy(stepper.state_dict()),
        }
    return moments, states


@pytest.mark.parametrize(
    "more",
    [
        {},
        pytest.param(
            {
                "rank": 0,
                "accumulate": 2,
                "min_snr": 5.0,
                "noise_offset": 0.1,
                "ema": 0.9,
                "lr": 1e-3,
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "text_encoder": True,
                "text_lr": 1e-3,
                "flip": True,
                "shuffle": True,
                "checkpointing": True,
            },
            marks=pytest.mark.slow,
        ),
        pytest.param({"precision": "bf16", "optimizer": "adafactor"}, marks=pytest.mark.slow),
        pytest.param({"shuffle": True, "dropout": 0.4}, marks=pytest.mark.slow),
    ],
    ids=["lora", "whole", "with text", "bf16", "mixed tags"],
)
def test_a_run_that_goes_on_makes_the_same_bits(
    make_model: Make, folder: Folder, more: dict[str, Any]
) -> None:
    told = settings(**more)
    moments, states = run(make_model(), folder, told)
    later, ends = run(make_model(), folder, told, 3, states[3])

    assert [m.step for m in moments] == [1, 2, 3, 4, 5, 6]
    assert [(m.loss, m.lr, m.norm) for m in moments[3:]] == [(m.loss, m.lr, m.norm) for m in later]
    assert all(torch.equal(v, ends[6]["learnt"][k]) for k, v in states[6]["learnt"].items())


@pytest.mark.slow
def test_the_loss_falls_on_pictures_of_one_colour(make_model: Make, folder: Folder) -> None:
    moments, _ = run(make_model(prediction="epsilon"), folder, settings(steps=40, rank=0, batch=4))
    mean = smoothed([m.loss for m in moments], keep=0.9)

    assert mean[-1] < 0.8 * mean[2]


def test_sdxl_is_told_both_encoders_and_six_sizes(make_model: Make, folder: Folder) -> None:
    model = make_model(xl=True, prediction="epsilon")
    words = model.words(["a", "b"])

    moments, _ = run(model, folder, settings(steps=2))

    assert words.states.shape == (2, 8, 32)
    assert words.pooled is not None
    assert words.pooled.shape == (2, 12)
    assert all(m.loss > 0 for m in moments)


def test_batches_hold_pictures_of_one_bucket_with_their_captions(
    make_model: Make, folder: Folder
) -> None:
    told = settings(dropout=0.0, trigger="sks")
    model = make_model()
    cut = Cut.of(folder, told, model.step)
    lessons = Lessons(model, cut, told, Cache(None))
    batches = [lessons.batch(n) for n in range(cut.order.per_epoch)]

    assert cut.buckets() == {(16, 16): 3, (24, 8): 2}
    assert sorted(tuple(b.latents.shape) for b in batches) == [
        (1, 4, 8, 8), (2, 4, 4, 12), (2, 4, 8, 8),
    ]  # fmt: skip
    assert lessons.cut()  # "sks, a, tag" is longer than six letters
    assert {b.epoch for b in batches} == {0}
    assert lessons.batch(cut.order.per_epoch).epoch == 1


def test_latents_and_words_come_from_the_cache_the_second_time(
    make_model: Make, folder: Folder, tmp_path: Path
) -> None:
    told, model = settings(), make_model()
    cut, cache = Cut.of(folder, told, model.step), Cache(tmp_path / "kept")
    first = Lessons(model, cut, told, cache)
    first.prepare()
    assert cache.written > 0
    object.__setattr__(model, "vae", None)

    kept = Cache(tmp_path / "kept")
    again = Lessons(model, cut, told, kept)
    again.prepare()
    assert kept.written == 0

    assert torch.equal(again.batch(0).latents, first.batch(0).latents)


def test_what_is_cached_does_not_depend_on_what_was_asked_for_with_it(
    make_model: Make, folder: Folder, tmp_path: Path
) -> None:
    told, model = settings(batch=3, dropout=0.0), make_model()
    cut = Cut.of(folder, told, model.step)
    together, alone = (Lessons(model, cut, told, Cache(tmp_path / n)) for n in ("a", "b"))
    alone.prepare()

    number = next(n for n in range(9) if len(cut.order.at(n)[1]) == 3)
    one, two = together.batch(number), alone.batch(number)

    assert torch.equal(one.latents, two.latents)
    assert torch.equal(one.words.states, two.words.states)


def test_pictures_that_went_bad_are_all_named(make_model: Make, folder: Folder) -> None:
    told, model = settings(), make_model()
    for name in ("a.png", "c.png"):
        (folder.path / name).write_bytes(b"no picture")

    with pytest.raises(CorruptError, match="cannot be read") as caught:
        Lessons(model, Cut.of(folder, told, model.step), told, Cache(None)).prepare()

    assert len(caught.value.faults) == 2


def test_a_loss_that_is_no_number_stops_the_run(make_model: Make, folder: Folder) -> None:
    model = make_model()
    with torch.no_grad():
        model.unet.conv_out.bias.fill_(float("nan"))

    with pytest.raises(MismatchError, match=r"step 1: the loss is nan.*learning rate below 0\.01"):
        run(model, folder, settings())


def test_half_precision_needs_a_device_that_scales(make_model: Make, folder: Folder) -> None:
    with pytest.raises(UsageError, match="fp16 cannot train on cpu"):
        run(make_model(), folder, settings(precision="fp16"))


def test_threads_and_denormals_are_as_before_afterwards(make_model: Make, folder: Folder) -> None:
    before = torch.get_num_threads()
    model = make_model()
    tiny = torch.tensor([1e-40])
    with running(model):
        with running(model):  # as when a sheet is painted in the middle of a training
            assert tiny.mul(1.0).item() == 0
        assert tiny.mul(1.0).item() == 0
        assert torch.get_num_threads() == 1
    run(model, folder, settings(steps=1))

    assert torch.get_num_threads() == before
    assert tiny.mul(1.0).item() > 0


def test_text_encoders_get_a_rate_of_their_own(make_model: Make) -> None:
    model, told = make_model(), settings(text_encoder=True, text_lr=1e-4)
    learnt = choose(model, adapter=Adapter(2, 2.0), text_encoder=True, checkpointing=False)

    assert [g["lr"] for g in optimizer(learnt, told).param_groups] == [1e-2, 1e-4]


def test_adamw8bit_is_refused_where_it_is_not_installed(make_model: Make) -> None:
    learnt = choose(make_model(), adapter=Adapter(2, 2.0), text_encoder=False, checkpointing=False)

    with pytest.raises(UsageError, match="bitsandbytes"):
        optimizer(learnt, settings(optimizer="adamw8bit"))


def test_chance_differs_by_every_number() -> None:
    drawn = {
        torch.randn(1, generator=chance_of(*n)).item() for n in ((0, 1), (1, 0), (0, 2), (0, 1, 0))
    }

    assert len(drawn) == 4


def test_the_running_average_is_not_pulled_by_its_start() -> None:
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0] * 3)
    assert smoothed([]) == []
