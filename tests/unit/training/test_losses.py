"""Right answers lead back to the picture, weights are those of the papers."""

import pytest
import torch

from memcard.errors import UnsupportedError, UsageError
from memcard.training.losses import Objective, min_snr
from memcard.training.noise import Diffusion, Flow, mix

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TIMES = torch.tensor([0, 10, 500, 999])


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(seed=0):
    return torch.randn(4, 3, 8, 8, generator=source(seed))


def test_v_is_that_of_diffusers():
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    ours = Objective.of(SD, "v_prediction").target(pictures(), pictures(1), TIMES)

    theirs = DDPMScheduler(**SD).get_velocity(pictures(), pictures(1), TIMES)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_right_answer_leads_back_to_the_picture(prediction):
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    objective = Objective.of(SD, prediction)
    scheduler = DDIMScheduler(**SD, prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(1000)
    clean, added, time = pictures()[:1], pictures(1)[:1], torch.tensor([400])

    said = objective.target(clean, added, time)
    noisy = mix(clean, added, objective.schedule, time)

    back = scheduler.step(said, 400, noisy).pred_original_sample
    assert torch.allclose(back, clean, atol=1e-4)


def test_a_flow_s_answer_leads_back_to_the_picture():
    lesson = Objective.of({"shift": 3.0}, "flow").lesson(pictures(), source())

    t = lesson.times.view(-1, 1, 1, 1)
    assert torch.allclose(lesson.noisy - t * lesson.target, pictures(), atol=1e-5)
    assert torch.equal(lesson.weights, torch.ones(4))


def test_the_shift_is_the_base_s_own():
    assert Objective.of({"shift": 3.0}, "flow").schedule == Flow(shift=3.0)
    assert Objective.of({"shift": 3.0, "use_dynamic_shifting": True}, "flow").schedule == Flow()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weighs_the_error_of_the_picture_whatever_is_predicted(prediction):
    """The same wrong picture costs min(SNR, gamma) in each of the three."""
    objective = Objective.of(SD, prediction, min_snr=5.0)
    clean, added, wrong = pictures(), pictures(1), pictures(2) * 0.01
    keep, take = (s.view(-1, 1, 1, 1) for s in objective.schedule.shares(TIMES))
    noisy = mix(clean, added, objective.schedule, TIMES)
    believed = clean + wrong
    implied = (noisy - keep * believed) / take

    off = objective.target(believed, implied, TIMES) - objective.target(clean, added, TIMES)
    cost = off.square().flatten(1).mean(1) * objective.weights(TIMES)

    snr = objective.schedule.snr(TIMES)
    wanted = snr.clamp(max=5) * wrong.square().flatten(1).mean(1)
    assert torch.allclose(cost, wanted, rtol=2e-2)


def test_min_snr_at_no_signal_at_all():
    zero = torch.zeros(1)

    assert float(min_snr(zero, 5, "epsilon")) == 1
    assert float(min_snr(zero, 5, "v_prediction")) == 0
    assert float(min_snr(zero, 5, "sample")) == 0


def test_debiased_weights_are_the_inverse_root_of_snr():
    objective = Objective.of(SD, "epsilon", debias=True)

    assert torch.allclose(
        objective.weights(TIMES), objective.schedule.snr(TIMES) ** -0.5, rtol=1e-5
    )


def test_the_loss_is_the_weighted_mean_of_the_samples():
    objective = Objective.of(SD, "v_prediction", min_snr=5.0)
    lesson = objective.lesson(pictures(), source())
    said = lesson.target + torch.tensor([0.0, 1.0, 2.0, 3.0]).view(-1, 1, 1, 1)

    per_sample = objective.per_sample(said.bfloat16().float(), lesson)

    errors = torch.tensor([0.0, 1.0, 4.0, 9.0])
    assert torch.allclose(objective.per_sample(said, lesson), errors * lesson.weights, atol=1e-5)
    assert objective.loss(said, lesson) == objective.per_sample(said, lesson).mean()
    assert per_sample.shape == (4,)


def test_half_precision_is_judged_in_float32():
    objective = Objective.of(SD, "epsilon")
    lesson = objective.lesson(pictures().bfloat16(), source())

    assert {t.dtype for t in (lesson.noisy, lesson.target, lesson.weights)} == {torch.float32}
    assert objective.loss(lesson.target.bfloat16(), lesson).dtype == torch.float32


def test_perturbed_noise_is_seen_but_not_asked_for():
    plain = Objective.of(SD, "epsilon").lesson(pictures(), source())
    moved = Objective.of(SD, "epsilon", perturb=0.1).lesson(pictures(), source())

    _, take = (s.view(-1, 1, 1, 1) for s in Diffusion.of(SD).shares(plain.times))
    assert torch.equal(plain.target, moved.target)
    assert torch.equal(plain.times, moved.times)
    assert float(((moved.noisy - plain.noisy) / take).std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("prediction", ["v_prediction", "flow"])
def test_a_sample_s_lesson_does_not_depend_on_its_batch(prediction):
    objective = Objective.of(SD, prediction, offset=0.1, perturb=0.1)
    clean = pictures()

    batch = objective.lesson(clean, [source(s) for s in range(4)])
    alone = objective.lesson(clean[2:3], [source(2)])

    for name in ("noisy", "times", "target", "weights"):
        assert torch.equal(getattr(batch, name)[2:3], getattr(alone, name))


@pytest.mark.parametrize(
    ("schedule", "prediction", "wishes", "text"),
    [
        (Diffusion.of(SD), "flow", {}, "flow does not go with a diffusion schedule"),
        (Flow(), "epsilon", {}, "epsilon does not go with a flow schedule"),
        (Flow(), "flow", {"min_snr": 5.0}, "not for flows"),
        (Diffusion.of(SD), "epsilon", {"min_snr": 0.0}, "min_snr is 0"),
        (Diffusion.of(SD), "v_prediction", {"debias": True}, "debias is for epsilon"),
        (Diffusion.of(SD), "epsilon", {"offset": -1.0}, "offset is -1"),
        (Diffusion.of({**SD, "rescale_betas_zero_snr": True}), "epsilon", {}, "nothing but noise"),
    ],
)
def test_what_does_not_fit_together_is_refused(schedule, prediction, wishes, text):
    with pytest.raises(UsageError, match=text):
        Objective(schedule, prediction, **wishes)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(UnsupportedError, match="prediction 'edm' cannot be trained"):
        Objective.of(SD, "edm")
