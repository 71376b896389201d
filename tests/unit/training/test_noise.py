"""Noise levels and draws against closed forms, and against diffusers."""

import math

import pytest
import torch

from memcard.errors import UnsupportedError, UsageError
from memcard.training.noise import Diffusion, Flow, flux_shift, mix, noise, zero_terminal_snr

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CONFIGS = [
    SD,
    {},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
    {**SD, "rescale_betas_zero_snr": True},
    {**SD, "num_train_timesteps": 100},
]


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("config", CONFIGS)
def test_noise_levels_are_those_of_inference(config):
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    ours, theirs = Diffusion.of(config), DDPMScheduler(**config).alphas_cumprod

    # rounding: diffusers goes through the betas once more for zero SNR
    assert torch.allclose(ours.keep, theirs, rtol=2e-5, atol=1e-6)


def test_pictures_with_noise_are_those_of_diffusers():
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    clean, added = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    times = torch.tensor([0, 10, 500, 999])

    ours = mix(clean, added, Diffusion.of(SD), times)

    assert torch.allclose(ours, DDPMScheduler(**SD).add_noise(clean, added, times), atol=1e-6)


def test_snr_is_that_of_diffusers():
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    times = torch.arange(1000)

    ours = Diffusion.of(SD).snr(times)

    assert torch.allclose(ours, compute_snr(DDPMScheduler(**SD), times), rtol=1e-4)


def test_zero_terminal_snr_begins_where_it_began_and_ends_in_noise():
    plain = Diffusion.of(SD)

    zero = zero_terminal_snr(plain.keep)

    assert float(zero[-1]) == 0
    assert float(zero[0]) == pytest.approx(float(plain.keep[0]), rel=1e-6)
    assert bool((zero.diff() < 0).all())
    assert Diffusion(zero).ends_in_noise
    assert not Diffusion(zero, end=999).ends_in_noise


def test_steps_are_drawn_evenly_from_their_range():
    drawn = Diffusion.of(SD, first=100, end=110).draw(20_000, source())

    counts = drawn.bincount(minlength=110)[100:]
    assert int(counts.sum()) == 20_000
    assert bool(((counts - 2000).abs() < 5 * 2000**0.5).all())


@pytest.mark.parametrize(("first", "end"), [(-1, 5), (5, 5), (0, 1001)])
def test_a_range_outside_the_schedule_is_refused(first, end):
    with pytest.raises(UsageError, match="are not among the 1000"):
        Diffusion.of(SD, first=first, end=end)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UnsupportedError, match="'sigmoid' is not known"):
        Diffusion.of({"beta_schedule": "sigmoid"})


@pytest.mark.parametrize(
    ("density", "scale"), [("logit_normal", None), ("mode", 1.29), ("uniform", None)]
)
def test_moments_of_a_flow_are_drawn_as_in_diffusers(density, scale):
    from diffusers.training_utils import compute_density_for_timestep_sampling

    ours = Flow(density, mean=0.3, std=0.7).draw(512, source(3))

    theirs = compute_density_for_timestep_sampling(
        density, 512, logit_mean=0.3, logit_std=0.7, mode_scale=scale, generator=source(3)
    )
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_logit_normal_has_its_mean_and_width():
    drawn = torch.logit(Flow(mean=0.5, std=2.0).draw(50_000, source()).double())

    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(drawn.std()) == pytest.approx(2.0, abs=0.05)


def test_a_shift_moves_the_middle_to_more_noise():
    plain, moved = Flow("uniform").draw(9, source()), Flow("uniform", shift=3).draw(9, source())

    assert torch.allclose(moved, 3 * plain / (1 + 2 * plain))


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (4096, 1.15), (2176, 0.825)])
def test_the_shift_of_flux_grows_with_the_picture(tokens, mu):
    assert math.log(flux_shift(tokens)) == pytest.approx(mu)
    assert math.log(flux_shift(tokens, {"max_shift": 0.5})) == pytest.approx(0.5)


def test_a_flow_is_a_straight_line():
    clean, added = torch.randn(3, 2, 4), torch.randn(3, 2, 4)

    at = mix(clean, added, Flow(), torch.tensor([0.0, 0.25, 1.0]))

    assert torch.equal(at[0], clean[0])
    assert torch.allclose(at[1], 0.75 * clean[1] + 0.25 * added[1])
    assert torch.equal(at[2], added[2])


@pytest.mark.parametrize("given", [{"density": "x"}, {"std": 0.0}, {"shift": 0.0}])
def test_odd_flows_are_refused(given):
    with pytest.raises(UsageError):
        Flow(**given)


def test_offset_noise_moves_whole_channels():
    drawn = noise((2000, 4, 8, 8), source(), offset=0.5)

    means = drawn.mean(dim=(2, 3))
    assert float(means.var()) == pytest.approx(0.25 + 1 / 64, rel=0.1)
    assert float(drawn.var()) == pytest.approx(1.25, rel=0.05)


def test_no_offset_draws_nothing_more():
    chance = source()
    noise((2, 3, 4), chance)

    assert torch.equal(torch.rand(1, generator=chance), _after(2 * 3 * 4))


def _after(count):
    chance = source()
    torch.randn((2, 3, count // 6), generator=chance)
    return torch.rand(1, generator=chance)


@pytest.mark.parametrize("schedule", [Diffusion.of(SD), Flow(), Flow("mode")])
def test_a_sample_with_its_own_generator_is_the_same_in_any_batch(schedule):
    def drawn(*seeds):
        sources = [source(s) for s in seeds]
        return noise((len(seeds), 3, 4, 4), sources, offset=0.1), schedule.draw(len(seeds), sources)

    (many, times), (one, time) = drawn(1, 2, 3), drawn(2)

    assert torch.equal(many[1:2], one)
    assert torch.equal(times[1:2], time)
    with pytest.raises(UsageError, match="1 generators for 2 samples"):
        noise((2, 3), [source()])
