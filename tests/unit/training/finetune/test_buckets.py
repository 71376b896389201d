from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from memcard.errors import UsageError
from memcard.training.finetune.buckets import bucket_sizes, crop_to, pixels

SD1 = bucket_sizes((512, 512), 64)


def test_every_bucket_has_at_most_the_area_and_sides_of_the_step() -> None:
    assert (512, 512) in SD1
    assert (768, 320) in SD1
    assert all(w * h <= 512 * 512 and w % 64 == h % 64 == 0 for w, h in SD1)
    assert all((h, w) in SD1 for w, h in SD1)
    assert max(max(size) for size in SD1) == 1024


def test_one_size_only_if_asked() -> None:
    assert bucket_sizes((512, 768), 64, square=True) == ((512, 768),)


@pytest.mark.parametrize("size", [(500, 512), (512, 0), (32, 64)])
def test_a_size_the_model_cannot_halve_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="multiple of 64"):
        bucket_sizes(size, 64)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_picture_covers_its_bucket_and_keeps_its_shape(width: int, height: int) -> None:
    crop = crop_to((width, height), SD1)
    (scaled_w, scaled_h), (w, h) = crop.scaled, crop.bucket

    assert scaled_w >= w
    assert scaled_h >= h
    assert scaled_w == w or scaled_h == h
    assert crop.left in ((scaled_w - w) // 2, 0)
    assert 0 <= crop.left <= scaled_w - w
    assert 0 <= crop.top <= scaled_h - h


def test_a_wide_picture_goes_into_a_wide_bucket_and_sdxl_is_told_what_was_cut() -> None:
    crop = crop_to((1920, 1080), bucket_sizes((1024, 1024), 64))

    assert crop.bucket == (1344, 768)
    assert crop.scaled == (1365, 768)
    assert crop.conditions == (1080, 1920, 0, 10, 768, 1344)
    assert not crop.enlarged
    assert crop_to((100, 100), SD1).enlarged


def test_pixels_are_the_middle_of_the_picture_from_minus_one_to_one(tmp_path: Path) -> None:
    image = Image.new("RGB", (96, 32), "black")
    image.paste((255, 0, 0), (32, 0, 64, 32))
    image.save(tmp_path / "x.png")
    crop = crop_to((96, 32), ((32, 32),))

    found = pixels(tmp_path / "x.png", crop)

    assert found.dtype == np.float32
    assert found.shape == (3, 32, 32)
    assert (found[0] == 1).all()
    assert (found[1:] == -1).all()


def test_transparent_lies_on_white_and_flip_mirrors(tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 8, 16))
    image.save(tmp_path / "x.png")
    crop = crop_to((16, 16), ((16, 16),))

    plain, mirrored = (pixels(tmp_path / "x.png", crop, flip=f) for f in (False, True))

    assert plain[:, 0, 0].tolist() == [-1, -1, 1]
    assert plain[:, 0, 15].tolist() == [1, 1, 1]
    assert (mirrored == plain[:, :, ::-1]).all()


def test_a_camera_turn_and_sixteen_bits_are_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 16), "white").save(tmp_path / "x.jpg", exif=exif)
    deep = np.full((16, 16), 0x8000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")

    assert pixels(tmp_path / "x.jpg", crop_to((16, 32), ((16, 32),))).shape == (3, 32, 16)
    value = pixels(tmp_path / "deep.png", crop_to((16, 16), ((16, 16),)))
    assert np.allclose(value, 128 / 127.5 - 1, atol=1e-6)
