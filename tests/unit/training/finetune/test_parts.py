from collections.abc import Callable

import pytest
import torch

from memcard.errors import UsageError
from memcard.training.finetune.adapters import choose
from memcard.training.finetune.model import Model
from memcard.training.finetune.settings import Settings

Make = Callable[..., Model]


def test_only_the_named_parts_learn(make_model: Make) -> None:
    model = make_model()

    learnt = choose(
        model, adapter=None, text_encoder=False, checkpointing=False, parts=r"conv_in\.|mid_block"
    )

    names = [name for name, _ in learnt.named_parameters()]
    assert {name.split(".")[1] for name in names} == {"conv_in", "mid_block"}
    assert not model.unet.conv_out.weight.requires_grad
    assert all(p.dtype == torch.float32 for p in learnt.parameters())


@pytest.mark.parametrize("odd", ["nothing_like_this", "conv_in("])
def test_parts_that_fit_nothing_are_refused(make_model: Make, odd: str) -> None:
    model = make_model()

    with pytest.raises(UsageError, match="parts"):
        choose(model, adapter=None, text_encoder=False, checkpointing=False, parts=odd)


def test_a_lora_has_targets_instead() -> None:
    with pytest.raises(UsageError, match="targets"):
        Settings(rank=4, parts="conv_in", steps=1, lr=1e-3)
