import click
import pytest

from memcard.cli._show import human_size, table
from memcard.cli._types import Numbers, Size, Weighted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("style:-1", ("style", -1.0)),
        ("style:.5", ("style", 0.5)),
        ("C:\\loras\\a.safetensors", ("C:\\loras\\a.safetensors", 1.0)),
        ("C:\\loras\\a.safetensors:0.25", ("C:\\loras\\a.safetensors", 0.25)),
    ],
)
def test_a_strength_follows_the_last_colon(text: str, expected: tuple[str, float]) -> None:
    assert Weighted().convert(text, None, None) == expected


def test_sizes() -> None:
    assert Size().convert("512x768", None, None) == (512, 768)
    with pytest.raises(click.BadParameter, match="write it like 512x768"):
        Size().convert("512", None, None)


def test_numbers() -> None:
    assert Numbers().convert("0.7,.3", None, None) == (0.7, 0.3)
    with pytest.raises(click.BadParameter, match="write it like"):
        Numbers().convert("a,b", None, None)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (13_700_000, "13.7 MB"),
        (2_132_651_014, "2.13 GB"),
    ],
)
def test_sizes_are_decimal(n: int, text: str) -> None:
    assert human_size(n) == text


def test_a_table_is_aligned() -> None:
    assert table([["a", "1"], ["bcd", "22"]], header=["x", "n"]) == "x    n\na    1\nbcd  22"
