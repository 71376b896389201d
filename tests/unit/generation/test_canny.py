"""The edges of a picture are those OpenCV draws."""

import hashlib

import pytest
import torch
from torch import Tensor

from memcard.errors import UsageError
from memcard.generation.canny import canny


def shapes(high: int = 61, wide: int = 83) -> Tensor:
    """Whole steps of 1/255 by integer arithmetic: the same on every machine."""
    y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    disc = ((y - 30) ** 2 + (x - 40) ** 2 < 400).int()
    image = torch.stack([(x * y) % 97 * 2, disc * 200 + x % 7, 255 - disc * 90 - (x + y) % 31], -1)
    return image.float() / 255


# cv2.Canny of opencv-python-headless 5.0.0 over the same bytes: sha256 of its bytes, and how many are edges.
OPENCV = {
    (100, 200): ("630a4a878cc158ee", 1401),
    (50, 200): ("630a4a878cc158ee", 1401),
    (10, 20): ("7a27189272255bd3", 1412),
    (300, 300): ("7eff59e9b7de5377", 1057),
}


@pytest.mark.parametrize("between", OPENCV)
def test_edges_are_those_of_opencv(between: tuple[int, int]) -> None:
    low, high = between

    found = canny(shapes(), low=low, high=high)

    drawn = (found[..., 0] * 255).to(torch.uint8).numpy()
    assert found.shape == (61, 83, 3)
    assert (hashlib.sha256(drawn.tobytes()).hexdigest()[:16], int((drawn > 0).sum())) == OPENCV[
        between
    ]


def test_weak_edges_stay_where_they_go_on_from_a_strong_one() -> None:
    image = torch.zeros(9, 40, 3)
    image[:4] = torch.linspace(0.1, 0.6, 40)[None, :, None]  # one long edge that fades

    weak, strong = canny(image, low=60, high=400), canny(image, low=400, high=400)

    assert 0 < strong.sum() < weak.sum()
    assert canny(image, low=60, high=2000).sum() == 0


def test_a_plain_picture_and_a_single_row_have_no_edges() -> None:
    assert canny(torch.full((5, 7, 3), 0.4)).sum() == 0
    assert canny(torch.full((1, 1, 3), 0.4)).shape == (1, 1, 3)


@pytest.mark.parametrize(("low", "high"), [(200, 100), (-1, 5)])
def test_numbers_that_make_no_sense_are_refused(low: int, high: int) -> None:
    with pytest.raises(UsageError, match="the first not the larger"):
        canny(shapes(), low=low, high=high)
