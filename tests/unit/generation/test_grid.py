import pytest
from PIL import Image

from memcard.errors import UsageError
from memcard.generation.grid import Row, sheet


def test_each_picture_stands_in_its_cell() -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")

    page = sheet([Row("base", "cfg 3", [red, blue])], ["dog", "cat"], cell=64, gap=4)

    left, top = round(64 * 1.75), 14 + 16
    assert page.getpixel((left + 32, top + 32)) == (255, 0, 0)
    assert page.getpixel((left + 68 + 32, top + 32)) == (0, 0, 255)
    assert page.size == (left + 2 * 68 + 4, top + 68 + 4)


def test_a_row_with_a_picture_missing_is_refused() -> None:
    with pytest.raises(UsageError, match="'base' has 0 pictures for 1 columns"):
        sheet([Row("base", "", [])], ["dog"])
