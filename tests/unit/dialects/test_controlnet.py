"""ControlNets at full size: their outline is read back from shapes, and both layouts have the same tensors."""

from typing import Any

import pytest
import torch

from memcard.architectures import identify
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.dialects import _controlnet
from memcard.dialects._dialect import read
from memcard.errors import MismatchError

XL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SMALL = {  # controlnet-canny-sdxl-1.0-small: no attention at all
    **XL,
    "down_block_types": ["DownBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [1, 1, 1],
}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd1": ("sd1", {"attention_head_dim": 8, "cross_attention_dim": 768}),
    "sd2": (
        "sd2",
        {
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
        },
    ),
    "sdxl": ("sdxl", XL),
    "sdxl small": ("", SMALL),
}


def specs(name: str) -> Specs:
    return {
        key: Spec(DTYPES["F16"], tuple(value.shape))
        for key, value in made(NETS[name][1]).state_dict().items()
    }


def made(config: dict[str, Any]) -> Any:
    from diffusers import ControlNetModel

    with torch.device("meta"):
        return ControlNetModel(**config)


@pytest.fixture(scope="module", params=NETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_outline_is_read_back(name: str) -> None:
    family, wanted = NETS[name]
    own = ("attention_head_dim", "cross_attention_dim", "use_linear_projection")
    unet = {key: wanted[key] for key in own if key in wanted}
    shapes = specs(name)

    found = _controlnet.config(shapes, {**unet, "addition_time_embed_dim": 256}, "net")
    again = made(found).state_dict()

    assert {key: tuple(value.shape) for key, value in again.items()} == {
        key: spec.shape for key, spec in shapes.items()
    }
    assert all(found.get(key, value) == value for key, value in wanted.items())
    if family:
        identity = identify(shapes, {})
        assert (identity.kind, identity.architecture) == ("controlnet", family)


def test_both_layouts_have_the_same_tensors(name: str) -> None:
    shapes = specs(name)

    there = read(_controlnet.DIALECT, shapes, "ldm")
    original = {key: one.spec for key, one in there.arrangements.items()}
    back = read(_controlnet.DIALECT, original, "diffusers")

    assert not there.faults
    assert not back.faults
    assert {key: one.spec for key, one in back.arrangements.items()} == shapes
    assert {"input_hint_block.14.bias", "zero_convs.0.0.weight", "middle_block_out.0.bias"} <= set(
        original
    )
    assert original.keys().isdisjoint(shapes)


def test_an_outline_with_holes_is_refused() -> None:
    shapes = dict(specs("sd1"))
    del shapes["controlnet_cond_embedding.blocks.3.weight"]

    with pytest.raises(MismatchError, match=r"net: this ControlNet lacks .*blocks\.3\.weight"):
        _controlnet.config(shapes, {}, "net")
