from collections.abc import Callable

import pytest
import torch

from memcard.errors import UsageError
from memcard.training.finetune.adapters import Adapter, choose, count, factors
from memcard.training.finetune.model import Model

Make = Callable[..., Model]


def test_a_whole_network_learns_and_the_rest_is_frozen(make_model: Make) -> None:
    model = make_model()
    learnt = choose(model, adapter=None, text_encoder=False, checkpointing=False)

    assert count(learnt) == sum(p.numel() for p in model.unet.parameters())
    assert dict(learnt.named_parameters())["unet.conv_in.weight"] is model.unet.conv_in.weight
    assert not any(p.requires_grad for p in model.texts[0].module.parameters())


def test_a_fresh_adapter_changes_nothing(make_model: Make) -> None:
    model = make_model()
    model.unet.eval()
    words = model.words(["a"])
    noisy, times = torch.randn(1, 4, 8, 8), torch.tensor([5])
    before = model.predict(noisy, times, words, [])

    choose(model, adapter=Adapter(4, 4.0), text_encoder=False, checkpointing=False)
    model.unet.eval()

    assert torch.equal(model.predict(noisy, times, words, []), before)


@pytest.mark.parametrize(
    ("targets", "has", "lacks"),
    [
        ("attention", "attn1.to_q", "conv1"),
        ("all", "resnets.0.conv1", "conv_in"),
        (r".*mid_block.*to_v", "mid_block", "up_blocks"),
    ],
)
def test_targets_say_which_layers_learn(
    make_model: Make, targets: str, has: str, lacks: str
) -> None:
    learnt = choose(
        make_model(), adapter=Adapter(2, 2.0, targets), text_encoder=False, checkpointing=False
    )
    layers = list(factors(learnt))

    assert any(has in layer for layer in layers)
    assert not any(lacks in layer for layer in layers)
    assert all(layer.startswith("unet.") for layer in layers)


def test_factors_are_those_of_every_layer_with_dora_also_lengths(make_model: Make) -> None:
    model = make_model()
    learnt = choose(
        model, adapter=Adapter(2, 2.0, dora=True), text_encoder=True, checkpointing=False
    )
    found = factors(learnt)
    q = found["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]

    assert {name: tuple(t.shape) for name, t in q.items()} == {
        "A": (2, 16), "B": (16, 2), "magnitude_vector": (16,),
    }  # fmt: skip
    assert any(layer.startswith("text_encoder.encoder.layers.0.self_attn") for layer in found)
    assert sum(t.numel() for parts in found.values() for t in parts.values()) == count(learnt)


def test_what_learns_is_wide_whatever_the_base_is_held_in(make_model: Make) -> None:
    model = make_model()
    model.unet.bfloat16()
    learnt = choose(model, adapter=Adapter(2, 2.0), text_encoder=False, checkpointing=True)

    assert {p.dtype for p in learnt.parameters()} == {torch.float32}
    assert model.unet.conv_in.weight.dtype == torch.bfloat16
    assert model.unet.is_gradient_checkpointing


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        ({"rank": 0, "alpha": 1.0}, "rank 0"),
        ({"rank": 4, "alpha": 0.0}, "alpha 0"),
        ({"rank": 4, "alpha": 1.0, "targets": "("}, "regular expression"),
        ({"rank": 4, "alpha": 1.0, "targets": "nothing"}, "fit none of the"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(
    make_model: Make, adapter: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        choose(make_model(), adapter=Adapter(**adapter), text_encoder=False, checkpointing=False)  # type: ignore[arg-type]


def test_first_values_depend_on_the_seed_and_touch_no_other_randomness(make_model: Make) -> None:
    def first(seed: int) -> torch.Tensor:
        model = make_model()
        before = torch.get_rng_state()
        learnt = choose(
            model, adapter=Adapter(2, 2.0), text_encoder=False, checkpointing=False, seed=seed
        )
        assert torch.equal(torch.get_rng_state(), before)
        return next(iter(factors(learnt).values()))["A"]

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
