"""A run with LTX-Video: a clip that begins with a picture, from the file to the file."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fixtures.ltx_clips import single_file
from memcard.core.progress import Notice
from memcard.errors import UsageError
from memcard.jobs._generate_plan import plan
from memcard.jobs.generate import run, save
from memcard.jobs.image_info import read_image

QUICK: dict[str, Any] = {"steps": 2, "cfg": 1.0, "seed": 5, "device": "cpu", "dtype": "F32"}


@pytest.fixture(scope="module")
def early(tmp_path_factory: Any) -> Path:
    return single_file(tmp_path_factory.mktemp("ltx") / "ltx-0.9.1.safetensors", "0.9.1")


@pytest.fixture(scope="module")
def late(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("ltx")
    return single_file(folder / "ltxv-2b-0.9.8-distilled.safetensors", "0.9.5")


@pytest.fixture
def first(tmp_path: Path) -> Path:
    path = tmp_path / "first.png"
    Image.new("RGB", (50, 100), (200, 40, 40)).save(path)
    return path


def notices(told: list[Any]) -> list[str]:
    return [one.text for one in told if isinstance(one, Notice)]


@pytest.mark.filterwarnings("ignore")
def test_a_picture_becomes_the_first_frame_of_a_clip(
    early: Path, first: Path, tmp_path: Path
) -> None:
    told: list[Any] = []

    result = run("a fox", early, image=first, frames=8, progress=told.append, **QUICK)
    other = run("a dog", early, image=first, frames=9, **QUICK)
    path = save(result, tmp_path / "fox.webp")[0]

    picture = result.pictures[0]
    assert picture.frames is not None
    assert picture.frames.shape == (9, 96, 64, 3)  # the picture's own shape, in steps of 32
    assert result.settings.frames == 9
    assert "LTX-Video makes one frame more than a multiple of 8: 9 frames, not 8." in notices(told)
    assert result.facts()["denoise"] == 0.0
    assert "Denoising strength: 0" in picture.infotext
    frames = other.pictures[0].frames
    assert frames is not None
    change = (picture.frames - frames).abs().flatten(1).mean(dim=1)
    assert change[0] < change[1:].min()  # the words change what follows
    assert read_image(path).settings["steps"] == 2


@pytest.mark.filterwarnings("ignore")
def test_it_is_made_again_from_its_own_file(early: Path, first: Path, tmp_path: Path) -> None:
    from memcard.jobs.generate_again import run_again

    result = run("a fox", early, image=first, frames=9, width=32, height=32, **QUICK)
    path = save(result, tmp_path / "fox.webp")[0]

    again = run_again(
        checkpoint=str(early), source=path, image=first, frames=9, device="cpu", dtype="F32"
    )

    ours, theirs = result.pictures[0].frames, again.pictures[0].frames
    assert ours is not None
    assert theirs is not None
    assert bool((ours == theirs).all())


@pytest.mark.filterwarnings("ignore")
def test_a_distilled_file_brings_its_settings_and_ends_at_a_picture(
    late: Path, first: Path, tmp_path: Path
) -> None:
    last = tmp_path / "last.png"
    Image.new("RGB", (64, 64), (20, 40, 200)).save(last)
    sizes: dict[str, Any] = {
        "frames": 9,
        "width": 32,
        "height": 32,
        "seed": 5,
        "device": "cpu",
        "dtype": "F32",
    }

    ends, goes = (run("a fox", late, image=first, last_image=end, **sizes) for end in (last, None))

    assert (ends.settings.steps, ends.settings.cfg) == (8, 1.0)
    assert ends.facts()["last_image"] is True
    assert "last_image" not in goes.facts()
    ours, theirs = ends.pictures[0].frames, goes.pictures[0].frames
    assert ours is not None
    assert theirs is not None
    assert not bool((ours[-1] == theirs[-1]).all())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"last_image": "x.png"}, "needs its first one"),
        ({"strength": 0.0}, "name it with --image"),
        ({"image": "x.png", "strength": -0.1}, "is not in 0..1"),
    ],
)
def test_pictures_that_make_no_sense_are_refused_before_any_file_is_read(
    said: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        run("a fox", "nowhere.safetensors", **said)


@pytest.mark.filterwarnings("ignore")
def test_what_other_families_cannot_do_is_refused(first: Path) -> None:
    with pytest.raises(UsageError, match="makes nothing that ends at a picture"):
        run("a rocket", image=first, last_image=first, **QUICK)
    with pytest.raises(UsageError, match="a strength of 0 leaves no step"):
        run("a rocket", image=first, strength=0.0, **QUICK)


def test_a_plan_says_what_a_distilled_file_asks_for(late: Path) -> None:
    found = plan("a fox", str(late), device="cpu", frames=24)

    assert (found.settings.steps, found.settings.cfg, found.settings.frames) == (8, 1.0, 25)
    assert any("25 frames, not 24" in note for note in found.notes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_half_precision_begins_with_a_picture_too(late: Path, first: Path, dtype: str) -> None:
    said: dict[str, Any] = {"steps": 2, "cfg": 2.0, "frames": 9, "width": 32, "height": 32}

    made = run(
        "a fox",
        late,
        image=first,
        last_image=first,
        strength=0.5,
        device="cpu",
        dtype=dtype,
        **said,
    )

    frames = made.pictures[0].frames
    assert frames is not None
    assert bool(frames.isfinite().all())
    assert float(frames.std()) > 0.05
