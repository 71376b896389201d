import json

import pytest

from memcard.errors import UsageError
from memcard.training.finetune.settings import Settings, differences, lr_factor


def test_settings_are_json_values() -> None:
    settings = Settings(steps=10, lr=1e-4, rank=4, prompts=("a", "b"))

    assert json.loads(json.dumps(settings.to_dict())) == settings.to_dict()
    assert settings.kind == "lora"
    assert Settings(steps=1, lr=1e-4).kind == "finetune"


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Settings(steps=0, lr=2.0, schedule="square", dora=True, dropout=2, ema=1.0, min_snr=0)  # type: ignore[arg-type]

    said = str(caught.value)
    assert all(
        part in said
        for part in ("steps is 0", "rate 2", "'square'", "DoRA", "dropout 2", "ema 1", "gamma 0")
    )


def test_differences_are_named_with_both_values_and_what_is_only_shown_may_change() -> None:
    before = Settings(steps=10, lr=1e-4, prompts=("a",)).to_dict()
    now = Settings(steps=20, lr=1e-4, seed=3, prompts=("b",), sheet_every=5)

    assert differences(before, now) == ["steps was 10 and is 20.", "seed was 0 and is 3."]
    assert differences(before, Settings(steps=10, lr=1e-4)) == []


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_rate_rises_then_falls_as_the_schedule_says(schedule: str) -> None:
    settings = Settings(steps=100, lr=1e-4, warmup=10, schedule=schedule)  # type: ignore[arg-type]
    factors = [lr_factor(settings, step) for step in range(1, 101)]

    assert factors[:10] == [n / 10 for n in range(1, 11)]
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert all(0 < f <= 1 for f in factors)
    assert (factors[-1] == 1) is (schedule == "constant")
    if schedule != "constant":
        assert factors[-1] < 0.02
        assert factors[54] == pytest.approx(0.5, abs=0.02)


def test_without_warm_up_the_first_step_has_nearly_the_whole_rate() -> None:
    assert lr_factor(Settings(steps=1000, lr=1e-4), 1) > 0.99
    assert lr_factor(Settings(steps=1, lr=1e-4), 1) > 0.4
