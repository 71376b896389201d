import torch

from memcard.generation.latents import generator
from memcard.generation.placed import Placed

LATENTS = torch.arange(8.0).reshape(1, 4, 2)
KEPT = torch.tensor([[1.0, 0.4, 0.0, 0.0]])


def placed(**said: float) -> Placed:
    return Placed(LATENTS, KEPT, {}, **said)  # type: ignore[arg-type]


def moved(level: float) -> list[bool]:
    after = placed().waited(LATENTS, LATENTS + 1, torch.tensor(level))
    return [bool(one.any()) for one in (after - LATENTS)[0]]


def test_tokens_wait_until_the_noise_has_come_down_to_theirs() -> None:
    assert moved(1.0) == [False, False, True, True]
    assert moved(0.61) == [False, False, True, True]
    assert moved(0.6) == [False, True, True, True]
    assert moved(0.01) == [False, True, True, True]


def test_only_what_is_kept_whole_is_stirred_and_less_each_time() -> None:
    found = placed(stir=0.5)
    now = LATENTS + 10

    high, low = (found.stirred(now, torch.tensor(level), generator(1)) for level in (1.0, 0.1))

    assert torch.equal(high[:, 1:], now[:, 1:])
    noise = torch.randn(now.shape, generator=generator(1))[:, :1]
    assert torch.allclose(high[:, :1], LATENTS[:, :1] + 0.5 * noise)
    assert torch.allclose(low[:, :1], LATENTS[:, :1] + 0.005 * noise)


def test_without_stir_nothing_is_drawn() -> None:
    source = generator(1)
    before = source.get_state()

    assert placed().stirred(LATENTS, torch.tensor(1.0), source) is LATENTS
    assert torch.equal(source.get_state(), before)


def test_extra_tokens_are_not_of_the_clip() -> None:
    assert placed(extra=1).own(LATENTS).tolist() == LATENTS[:, 1:].tolist()
    assert torch.equal(placed().own(LATENTS), LATENTS)
