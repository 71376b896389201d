"""What the pictures a user gives are to a model: Flux.1's tools, by path and option."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from fixtures import flow_models
from memcard.errors import UnsupportedError, UsageError
from memcard.formats import open_file
from memcard.generation.canny import canny
from memcard.generation.engines import _flux
from memcard.jobs._finetune_models import read_base
from memcard.jobs._generate_given import given
from memcard.jobs._generate_plan import plan
from memcard.jobs._given_pictures import fitted, size_of
from memcard.jobs.generate import run

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def fill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flow_models.files("fill", tmp_path_factory.mktemp("fill"))["single file"]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flow_models.files("control", tmp_path_factory.mktemp("control"))["single file"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = Image.new("RGB", (64, 48), "skyblue")
    ImageDraw.Draw(image).ellipse((10, 10, 40, 40), fill="red")
    image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    image = Image.new("L", (64, 48), 0)
    ImageDraw.Draw(image).rectangle((32, 0, 64, 48), fill=255)
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_fill_paints_its_part_anew_and_keeps_the_rest(fill: Path, photo: Path, mask: Path) -> None:
    result = run("snow", fill, image=photo, mask=mask, steps=2, seed=1)

    image = result.pictures[0].image
    assert image.size == (64, 48)
    assert image.crop((0, 0, 32, 48)).tobytes() == Image.open(photo).crop((0, 0, 32, 48)).tobytes()
    assert image.tobytes() != Image.open(photo).tobytes()
    assert result.facts()["denoise"] == 1.0  # all of it, as Fill was trained
    assert (result.settings.guidance, result.settings.origin["guidance"]) == (30.0, "family")


def test_a_strength_that_is_said_counts(fill: Path, photo: Path, mask: Path) -> None:
    result = run("snow", fill, image=photo, mask=mask, strength=0.5, steps=2, seed=1)

    assert result.facts()["denoise"] == 0.5


def test_what_is_lacking_is_said_before_anything_is_painted(fill: Path, photo: Path) -> None:
    for way in (run, plan):
        with pytest.raises(UsageError, match=r"Flux\.1 Fill.*--mask"):
            way("snow", fill, image=photo, steps=10**3)


def test_a_drawing_is_followed(control: Path, photo: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "black").save(tmp_path / "black.png")
    asked: dict[str, Any] = {"steps": 1, "seed": 1, "width": 64, "height": 48}

    made = [
        run("snow", control, control_images=[drawing], **asked).pictures[0].image.tobytes()
        for drawing in (photo, tmp_path / "black.png")
    ]

    assert made[0] != made[1]


def test_the_edges_of_a_photo_are_followed(control: Path, photo: Path, tmp_path: Path) -> None:
    edges = canny(fitted(photo, (64, 48), "RGB"))
    Image.fromarray((edges * 255).byte().numpy()).save(tmp_path / "edges.png")
    asked: dict[str, Any] = {"steps": 1, "seed": 1, "width": 64, "height": 48}

    by_us = run("snow", control, control_images=[photo], canny=True, **asked)
    by_hand = run("snow", control, control_images=[tmp_path / "edges.png"], **asked)

    assert by_us.pictures[0].image.tobytes() == by_hand.pictures[0].image.tobytes()
    assert (by_us.facts()["drawing"], by_us.facts()["canny"]) == ("photo.png", True)
    with pytest.raises(UsageError, match="--control-image"):
        run("snow", control, canny=True, **asked)


@pytest.mark.parametrize(
    ("drawn", "size"),
    [((1500, 1000), (1248, 832)), ((600, 600), (1024, 1024)), ((100, 9000), (112, 9712))],
)
def test_none_of_a_drawing_is_cut(
    drawn: tuple[int, int], size: tuple[int, int], control: Path, tmp_path: Path
) -> None:
    Image.new("L", drawn).save(tmp_path / "drawing.png")

    found = plan("snow", control, control_images=[tmp_path / "drawing.png"])
    said = plan("snow", control, control_images=[tmp_path / "drawing.png"], width=64, height=64)

    assert (found.settings.width, found.settings.height) == size  # as many pixels as are usual
    assert (said.settings.width, said.settings.height) == (64, 64)


def test_kontext_looks_at_a_picture_in_a_size_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = flow_models.files("flux", tmp_path_factory.mktemp("kontext"))["single file"]
    named = single.rename(single.with_name("my-kontext.safetensors"))
    # The real ones have a million pixels; ``test_flux_pictures`` holds them against diffusers'.
    monkeypatch.setattr(_flux, "_KONTEXT_SIZES", ((32, 64), (96, 80)))
    asked: dict[str, Any] = {"image": photo, "steps": 1, "seed": 1}

    found = run("snow", named, **asked)
    plain = run("snow", named, edit=False, **asked)
    small = run("snow", named, width=32, height=32, **asked)

    sizes = [result.pictures[0].image.size for result in (found, plain, small)]
    assert sizes == [(96, 80), (64, 48), (32, 32)]
    assert [r.facts()["denoise"] for r in (found, plain, small)] == [1.0, 0.75, 1.0]
    assert found.to_dict()["settings"]["edit"] is True
    with pytest.raises(UsageError, match="--no-edit"):
        run("snow", named, strength=0.5, **asked)


def test_the_size_of_a_photo_that_was_taken_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 480)).save(tmp_path / "upright.jpg", exif=exif)

    assert size_of(tmp_path / "upright.jpg", 8) == (480, 640)


def test_only_models_that_can_are_told_to_edit(photo: Path) -> None:
    with pytest.raises(UsageError, match="Leave --edit out"):
        run("snow", image=photo, edit=True)
    with pytest.raises(UsageError, match="true or false"):
        run("snow", image=photo, edit="yes")


def test_what_is_none_is_not_given() -> None:
    assert given(image="a.png", mask=None, strength=0.0) == {"image", "strength"}


@pytest.mark.parametrize("name", ["fill", "control"])
def test_what_runs_is_not_thereby_trained(name: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(UnsupportedError, match=r"is Flux\.1, .* can fine-tune"):
        read_base(open_file(request.getfixturevalue(name)), "a.safetensors")
