"""A labelled table of pictures, and the letters on it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from memcard.errors import UsageError
from memcard.generation._lettering import font_for, wrapped
from memcard.generation.table import MOST, Slot, Table, draw, side_of

RED, BLUE = (255, 0, 0), (0, 0, 255)
FONT = ImageFont.load_default(16)


def plain(color: tuple[int, int, int], size: tuple[int, int]) -> Callable[[], Image.Image]:
    return lambda: Image.new("RGB", size, color)


def slot(color: tuple[int, int, int] = RED, size: tuple[int, int] = (64, 64)) -> Slot:
    return Slot(size, plain(color, size))


def table(slots: list[list[Slot]], *, title: str = "", detail: str = "") -> Table:
    columns = [f"column {i}" for i in range(len(slots[0]))]
    return Table(title, detail, columns, [f"row {i}" for i in range(len(slots))], slots)


def box_of(page: Image.Image, color: tuple[int, int, int]) -> tuple[int, int]:
    """Width and height of what has exactly this color."""
    data = page.tobytes()
    width = page.width
    found = [i for i in range(0, len(data), 3) if tuple(data[i : i + 3]) == color]
    xs, ys = [i // 3 % width for i in found], [i // 3 // width for i in found]
    return max(xs) - min(xs) + 1, max(ys) - min(ys) + 1


def test_each_picture_stands_in_its_row_and_column() -> None:
    page = draw(table([[slot(RED), slot(BLUE)]]), cell=100)

    data = list(page.crop((0, page.height - 60, page.width, page.height - 59)).get_flattened_data())
    assert data.index(RED) < data.index(BLUE)
    assert (data.count(RED), data.count(BLUE)) == (100, 100)


def test_pictures_keep_their_shape_beside_others() -> None:
    page = draw(table([[slot(RED, (96, 64)), slot(BLUE, (64, 96))]]), cell=96)

    assert box_of(page, RED) == (96, 64)
    assert box_of(page, BLUE) == (64, 96)


def test_a_place_without_a_picture_says_why() -> None:
    full = draw(table([[slot(), slot()]]), cell=100)
    page = draw(table([[slot(), Slot((1, 1), None, "DDIM has no schedule 'karras'.")]]), cell=100)

    assert page.height == full.height
    assert box_of(page, RED) == (100, 100)
    assert len(page.crop((page.width - 60, page.height - 90, page.width, page.height)).getcolors() or []) > 4  # fmt: skip


def test_no_letter_is_cut_off_at_an_edge() -> None:
    long = "a_very_long_file_name_of_a_checkpoint-v2.1.fp16.safetensors " * 4
    made = Table(long, long, [long, long], [long], [[slot(), slot()]])

    page = draw(made, cell=120)

    edges = [page.crop(box) for box in ((page.width - 2, 0, page.width, page.height), (0, 0, page.width, 2), (0, 0, 2, page.height))]  # fmt: skip
    assert [edge.getcolors() for edge in edges] == [[(e.width * e.height, (255, 255, 255))] for e in edges]  # fmt: skip


def test_a_cell_is_as_large_as_its_picture_within_reason() -> None:
    assert side_of(table([[slot(RED, (64, 64))]])) == 160
    assert side_of(table([[slot(RED, (320, 200))]])) == 320
    assert side_of(table([[slot(RED, (2048, 1024))]])) == 512
    assert side_of(table([[slot(RED, (512, 512))] * 40] * 40)) ** 2 * 1600 <= MOST


def test_pictures_are_opened_one_at_a_time() -> None:
    alive: list[int] = []

    def opened() -> Image.Image:
        alive.append(1)
        return Image.new("RGB", (32, 32), RED)

    draw(table([[Slot((32, 32), opened)] * 3] * 2), cell=32)

    assert len(alive) == 6


@pytest.mark.parametrize(
    ("made", "cell", "why"),
    [
        (Table("", "", ["a"], ["b"], []), None, "0 rows of pictures for 1 labels"),
        (Table("", "", ["a", "b"], ["c"], [[slot()]]), None, "'c' has 1 pictures for 2 columns"),
        (Table("", "", [], [], []), None, "at least one row"),
        (table([[slot()]]), 15, "not in 16..4096"),
    ],
)
def test_what_does_not_fit_is_refused(made: Table, cell: int | None, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        draw(made, cell=cell)


@given(st.text(st.sampled_from("ab _-./é"), max_size=60), st.integers(30, 200), st.integers(1, 5))
def test_no_line_is_wider_than_asked_and_nothing_is_lost(text: str, width: int, lines: int) -> None:
    found = wrapped(text, FONT, width, lines).split("\n")

    assert len(found) <= lines
    assert all(FONT.getlength(line) <= width for line in found)
    if not found[-1].endswith("…"):
        assert "".join(found).replace(" ", "") == "".join(text.split())


def test_file_names_break_behind_their_signs() -> None:
    width = int(FONT.getlength("my_checkpoint_"))

    assert (
        wrapped("my_checkpoint_v2.safetensors", FONT, width, 9).split("\n")[0] == "my_checkpoint_"
    )


def test_letters_the_usual_font_has_not_come_from_another() -> None:
    latin, cyrillic = font_for("a red apple", 16), font_for("красное яблоко", 16)

    assert latin is font_for("another", 16)
    if len({bytes(cyrillic.getmask(letter)) for letter in "крас"}) == 1:
        pytest.skip("no font with these letters is installed here")
    assert cyrillic is not latin
