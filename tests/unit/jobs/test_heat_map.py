from __future__ import annotations

from math import nan

import pytest
from PIL.Image import Image

from memcard.core.tensors import DTYPES, Spec
from memcard.jobs._blocks import places
from memcard.jobs._differences import Change, Diff
from memcard.jobs._heat_map import _EQUAL, _HEAT, _color, _ramp, _short, heat_map
from memcard.maths.compare import Distance

UNET = "model.diffusion_model."
STILL = Distance(16, 16, aa=1.0)


def moved(relative: float) -> Distance:
    return Distance(16, 0, aa=1.0, ad=0.0, dd=relative**2, largest=relative)


def of(distances: dict[str, Distance]) -> Diff:
    spec, seats = Spec(DTYPES["F16"], (4, 4)), places(distances)
    changes = tuple(
        Change(name, name, seats[name], spec, spec, found) for name, found in distances.items()
    )
    return Diff("a/old.safetensors", "b/new.safetensors", changes, {}, {})


def colors(picture: Image) -> set[tuple[int, ...]]:
    return {color for _, color in picture.getcolors(1 << 24)}


def test_what_moved_furthest_has_the_last_color_and_what_is_equal_is_grey() -> None:
    picture = heat_map(
        of({
            f"{UNET}input_blocks.1.0.in_layers.2.weight": moved(0.5),
            f"{UNET}input_blocks.2.0.in_layers.2.weight": moved(0.01),
            f"{UNET}middle_block.0.in_layers.2.weight": STILL,
        })
    )  # fmt: skip

    assert {_HEAT[-1], _EQUAL, _ramp((0.01 / 0.5) ** 0.5)} <= colors(picture)


def test_the_picture_grows_with_the_blocks_and_components() -> None:
    one = heat_map(of({f"{UNET}double_blocks.0.img_attn.qkv.weight": moved(0.1)}))
    tall = heat_map(
        of({f"{UNET}double_blocks.{i}.img_attn.qkv.weight": moved(0.1) for i in range(57)})
    )
    wide = heat_map(
        of({
            f"{UNET}double_blocks.0.{kind}.weight": moved(0.1)
            for kind in ("attn.qkv", "mlp.0", "norm", "mod.lin", "time_in", "img_in", "attn2.q", "conv")
        }
        | {"first_stage_model.decoder.conv_in.weight": moved(0.2)})
    )  # fmt: skip

    assert tall.width == one.width
    assert tall.height - one.height == 56 * 20 * 2
    assert wide.width > one.width


def test_a_component_that_is_equal_takes_no_room() -> None:
    unet = {f"{UNET}out.2.weight": moved(0.1)}
    vae = {f"first_stage_model.decoder.up.{i}.block.0.conv1.weight": STILL for i in range(4)}

    assert heat_map(of(unet | vae)).size == heat_map(of(unet)).size


def test_names_that_are_too_long_are_shortened() -> None:
    long = "x" * 400

    assert heat_map(of({f"{long}.weight": moved(0.1)})).width < 3000


def test_what_cannot_be_measured_is_the_hottest() -> None:
    unknown = Distance(16, 0, aa=nan, ad=nan, dd=nan, largest=nan)
    from_zero = Distance(16, 0, aa=0.0, ad=0.0, dd=1.0, largest=1.0)

    assert _color(unknown, 0.5) == _color(from_zero, 0.5) == _HEAT[-1]
    heat_map(of({"a.weight": unknown, "b.weight": from_zero, "c.weight": moved(0.2)}))


@pytest.mark.parametrize(
    ("share", "color"), [(-1, _HEAT[0]), (0, _HEAT[0]), (0.5, _HEAT[4]), (1, _HEAT[-1]), (9, _HEAT[-1])]
)  # fmt: skip
def test_the_ramp_passes_through_its_colors(share: float, color: tuple[int, int, int]) -> None:
    assert _ramp(share) == color


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 %"),
        (1e-7, "<.001 %"),
        (0.00012, "0.012 %"),
        (0.0432, "4.3 %"),
        (0.4321, "43 %"),
        (1.5, "150 %"),
        (25.4, "x 25.4"),
    ],
)
def test_numbers_fit_their_cell(value: float, text: str) -> None:
    assert _short(value) == text
