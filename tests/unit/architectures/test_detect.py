"""What is taken for which family: decided from names and shapes, with reasons."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fixtures.sd15 import FULL, TINY, Size, shapes, write_safetensors
from memcard.architectures import candidates, detect
from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.core.views import View
from memcard.errors import UnsupportedError
from memcard.formats import open_file
from memcard.generation.parts import assemble
from memcard.jobs.resolve import names, resolve


class Renamed(View):
    """A checkpoint that claims other shapes."""

    def __init__(self, inner: Checkpoint, claimed: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(inner)
        self.claimed = specs_of(claimed)

    @property
    def specs(self) -> Specs:
        return self.claimed


Shapes = Mapping[str, tuple[int, ...]]
UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model."


def specs_of(found: Shapes) -> Specs:
    return {name: Spec(DTYPES["F16"], shape) for name, shape in found.items()}


def only(*starts: str) -> Shapes:
    return {name: shape for name, shape in shapes(TINY).items() if name.startswith(starts)}


def changed(rule: Callable[[str, tuple[int, ...]], tuple[int, ...]], size: Size = FULL) -> Shapes:
    return {name: rule(name, shape) for name, shape in shapes(size).items()}


def wider_text(width: int) -> Shapes:
    keys = ("attn2.to_k.weight", "attn2.to_v.weight")
    return changed(lambda name, shape: (shape[0], width) if name.endswith(keys) else shape)


def inpainting() -> Shapes:
    first = f"{UNET}input_blocks.0.0.weight"
    return changed(lambda name, shape: (shape[0], 9, 3, 3) if name == first else shape)


def linear_projections() -> Shapes:
    return changed(
        lambda name, shape: shape[:2] if name.endswith(("proj_in.weight", "proj_out.weight"))
        and name.startswith(UNET) else shape
    )  # fmt: skip


def test_the_fixture_has_the_names_of_the_real_file() -> None:
    full, tiny = shapes(FULL), shapes(TINY)

    assert (len(full), len(tiny)) == (1130, 1124)
    assert sum(name.startswith(UNET) for name in full) == 686
    assert sum(name.startswith(VAE) for name in full) == 248
    assert sum(name.startswith(TEXT) for name in full) == 196
    assert {name.split(".")[-2] for name in full.keys() - tiny.keys()} == {
        "nin_shortcut",
        "skip_connection",
    }
    parameters = sum(spec.elements for spec in specs_of(full).values())
    assert parameters == 859_520_964 + 83_653_863 + 123_060_480  # as the papers' models count


def test_the_twin_is_sd1_and_says_why(twin: Checkpoint) -> None:
    found = detect(twin.specs)

    assert found is not None
    name, evidence = found
    assert name == "sd1"
    assert evidence.components == ("unet", "vae", "text_encoder")
    assert "attn2.to_k.weight is 32 wide: a narrow twin" in " ".join(evidence.reasons)
    assert "12 layers" in " ".join(evidence.reasons)


def test_the_full_size_is_sd1_with_clip_l() -> None:
    found = detect(specs_of(shapes(FULL)))

    assert found is not None
    assert found[0] == "sd1"
    assert any("attn2.to_k.weight is 768 wide: CLIP-L" in r for r in found[1].reasons)


def test_what_training_leaves_in_a_file_does_not_matter() -> None:
    extra = {
        f"{TEXT}transformer.text_model.embeddings.position_ids": (1, 77),
        "betas": (1000,),
        "model_ema.decay": (),
        "model_ema.diffusion_modelinput_blocks00weight": (32, 4, 3, 3),
    }
    found = detect(specs_of({**extra, **shapes(TINY)}))

    assert found is not None
    assert found[0] == "sd1"


@pytest.mark.parametrize("name", [n for n in names() if "/lora_" not in n and "/vae_" not in n])
def test_every_whole_file_of_the_starter_is_the_starter(name: str) -> None:
    checkpoint = resolve(name)
    found = detect(checkpoint.specs)
    checkpoint.close()

    assert found is not None
    assert found[0] == "starter"
    assert found[1].components == ("unet", "vae", "text_encoder")


@pytest.mark.parametrize("prefix", [UNET, "diffusion_model.", ""])
def test_a_unet_alone_is_known_but_not_taken_for_a_whole(prefix: str) -> None:
    bare = {prefix + name.removeprefix(UNET): shape for name, shape in only(UNET).items()}
    found = detect(specs_of(bare))

    assert found is not None
    assert found[0] == "sd1"
    assert found[1].components == ("unet",)


LORA = {
    f"lora_unet_{block}_attn1_to_q.{part}": shape
    for block in ("down_blocks_0_attentions_0", "mid_block_attentions_0")
    for part, shape in {"alpha": (), "lora_down.weight": (4, 32), "lora_up.weight": (32, 4)}.items()
}
OTHERS: dict[str, Shapes] = {
    "a VAE": only(VAE),
    "a bare VAE": {n.removeprefix(VAE): s for n, s in only(VAE).items()},
    "a text encoder": only(TEXT),
    "a LoRA": LORA,
    "random tensors": {"a.weight": (3, 4), "out.weight": (2,), "conv.0.bias": (7,)},
    "nothing": {},
    "label_emb as in SDXL": {**shapes(FULL), f"{UNET}label_emb.0.0.weight": (1280, 2816)},
    "SDXL's text width": wider_text(2048),
    "SD 2's text width": wider_text(1024),
    "SD 2's linear projections": linear_projections(),
    "half a UNet": {n: s for n, s in shapes(TINY).items() if "output_blocks.5" not in n},
    "no middle": {n: s for n, s in shapes(TINY).items() if "input_blocks.4.0" not in n},
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_no_sd1_is_not_called_one(other: str) -> None:
    assert dict(candidates(specs_of(OTHERS[other]))) == {}
    assert detect(specs_of(OTHERS[other])) is None


def test_inpainting_is_known_for_what_it_is() -> None:
    found = detect(specs_of(inpainting()))

    assert found is not None
    assert (found[0], found[1].variant) == ("sd1", "inpainting")


def test_a_kind_that_is_not_run_is_named(tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "sd1.safetensors")
    fuser = f"{UNET}input_blocks.1.1.transformer_blocks.0.fuser.linear.weight"
    shown = {**shapes(FULL), fuser: (320, 768)}

    with pytest.raises(UnsupportedError, match=r"Stable Diffusion 1\.x, GLIGEN"):
        assemble(Renamed(open_file(file), shown), "my.safetensors")


def test_the_files_of_the_starter_that_are_no_whole_are_nobodys() -> None:
    parts = [name for name in names() if "/lora_" in name or "/vae_" in name]
    found = []
    for name in parts:
        checkpoint = resolve(name)
        found.append(detect(checkpoint.specs))
        checkpoint.close()

    assert len(parts) >= 3
    assert found == [None] * len(parts)


@pytest.mark.parametrize("shape", [(), (4,), (0, 0, 0, 0), (1, 2, 3, 4, 5)])
def test_a_file_with_absurd_shapes_is_only_not_recognised(shape: tuple[int, ...]) -> None:
    absurd = specs_of(dict.fromkeys(shapes(TINY), shape))

    assert detect(absurd) is None


def test_two_files_of_one_seed_are_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_safetensors(tmp_path / name).read_bytes() for name in ("a", "b"))
    other = write_safetensors(tmp_path / "c", seed=1).read_bytes()

    assert one == two != other
    assert len(open_file(tmp_path / "a").specs) == 1124
