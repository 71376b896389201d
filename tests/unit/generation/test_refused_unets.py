"""UNets that no engine runs are named, with what they would need."""

from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.unets import ldm_unet
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import UnsupportedError
from memcard.generation.parts import assemble

PREFIX = "model.diffusion_model."


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sd2/unCLIP-H", "paints variations of a picture"),
        ("sd_x4_upscaler", "sees the small one beside the noise"),
    ],
)
def test_what_a_unet_would_need_is_said(name: str, why: str) -> None:
    specs = {
        f"{PREFIX}{key}": Spec(DTYPES["F16"], tuple(shape)) for key, shape in ldm_unet(name).items()
    }
    checkpoint: Any = SimpleNamespace(specs=specs, metadata={})

    with pytest.raises(UnsupportedError, match=rf"x: is .*cannot generate with it yet.*{why}"):
        assemble(checkpoint, "x")


def test_a_depth_model_at_full_size_is_known() -> None:
    specs = {
        f"{PREFIX}{key}": Spec(DTYPES["F16"], tuple(shape))
        for key, shape in ldm_unet("sd2/depth").items()
    }
    checkpoint: Any = SimpleNamespace(specs=specs, metadata={})

    found = assemble(checkpoint, "x")

    assert (found.identity.variant, found.prediction) == ("depth", "epsilon")
    assert found.parts["unet"].config["in_channels"] == 5
