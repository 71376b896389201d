"""Scorers on pictures of which the right order is known."""

import pytest
import torch
from torch import Tensor

from memcard.errors import UsageError
from memcard.generation.scorer import Bench, Scorer, Shot
from memcard.generation.scorers import SCORERS

BENCH = Bench()


def shot(pixels: Tensor, latents: Tensor | None = None, prompt: str = "a", seed: int = 1) -> Shot:
    shown = pixels[None] if pixels.ndim == 3 else pixels
    return Shot(prompt, seed, torch.zeros(1, 4, 2, 2) if latents is None else latents, shown)


def noisy(size: float, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return (0.5 + size * torch.randn(16, 16, 3, generator=source)).clamp(0.02, 0.98)


def one(name: str, found: Shot, bench: Bench = BENCH) -> float:
    return SCORERS[name].score([found], bench)[0]


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_says_where_it_comes_from_and_what_its_numbers_mean(name: str) -> None:
    scorer = SCORERS[name]

    assert isinstance(scorer, Scorer)
    assert scorer.title
    assert scorer.source
    assert scorer.range[0] < scorer.range[1]
    assert scorer.better in ("higher", "none")


def test_convergence_is_highest_for_the_reference_itself_and_falls_with_the_distance() -> None:
    reference = noisy(0.1)
    bench = Bench(references={("a", 1): shot(reference)})
    steps = [reference, reference + 0.001, reference + 0.01, reference + 0.1]

    found = SCORERS["convergence"].score([shot(s) for s in steps], bench)

    assert found == pytest.approx((60, 60, 40, 20), abs=1e-3)


def test_a_picture_of_no_numbers_has_not_converged() -> None:
    bench = Bench(references={("a", 1): shot(noisy(0.1))})

    assert one("convergence", shot(noisy(0.1) * float("nan")), bench) == -60


def test_latent_convergence_sees_what_the_pixels_do_not_show() -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    bench = Bench(references={("a", 1): shot(noisy(0.1), latents)})
    error = latents.std(correction=0)

    near, far = shot(noisy(0.1), latents + error / 10), shot(noisy(0.1), latents + error)

    assert SCORERS["convergence_latent"].score([near, far], bench) == pytest.approx(
        (20, 0), abs=1e-4
    )


def test_exposure_is_one_without_guidance_and_falls_as_the_latents_swell() -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    bench = Bench(unguided={("a", 1): shot(noisy(0.1), latents)})

    shots = [shot(noisy(0.1), latents * factor) for factor in (0.9, 1, 2, 4)]

    assert SCORERS["exposure"].score(shots, bench) == pytest.approx((1, 1, 0.5, 0.25))


@pytest.mark.parametrize(
    ("name", "what"),
    [("convergence", "converged"), ("convergence_latent", "converged"), ("exposure", "unguided")],
)
def test_a_missing_or_other_sized_partner_is_named(name: str, what: str) -> None:
    with pytest.raises(UsageError, match=f"'a', seed 1: there is no {what} picture"):
        one(name, shot(noisy(0.1)))
    other = shot(torch.zeros(8, 8, 3))
    bench = Bench(references={("a", 1): other}, unguided={("a", 1): other})
    with pytest.raises(UsageError, match="one size"):
        one(name, shot(noisy(0.1)), bench)


def test_clipping_counts_values_that_are_neither_black_nor_white() -> None:
    half_white = torch.full((4, 4, 3), 0.5)
    half_white[:2] = 1.0
    half_white[0, 0, 0] = 0.0

    assert one("clipping", shot(torch.full((4, 4, 3), 0.5))) == 1.0
    assert one("clipping", shot(half_white)) == 0.5
    assert one("clipping", shot(torch.zeros(4, 4, 3))) == 0.0


def test_clipping_falls_as_contrast_is_pushed_beyond_the_range() -> None:
    picture = noisy(0.1)

    found = [
        one("clipping", shot(((picture - 0.5) * gain + 0.5).clamp(0, 1))) for gain in (1, 4, 16)
    ]

    assert found == sorted(found, reverse=True)
    assert found[0] == 1.0
    assert found[2] < 0.6


def test_saturation_is_none_for_grey_and_whole_for_pure_colours() -> None:
    red = torch.zeros(4, 4, 3)
    red[..., 0] = 1
    grey = torch.full((4, 4, 3), 0.5)

    found = [one("saturation", shot(x)) for x in (grey, (grey + red) / 2, red)]

    assert found == pytest.approx([0, 0.5, 1])


def test_contrast_is_half_for_half_black_half_white() -> None:
    split = torch.zeros(4, 4, 3)
    split[2:] = 1

    found = [one("contrast", shot(x)) for x in (split * 0 + 0.5, split * 0.5, split)]

    assert found == pytest.approx([0, 0.25, 0.5])


def test_a_blurred_picture_is_less_sharp() -> None:
    edges = torch.zeros(16, 16, 3)
    edges[:, 8:] = 1
    soft = torch.nn.functional.avg_pool2d(edges.permute(2, 0, 1)[None], 5, 1, 2)[0].permute(1, 2, 0)

    assert one("sharpness", shot(torch.full((16, 16, 3), 0.3))) == pytest.approx(0, abs=1e-6)
    assert one("sharpness", shot(edges)) > 2 * one("sharpness", shot(soft)) > 0


def test_diversity_is_nothing_for_equal_pictures_and_more_for_other_ones() -> None:
    same = [shot(noisy(0.2), seed=n) for n in (1, 2)]
    mixed = [shot(torch.full((16, 16, 3), v), seed=n) for n, v in ((1, 0.0), (2, 0.5), (3, 1.0))]

    assert SCORERS["diversity"].score(same, BENCH) == (0.0, 0.0)
    assert SCORERS["diversity"].score(mixed, BENCH) == pytest.approx((0.75, 0.5, 0.75))


def test_diversity_passes_over_fine_grain_and_other_prompts() -> None:
    grain = [shot(noisy(0.05, seed=n), seed=n) for n in (1, 2)]
    shapes = [shot(torch.zeros(16, 16, 3), seed=1), shot(noisy(0.05), seed=2)]
    other = [shot(torch.ones(16, 16, 3), seed=n, prompt="b") for n in (1, 2)]

    found = SCORERS["diversity"].score([*grain, *other], BENCH)

    assert found[0] < 0.1 * SCORERS["diversity"].score(shapes, BENCH)[0]
    assert found[2:] == (0.0, 0.0)


def test_diversity_of_one_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="two seeds or more for each prompt; 'a' has one"):
        SCORERS["diversity"].score([shot(noisy(0.1))], BENCH)
