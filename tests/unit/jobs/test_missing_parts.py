"""A bare transformer finds its text encoders and its VAE, or says what it lacks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ml_dtypes import float8_e4m3fn

from fixtures import flow_models, small
from fixtures.diffusers_models import save
from memcard.errors import MismatchError, NotFoundError
from memcard.formats import open_file
from memcard.generation.denoise import conditions, decode, denoise
from memcard.generation.load import load
from memcard.generation.parts import Assembly, assemble
from memcard.generation.settings import resolve as choose
from memcard.jobs._missing_parts import complete
from memcard.jobs._part_sources import sources_of
from memcard.jobs.add import add
from memcard.store.layout import Layout


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Flux.1's twin, in parts under the names people have them by, and whole."""
    folder = tmp_path_factory.mktemp("flux")
    parts = flow_models.lone("flux", folder)
    names = {"transformer": "flux1-dev", "clip_l": "clip_l", "t5xxl": "t5xxl_fp16", "vae": "ae"}
    found = {
        part: save(folder / f"{name}.safetensors", parts[part]) for part, name in names.items()
    }
    return {**found, "whole": folder / "whole.safetensors"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return Layout(tmp_path / "home")


@pytest.fixture
def bare(files: dict[str, Path]) -> Iterator[Assembly]:
    checkpoint = open_file(files["transformer"])
    yield assemble(checkpoint, "flux1-dev.safetensors")
    checkpoint.close()


def picture(assembly: Assembly) -> torch.Tensor:
    from memcard.architectures import ARCHITECTURES

    pipeline = load(assembly, device="cpu", dtype="F32")
    said = {"width": 32, "height": 32, "steps": 2}
    used = choose(ARCHITECTURES[assembly.family], {}, said, {"prediction_type": "flow"})
    told = conditions(pipeline, "a cat", "", used)
    return decode(pipeline, denoise(pipeline, told, used, 1), used)


@pytest.mark.filterwarnings("ignore")
def test_parts_from_the_library_make_the_picture_of_the_whole(
    files: dict[str, Path], bare: Assembly, home: Layout
) -> None:
    add(home, [files[part] for part in ("clip_l", "t5xxl", "vae")])

    found, opened, notes = complete(bare)

    assert found.missing == ()
    assert sorted(notes) == [
        "CLIP-L from 'clip_l' of the library.",
        "T5-XXL from 't5xxl_fp16' of the library.",
        "The VAE of Flux.1, 16 channels from 'ae' of the library.",
    ]
    whole = open_file(files["whole"])
    assert torch.equal(picture(found), picture(assemble(whole, "whole")))
    for checkpoint in (*opened, whole):
        checkpoint.close()


def test_a_whole_checkpoint_of_the_library_gives_what_it_has(
    files: dict[str, Path], bare: Assembly, home: Layout
) -> None:
    add(home, [files["whole"]], name="flux-all-in-one")

    found, opened, notes = complete(bare)

    assert found.missing == ()
    assert len(opened) == 1
    assert all(note.endswith("from 'flux-all-in-one' of the library.") for note in notes)


def test_what_the_user_names_comes_first(
    files: dict[str, Path], bare: Assembly, home: Layout, tmp_path: Path
) -> None:
    add(home, [files[part] for part in ("clip_l", "t5xxl", "vae")])
    own = tmp_path / "my-clip.safetensors"
    own.write_bytes(files["clip_l"].read_bytes())

    found, _, notes = complete(bare, [own])

    assert found.parts["text_encoder"].label == "my-clip.safetensors"
    assert not any("CLIP-L" in note for note in notes)


def test_it_stands_in_for_the_one_of_the_main_file(files: dict[str, Path], home: Layout) -> None:
    whole = assemble(open_file(files["whole"]), "whole")

    found, opened, _ = complete(whole, [files["clip_l"]])

    assert found.parts["text_encoder"].label == "clip_l.safetensors"
    assert found.parts["text_encoder_2"].label == "whole"
    assert len(opened) == 1


def test_nothing_is_looked_for_where_nothing_is_missing(
    files: dict[str, Path], home: Layout
) -> None:
    whole = assemble(open_file(files["whole"]), "whole")

    assert complete(whole) == (whole, (), ())


def test_every_missing_part_is_named_with_its_file(
    files: dict[str, Path], bare: Assembly, home: Layout
) -> None:
    add(home, [files["vae"]])

    with pytest.raises(MismatchError) as raised:
        complete(bare)

    text = str(raised.value)
    assert "flux1-dev.safetensors: a part of a Flux.1 checkpoint" in text
    assert "text_encoder (CLIP-L; usually clip_l.safetensors" in text
    assert "text_encoder_2 (T5-XXL; usually t5xxl_fp16.safetensors" in text
    assert "--text-encoder" in text
    assert "vae (" not in text


def test_a_library_is_not_needed(bare: Assembly, home: Layout) -> None:
    with pytest.raises(MismatchError, match=r"ae\.safetensors .*; name it with --vae"):
        complete(bare)

    assert not home.root.exists()


def test_a_file_that_does_not_fit_is_refused(
    files: dict[str, Path], bare: Assembly, home: Layout, tmp_path: Path
) -> None:
    wide = {
        name: torch.zeros([2 * n if n == 64 else n for n in value.shape])
        for name, value in flow_models.lone("flux", tmp_path)["clip_l"].items()
    }
    path = save(tmp_path / "clip_g.safetensors", wide)

    with pytest.raises(
        MismatchError, match=r"clip_g\.safetensors: holds CLIP, 128 wide, which does"
    ):
        complete(bare, [path])
    with pytest.raises(MismatchError, match="holds no text encoder"):
        complete(bare, [files["transformer"]])
    with pytest.raises(NotFoundError):
        complete(bare, [tmp_path / "nothing.safetensors"])


def test_a_vae_that_says_it_is_of_another_family_is_not_taken(
    files: dict[str, Path], bare: Assembly, home: Layout, tmp_path: Path
) -> None:
    other = tmp_path / "sd3-vae.safetensors"
    other.write_bytes(files["vae"].read_bytes())
    add(home, [files["clip_l"], files["t5xxl"], other])

    with pytest.raises(MismatchError, match="lacks vae"):
        complete(bare)


def test_a_vae_that_does_not_say_is_taken_with_a_warning(
    files: dict[str, Path], bare: Assembly, home: Layout, tmp_path: Path
) -> None:
    other = tmp_path / "mine.safetensors"
    other.write_bytes(files["vae"].read_bytes())
    add(home, [files["clip_l"], files["t5xxl"], other])

    found, _, notes = complete(bare)

    assert found.parts["vae"].label == "mine"
    assert "if colours are wrong, name another with --vae" in notes[-1]


@pytest.mark.filterwarnings("ignore")
def test_sd3_says_that_it_goes_without_t5(tmp_path: Path, home: Layout) -> None:
    path = flow_models.files("sd3", tmp_path, "text_encoder_3")["single file"]

    found, opened, notes = complete(assemble(open_file(path), "sd3"))

    assert (found.missing, opened) == ((), ())
    assert notes == (
        "Without T5-XXL: long descriptions and lettering suffer. Name one with --text-encoder, or keep one in the library.",
    )


@pytest.mark.filterwarnings("ignore")
def test_sd3_takes_its_t5_from_the_library(tmp_path: Path, home: Layout) -> None:
    without = flow_models.files("sd3", tmp_path, "text_encoder_3")["single file"]
    t5 = save(tmp_path / "t5xxl_fp16.safetensors", flow_models.lone("sd3", tmp_path)["t5xxl"])
    add(home, [t5])
    alone, whole = (
        assemble(open_file(p), "sd3") for p in (without, tmp_path / "whole.safetensors")
    )

    found, opened, notes = complete(alone)

    assert notes == ("T5-XXL from 't5xxl_fp16' of the library.",)
    assert len(opened) == 1
    assert complete(alone, library=False)[0].parts.keys() == alone.parts.keys()
    assert torch.equal(picture(found), picture(whole))
    assert not torch.equal(picture(found), picture(alone))


@pytest.mark.filterwarnings("ignore")
def test_a_t5_of_another_width_is_left_in_the_library(
    files: dict[str, Path], tmp_path: Path, home: Layout
) -> None:
    path = flow_models.files("sd3", tmp_path, "text_encoder_3")["single file"]
    add(home, [files["t5xxl"]])

    found, opened, notes = complete(assemble(open_file(path), "sd3"))

    assert ("text_encoder_3" in found.parts, opened) == (False, ())
    assert notes[0].startswith("Without T5-XXL")


@pytest.mark.filterwarnings("ignore")
def test_scaled_fp8_is_the_picture_of_its_numbers(
    files: dict[str, Path], bare: Assembly, home: Layout, tmp_path: Path
) -> None:
    """T5 as ComfyUI packs it, against a file of the same numbers in float32."""
    packed: dict[str, Any] = {"scaled_fp8": np.zeros(0, float8_e4m3fn)}
    plain: dict[str, Any] = {}
    for name, value in small.load(files["t5xxl"]).items():
        if value.ndim == 2 and "block" in name and "bias" not in name:
            scale = np.float32(np.abs(value).max() / 400)
            packed[name] = (value / scale).astype(float8_e4m3fn)
            packed[name.replace(".weight", ".scale_weight")] = np.array([scale])
            plain[name] = packed[name].astype(np.float32) * scale
        else:
            packed[name] = plain[name] = value
    one = small.save(tmp_path / "t5xxl_fp8_e4m3fn_scaled.safetensors", packed)
    two = small.save(tmp_path / "t5xxl_numbers.safetensors", plain)

    pictures = []
    for path in (one, two):
        found, _, notes = complete(bare, [path, files["clip_l"], files["vae"]])
        assert notes == ()
        pictures.append(picture(found))

    assert torch.equal(*pictures)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux", "ltx_video"])
def test_every_family_says_where_its_encoders_come_from(family: str) -> None:
    from memcard.generation.engines import engine_of

    engine = engine_of(family)
    assert engine is not None
    wanted = {name for name in engine.components if name.startswith("text_encoder")}

    assert wanted <= set(sources_of(family))
