"""The user before the card before the family; and what a card may not do."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.architectures import ARCHITECTURES
from memcard.errors import NotFoundError, UsageError
from memcard.generation.settings import NAMES, check_seed, from_card, resolve

SD1 = ARCHITECTURES["sd1"]
FAMILY = resolve(SD1, {}, {})


def card(**settings: Any) -> dict[str, str]:
    return {"memcard.card": json.dumps({"settings": settings})}


def test_a_bare_file_gets_what_suits_its_family() -> None:
    assert (FAMILY.steps, FAMILY.cfg, FAMILY.width, FAMILY.height) == (20, 7.0, 512, 512)
    assert (FAMILY.sampler, FAMILY.schedule) == ("dpmpp_2m", "normal")
    assert FAMILY.prediction_type == "epsilon"
    assert dict(FAMILY.origin) == dict.fromkeys(NAMES, "family")


def test_the_user_comes_before_the_card_before_the_family() -> None:
    metadata = card(steps=30, cfg_scale=5, negative_prompt="blurry", size="640x448")

    used = resolve(SD1, metadata, {"steps": 8, "cfg": None})

    assert (used.steps, used.cfg, used.negative) == (8, 5, "blurry")
    assert (used.width, used.height) == (640, 448)
    assert used.origin["steps"] == "user"
    assert used.origin["cfg"] == used.origin["width"] == used.origin["negative"] == "card"
    assert used.origin["sampler"] == "family"


def test_a_sampler_may_say_its_schedule_and_the_user_may_say_another() -> None:
    metadata = card(sampler="DPM++ 2M SDE Karras")

    assert resolve(SD1, metadata, {}).schedule == "karras"
    assert resolve(SD1, metadata, {}).sampler == "dpmpp_2m_sde"
    assert resolve(SD1, metadata, {"schedule": "exponential"}).schedule == "exponential"
    named = resolve(SD1, {}, {"sampler": "Euler Karras", "schedule": "normal"})
    assert (named.sampler, named.schedule) == ("euler", "normal")


def test_a_cards_schedule_gives_way_to_the_sampler_the_user_wants() -> None:
    used = resolve(SD1, card(schedule="karras"), {"sampler": "ddim"})

    assert (used.sampler, used.schedule) == ("ddim", "normal")


@pytest.mark.parametrize("said", ["v", "v_prediction"])
def test_modelspec_tells_what_the_model_predicts(said: str) -> None:
    used = resolve(SD1, {"modelspec.prediction_type": said}, {})

    assert used.prediction_type == "v_prediction"
    assert used.origin["prediction_type"] == "card"


HOSTILE: list[dict[str, Any]] = [
    {"steps": "many"},
    {"steps": True},
    {"steps": -3},
    {"steps": 10**9},
    {"steps": 2.5},
    {"cfg": float("nan")},
    {"cfg": float("inf")},
    {"cfg": "7"},
    {"cfg": 10**400},
    {"width": 65},
    {"width": 2**40},
    {"size": "0x0"},
    {"size": "100x100"},
    {"size": "9" * 5000 + "x64"},
    {"size": [64, 64]},
    {"sampler": "os.system"},
    {"sampler": ["euler"]},
    {"sampler": {"a": 1}},
    {"schedule": ["karras"]},
    {"schedule": {}},
    {"prediction_type": ["v"]},
    {"prediction_type": {}},
    {"negative": 7},
    {"negative": "\ud800"},
    {"origin": "user"},
    {"__class__": "x"},
]


@pytest.mark.parametrize("settings", HOSTILE, ids=lambda s: str(s)[:40])
def test_what_a_card_cannot_mean_is_left_out(settings: dict[str, Any]) -> None:
    used = resolve(SD1, card(**settings), {})

    assert used == FAMILY
    assert used.origin == FAMILY.origin


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '{"settings": []}', '{"settings": 7}', "[" * 100_000]
)
def test_a_card_that_is_none_says_nothing(text: str) -> None:
    assert from_card({"memcard.card": text}) == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
setting_names = st.sampled_from([*NAMES, "size", "cfg_scale", "scheduler", "negative_prompt"])


@given(st.dictionaries(setting_names, json_values, max_size=6))
def test_no_card_stops_a_run(settings: dict[str, Any]) -> None:
    used = resolve(SD1, card(**settings), {"steps": 5})

    assert used.steps == 5
    assert used.width % 8 == used.height % 8 == 0


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ({"width": 65}, "width 65 is not a multiple of 8. Use 64 or 72"),
        ({"height": 4}, "height 4 is not a multiple of 8. Use 8 or 16"),
        ({"width": 0}, "Use 8 or 16"),
        ({"height": -64}, "Use 8 or 16"),
        ({"steps": 0}, "steps 0: at least 1"),
        ({"cfg": float("nan")}, "cfg nan"),
        ({"cfg": float("inf")}, "cfg inf"),
        ({"sampler": "ddim", "schedule": "karras"}, "DDIM has no schedule 'karras'"),
        ({"schedule": "nonsense"}, "It has: normal, karras"),
        ({"prediction_type": "sample"}, "no prediction type 'sample'. There are: epsilon"),
    ],
    ids=str,
)
def test_what_a_user_cannot_have_is_refused_with_a_remedy(user: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        resolve(SD1, {}, user)


def test_an_unknown_sampler_is_refused_with_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'dpmpp_2m'"):
        resolve(SD1, {}, {"sampler": "dpmpp_2mm"})


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_seeds_that_survive_an_image_text_are_taken(seed: int) -> None:
    assert check_seed(seed) == seed


@pytest.mark.parametrize("seed", [-1, -2, 2**32])
def test_other_seeds_are_refused_with_the_range(seed: int) -> None:
    with pytest.raises(UsageError, match=r"0\.\.4294967295; -1 draws one"):
        check_seed(seed)
