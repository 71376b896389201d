"""What varies, and where it stands on a page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.errors import UsageError
from memcard.jobs._compare_axes import Axis, lay_out, numbers, told_apart, worded, worded_lora


def axis(name: str, count: int) -> Axis:
    return Axis(name, tuple(range(count)), tuple(str(i) for i in range(count)))


def sides(axes: list[Axis], **wish: str) -> tuple[str | None, str | None, list[str]]:
    found = lay_out(axes, **wish)
    names = [None if i is None else axes[i].name for i in (found.x, found.y)]
    return names[0], names[1], [axes[i].name for i in found.pages]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", (3.0,)),
        ("3,5,7", (3.0, 5.0, 7.0)),
        ("1-4", (1.0, 2.0, 3.0, 4.0)),
        ("3-7:2", (3.0, 5.0, 7.0)),
        ("0-1:0.1", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        ("1, 1,2-3,2", (1.0, 2.0, 3.0)),
        ("-0.5,.5", (-0.5, 0.5)),
    ],
)
def test_lists_and_ranges_are_read(text: str, expected: tuple[float, ...]) -> None:
    assert numbers(text, "--cfg") == expected


def test_whole_numbers_are_ints() -> None:
    found = numbers("1-3,10", "--seed", whole=True)

    assert found == (1, 2, 3, 10)
    assert {type(n) for n in found} == {int}


@pytest.mark.parametrize(
    ("text", "whole", "why"),
    [
        ("", False, "no number and no range"),
        ("a", False, "write it like 3,5,7"),
        ("1.5", True, "no whole number"),
        ("5-1", False, "smaller number first"),
        ("1-5:0", False, "smaller number first"),
        ("0-1000000000", True, "more than 10,000"),
        ("1e5", False, "no number"),
        ("nan", False, "no number"),
    ],
)
def test_what_is_no_list_is_refused(text: str, whole: bool, why: str) -> None:
    with pytest.raises(UsageError, match=f"(?i)--cfg.*{why}"):
        numbers(text, "--cfg", whole=whole)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, unique=True))
def test_a_list_comes_back_as_it_was(values: list[int]) -> None:
    assert numbers(",".join(map(str, values)), "seed", whole=True) == tuple(values)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ([axis("checkpoint", 1), axis("cfg", 1)], (None, None, [])),
        ([axis("checkpoint", 1), axis("cfg", 3)], ("cfg", None, [])),
        ([axis("cfg", 30)], (None, "cfg", [])),
        ([axis("checkpoint", 2), axis("cfg", 3)], ("cfg", "checkpoint", [])),
        ([axis("sampler", 2), axis("cfg", 3)], ("cfg", "sampler", [])),
        ([axis("cfg", 2), axis("steps", 3)], ("steps", "cfg", [])),
        ([axis("checkpoint", 2), axis("prompt", 3)], ("prompt", "checkpoint", [])),
        (
            [axis("prompt", 2), axis("seed", 2), axis("cfg", 2), axis("checkpoint", 2)],
            ("cfg", "checkpoint", ["prompt", "seed"]),
        ),
        (
            [axis("clip_skip", 2), axis("prompt", 2), axis("cfg", 2)],
            ("clip_skip", "cfg", ["prompt"]),
        ),
    ],
)
def test_words_go_down_and_numbers_across(
    axes: list[Axis], expected: tuple[str | None, str | None, list[str]]
) -> None:
    found = sides(axes)

    assert (found[0], found[1], sorted(found[2])) == expected


def test_the_user_may_choose_one_side_or_both() -> None:
    axes = [axis("checkpoint", 2), axis("lora pixel", 2), axis("cfg", 2), axis("seed", 2)]

    assert sides(axes, x="seed") == ("seed", "checkpoint", ["lora pixel", "cfg"])
    assert sides(axes, y="seed") == ("checkpoint", "seed", ["lora pixel", "cfg"])
    assert sides(axes, x="checkpoint", y="lora") == ("checkpoint", "lora pixel", ["cfg", "seed"])


def test_a_side_that_does_not_vary_is_refused() -> None:
    axes = [axis("checkpoint", 2), axis("cfg", 1)]

    with pytest.raises(
        UsageError, match=r"--x cfg: does not vary here\. What varies: 'checkpoint'"
    ):
        lay_out(axes, x="cfg")
    with pytest.raises(UsageError, match="--x and --y are both 'checkpoint'"):
        lay_out(axes, x="checkpoint", y="checkpoint")


def test_values_are_worded_for_people() -> None:
    said = [
        *(worded("cfg", 3.0), worded("cfg", 2.5), worded("steps", 1), worded("steps", 20)),
        *(worded("size", (64, 96)), worded("vae", None), worded("negative", "blur")),
        *(worded("negative", ""), worded("clip_skip", 2), worded("cfg_rescale", 0.7)),
        *(worded_lora("pixel", 0.0, alone=True), worded_lora("pixel", 0.0, alone=False)),
    ]

    assert said == ["CFG 3", "CFG 2.5", "1 step", "20 steps", "64x96", "own VAE", "not: blur",
                    "nothing unwanted", "clip skip 2", "cfg rescale 0.7", "no LoRA", "pixel 0"]  # fmt: skip


def test_equal_labels_are_told_apart() -> None:
    assert told_apart(["a", "b", "a"], ["1", "2", "3"]) == ("a (1)", "b", "a (3)")
