"""The words a family is written with: what each sees, says, and does not see."""

import pytest

from memcard.architectures._family import (
    Family,
    Variant,
    any_of,
    count,
    has,
    lacks,
    narrow,
    rank,
    said,
    width,
)
from memcard.architectures._names import Names, Root
from memcard.architectures._signs import Sign
from memcard.core.architecture import Need
from memcard.core.tensors import DTYPES, Spec


def spec(*shape: int, dtype: str = "F16") -> Spec:
    return Spec(DTYPES[dtype], shape)


TENSORS = {
    "a.weight": spec(320, 768),
    "a.bias": spec(320),
    "conv.weight": spec(320, 4, 3, 3),
    "blocks.0.w": spec(1),
    "blocks.1.w": spec(1),
    "blocks.3.w": spec(1),
    "scalar": spec(),
}
ROOT = Root("p.", TENSORS)
HOLD: list[tuple[Sign, str | None]] = [
    (has("a.weight"), "has p.a.weight"),
    (has("none", "a.bias", says="why"), "has p.a.bias: why"),
    (has("blocks."), "has p.blocks.*"),
    (has("none"), None),
    (has("block."), None),
    (lacks("none", "nothing."), ""),
    (lacks("none", says="not that"), "has no none: not that"),
    (lacks("a.weight"), None),
    (lacks("blocks."), None),
    (lacks("none", "conv."), None),
    (width("a.weight", 1, 768, says="CLIP-L"), "a.weight is 768 wide: CLIP-L"),
    (width("a.weight", 1, 1, 2, 768), "a.weight is 768 wide"),
    (width("conv.weight", 1, 4), "conv.weight takes 4 channels"),
    (width("a.weight", 0, 320), "a.weight gives 320"),
    (width("a.bias", 0, 320), "a.bias is 320 long"),
    (width("a.weight", -1, 768), "a.weight is 768 wide"),
    (width(("none", "a.weight"), 1, 768), "a.weight is 768 wide"),
    (width(("conv.weight", "a.weight"), 1, 768), None),  # the first that is there decides
    (width("a.weight", 1, 769), None),
    (width("a.bias", 1, 320), None),
    (width("scalar", 0, 1), None),
    (width("none", 0, 1), None),
    (narrow("a.weight", 1, 1024, says="twin"), "a.weight is 768 wide: twin"),
    (narrow("a.weight", 1, 768), None),
    (narrow("none", 1, 768), None),
    (narrow("scalar", 0, 768), None),
    (rank("conv.weight", 4), ""),
    (rank("conv.weight", 4, says="a kernel"), "conv.weight has 4 axes: a kernel"),
    (rank("a.weight", 4), None),
    (rank("none", 0), None),
    (count("blocks.{}.w", 3), ""),
    (count("blocks.{}.w", 3, says="deep"), "has 3 of blocks.N.w: deep"),
    (count(("none.{}", "blocks.{}.w"), 2, 3), ""),
    (count("blocks.{}.w", 2), None),
    (said("who", "me"), "metadata who says 'Not ME'"),
    (said("who", "you"), None),
    (said("what", "me"), None),
    (any_of(has("none"), has("a.bias")), "has p.a.bias"),
    (any_of(has("none"), lacks("a.bias")), None),
]


@pytest.mark.parametrize(("sign", "says"), HOLD)
def test_a_sign_tells_what_it_sees(sign: Sign, says: str | None) -> None:
    assert sign.test(ROOT, {"who": "Not ME"}) == says


def nf4(*, bias: bool) -> Root:
    tensors = {
        "w.weight": spec(768 * 320 // 2, 1, dtype="U8"),
        "w.weight.absmax": spec(99, dtype="U8"),
    }
    return Root("", {**tensors, "w.bias": spec(320)} if bias else tensors)


def test_flat_weights_are_seen_through_by_their_bias() -> None:
    assert nf4(bias=True).shape("w.weight") == (320, 768)
    assert nf4(bias=False).shape("w.weight") is None


def test_a_width_that_cannot_be_told_fits_a_family_and_no_variant() -> None:
    sign, axes = width("w.weight", 1, 768), rank("w.weight", 2)

    assert "cannot be told" in (sign.test(nf4(bias=False), {}) or "")
    assert sign.test(nf4(bias=False), {}, sure=True) is None
    assert axes.test(nf4(bias=False), {}) == ""
    assert axes.test(nf4(bias=False), {}, sure=True) is None


def test_nvfp4_is_twice_as_wide_as_its_bytes_and_int8_is_not() -> None:
    bytes_ = spec(320, 384, dtype="U8")
    four = Root("", {"w.weight": bytes_, "w.weight_scale": spec(320, 48, dtype="F8_E4M3")})
    eight = Root("", {"w.weight": bytes_, "w.weight_scale": spec(320, 1, dtype="F32")})

    assert four.shape("w.weight") == (320, 768)
    assert eight.shape("w.weight") == (320, 384)


def test_a_prefix_that_all_names_share_is_a_root() -> None:
    names = Names({"student.ema.a.weight": spec(1), "student.ema.b.weight": spec(1)})
    roots = [root.prefix for root in names.roots]

    assert "student." in roots
    assert "student.ema." in roots
    assert "" in roots
    assert "unet." not in roots


@pytest.mark.parametrize("tensors", [{}, {"a": spec()}, {"a": spec(), "b": spec()}])
def test_names_without_levels_share_none(tensors: dict[str, Spec]) -> None:
    assert Names(tensors).shared == ()


def test_indexing_twice_is_indexing_once() -> None:
    names = Names(TENSORS)

    assert Names.of(names) is names
    assert names.root("blocks.") is names.root("blocks.")
    assert dict(names.root("blocks.").specs) == {f"{n}.w": spec(1) for n in (0, 1, 3)}


TOY = Family(
    title="Toy",
    source="https://example.org",
    original=(has("in.weight"), lacks("other.")),
    diffusers=(has("x_embedder.weight"),),
    variants=(
        Variant(
            "wide",
            (width(("in.weight", "x_embedder.weight"), 1, 64),),
            prediction="v_prediction",
            also=(Need("base model", "Half a toy"),),
        ),
        Variant(
            "seeing",
            (has("eye.weight"),),
            text_encoders=(),
            image_encoder="CLIP-H vision",
            modality="video",
        ),
    ),
    text_encoders=("CLIP-L", "T5-XXL"),
    vae="Toy VAE",
    prediction="flow",
)


def test_a_family_gives_dialect_root_and_needs() -> None:
    evidence = TOY.detect({"net.in.weight": spec(3, 32)})

    assert evidence is not None
    assert (evidence.dialect, evidence.root, evidence.variant) == ("original", "net.", None)
    assert (evidence.prediction, evidence.modality, evidence.title) == ("flow", "image", "Toy")
    assert [str(need) for need in evidence.needs] == [
        *("text encoder: CLIP-L", "text encoder: T5-XXL"),
        "VAE: Toy VAE",
    ]


def test_variants_add_up_and_change_only_what_they_say() -> None:
    evidence = TOY.detect({"x_embedder.weight": spec(3, 64), "eye.weight": spec(1)})

    assert evidence is not None
    assert (evidence.dialect, evidence.variant) == ("diffusers", "wide, seeing")
    assert (evidence.prediction, evidence.modality) == ("v_prediction", "video")
    assert [str(need) for need in evidence.needs] == [
        *("image encoder: CLIP-H vision", "VAE: Toy VAE", "base model: Half a toy"),
    ]


def test_all_signs_of_a_layout_must_hold() -> None:
    assert TOY.detect({"in.weight": spec(3, 32), "other.weight": spec(1)}) is None
    assert TOY.detect({}) is None


def test_a_layout_without_signs_fits_nothing() -> None:
    family = Family(title="Nothing", source="https://example.org")

    assert family.detect(TENSORS) is None
