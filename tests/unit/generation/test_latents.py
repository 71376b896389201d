"""Noise that means the same picture everywhere."""

import pytest
import torch

from memcard.generation.latents import generator, noise, seeds


def test_a_seed_is_torchs_cpu_noise_in_float32() -> None:
    drawn = noise((4, 8, 6), generator(42))

    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, torch.randn((1, 4, 8, 6), generator=torch.manual_seed(42)))


def test_drawing_leaves_the_programs_own_random_numbers_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)

    noise((4, 8, 8), generator(2))

    assert torch.equal(torch.rand(3), wanted)


def test_other_seeds_give_other_noise() -> None:
    assert not torch.equal(noise((4, 8, 8), generator(1)), noise((4, 8, 8), generator(2)))


def test_one_source_goes_on_after_its_first_noise() -> None:
    source = generator(1)

    assert not torch.equal(noise((1, 4, 4), source), noise((1, 4, 4), source))


@pytest.mark.parametrize(
    ("first", "wanted"), [(5, (5, 6, 7)), (2**32 - 2, (2**32 - 2, 2**32 - 1, 0))]
)
def test_the_next_picture_has_the_next_seed(first: int, wanted: tuple[int, ...]) -> None:
    assert seeds(first, 3) == wanted


def test_the_largest_seed_can_be_drawn_from() -> None:
    assert torch.isfinite(noise((4, 8, 8), generator(2**32 - 1))).all()
