"""Every sampler with each of its schedules, on a problem whose answer is known."""

import pytest
import torch

from memcard.architectures import ARCHITECTURES
from memcard.generation._engine import quiet
from memcard.generation.latents import generator, noise
from memcard.generation.samplers import SAMPLERS

# All pairs also sample a Gaussian in test_sampling.py; here each sampler's own schedule, the rest is slow.
PAIRS = [
    pytest.param(name, schedule, marks=[] if schedule == "normal" else pytest.mark.slow)
    for name in SAMPLERS
    for schedule in SAMPLERS[name].schedules
]
FAMILIES = {
    name: family.defaults.extra["scheduler"]
    for name, family in ARCHITECTURES.items()
    if "scheduler" in family.defaults.extra  # the others are known, not run
}


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_a_model_that_knows_the_answer_leads_to_it(
    name: str, schedule: str, family: str, prediction: str
) -> None:
    with quiet():
        scheduler = SAMPLERS[name].scheduler(
            FAMILIES[family], schedule=schedule, prediction_type=prediction
        )
        scheduler.set_timesteps(12)
    goal = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    source = generator(0)
    latents = noise((1, 8, 8), source) * scheduler.init_noise_sigma
    extra = {"generator": source} if SAMPLERS[name].random else {}

    for moment in scheduler.timesteps:
        seen = scheduler.scale_model_input(latents, moment)
        alpha = alpha_at(scheduler.alphas_cumprod, float(moment))
        eps = (seen - alpha**0.5 * goal) / (1 - alpha) ** 0.5
        v = alpha**0.5 * eps - (1 - alpha) ** 0.5 * goal
        guess = eps if prediction == "epsilon" else v
        latents = scheduler.step(guess, moment, latents, return_dict=False, **extra)[0]

    assert scheduler.config.prediction_type == prediction
    assert torch.isfinite(latents).all()
    assert float((latents - goal).abs().max()) < 0.15  # the noise it came from reaches 3


def alpha_at(table: torch.Tensor, moment: float) -> float:
    """Return alpha-bar; a schedule may ask between two whole steps: then by log sigma."""
    low = int(moment)
    high = min(low + 1, len(table) - 1)
    sigmas = ((1 - table.double()) / table.double()) ** 0.5
    share = moment - low
    sigma = float(sigmas[low]) ** (1 - share) * float(sigmas[high]) ** share
    return 1 / (1 + sigma**2)


def test_karras_levels_are_even_steps_of_the_seventh_root() -> None:
    """Karras et al. 2022, arXiv:2206.00364, equation 5."""
    with quiet():
        scheduler = SAMPLERS["dpmpp_2m"].scheduler(
            FAMILIES["sd1"], schedule="karras", prediction_type="epsilon"
        )
        scheduler.set_timesteps(10)
    steps = (scheduler.sigmas[:-1] ** (1 / 7)).diff()

    assert float((steps - steps.mean()).abs().max()) < 1e-4
