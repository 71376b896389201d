"""ControlNets, refiners and larger canvases, as ``run`` and the command line take them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fixtures.diffusers_models import family, save
from memcard.cli._types import Control
from memcard.cli.main import main
from memcard.errors import MismatchError, UsageError
from memcard.jobs._generate_control import Steer, steers
from memcard.jobs._generate_models import Models
from memcard.jobs._generate_refine import Refine, refine
from memcard.jobs._given_pictures import check_sides, outpainted
from memcard.jobs.generate import run
from memcard.jobs.generate_again import run_again

QUICK: dict[str, Any] = {"steps": 3, "seed": 5, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from diffusers import ControlNetModel

    root: Path = tmp_path_factory.mktemp("beside")
    found = {}
    for name in ("sd1", "sdxl", "sdxl_refiner"):
        tensors = {k: v / 4 for k, v in family(name)[1].items()}
        found[name] = save(root / f"{name}.safetensors", tensors)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = ControlNetModel.from_unet(family("sd1")[0]["unet"])
    state = {k: torch.randn(v.shape) / 30 for k, v in net.state_dict().items()}
    found["net"] = save(root / "canny.safetensors", state)
    source = np.random.default_rng(1)
    for name, size in (("photo", (40, 64)), ("edges", (64, 64))):
        found[name] = root / f"{name}.png"
        pixels = source.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(found[name])
    return found


def pixels(result: Any) -> Any:
    return np.asarray(result.pictures[0].image)


def test_a_controlnet_steers_and_the_picture_says_so(files: dict[str, Path]) -> None:
    with_models = Models()
    given: dict[str, Any] = {"checkpoint": files["sd1"], "models": with_models, **QUICK}
    steered = run(
        "a cat", controls=[(files["net"], 0.8, 0.0, 0.7)], control_images=[files["edges"]], **given
    )
    free = run("a cat", **given)
    none = run("a cat", controls=[(files["net"], 0.0)], control_images=[files["edges"]], **given)
    with_models.close()

    assert not np.array_equal(pixels(steered), pixels(free))
    assert np.array_equal(pixels(none), pixels(free))
    (said,) = steered.to_dict()["controls"]
    assert (said["name"], said["strength"], said["end"]) == ("canny.safetensors", 0.8, 0.7)
    assert said["image"] == "edges.png"
    assert len(said["sha256"]) == 64


def test_a_controlnet_for_another_family_is_refused(files: dict[str, Path]) -> None:
    given: dict[str, Any] = {"controls": [(files["net"], 1.0)], "control_images": [files["edges"]]}

    with pytest.raises(
        MismatchError, match=r"canny.safetensors: this ControlNet is for another model"
    ):
        run("a cat", files["sdxl"], **given, **QUICK)


@pytest.mark.slow
def test_a_refiner_finishes_what_the_base_began(files: dict[str, Path]) -> None:
    alone = run("a cat", files["sdxl"], n=2, **QUICK)
    both = run("a cat", files["sdxl"], refiner=files["sdxl_refiner"], refiner_at=0.5, n=2, **QUICK)
    # one after the other, with no memory to keep the first model in
    frugal = Models(low_memory=True)
    again = run(
        "a cat",
        files["sdxl"],
        refiner=files["sdxl_refiner"],
        refiner_at=0.5,
        n=2,
        models=frugal,
        **QUICK,
    )
    frugal.close()

    assert len(both.pictures) == 2
    assert not np.array_equal(pixels(alone), pixels(both))
    assert np.array_equal(pixels(again), pixels(both))
    said = both.to_dict()["refiner"]
    assert (said["name"], said["at"]) == ("sdxl_refiner.safetensors", 0.5)


def test_a_base_and_a_refiner_have_to_be_a_pair(files: dict[str, Path]) -> None:
    with pytest.raises(
        MismatchError, match="a base and its refiner have to be Stable Diffusion XL"
    ):
        run("a cat", files["sd1"], refiner=files["sdxl_refiner"], **QUICK)


def test_a_larger_canvas_keeps_the_picture(files: dict[str, Path]) -> None:
    found = run(
        "a cat", files["sd1"], image=files["photo"], outpaint=(0, 10, 24, 0), steps=2, seed=5
    )

    made, before = pixels(found), np.asarray(Image.open(files["photo"]))
    assert made.shape == (56, 88, 3)  # 40 + 10 and 64 + 24, up to multiples of 8
    top = made.shape[0] - 40
    assert np.array_equal(made[top + 8 :, : 64 - 8], before[8:, : 64 - 8])
    assert not np.array_equal(made[top:, :64], before)  # the seam is painted anew
    assert found.to_dict()["outpaint"] == [0, 10, 24, 0]


def test_a_canvas_has_its_new_sides_in_the_mask() -> None:
    picture = torch.arange(40 * 40 * 3).reshape(40, 40, 3) / 4800
    own = torch.zeros(40, 40)
    own[20, 20] = 1

    canvas, mask = outpainted(picture, own, (64, 48), (16, 0, 8, 0))

    assert torch.equal(canvas[:40, 16:56], picture)
    assert torch.equal(canvas[47, :16], picture[39, :1].expand(16, 3))  # the nearest pixel
    assert mask[:32, 24:48].sum() == 1  # his own, and nothing else in the middle
    assert mask[20, 36] == 1
    assert bool((mask[:, :16] == 1).all())
    assert bool((mask[40:] == 1).all())
    ramp = mask[10, 16:24]
    assert bool((ramp.diff() < 0).all())  # fades into the picture
    assert 0 < float(ramp.min()) < float(ramp.max()) < 1


@pytest.mark.parametrize(
    "sides", [(0, 0, 0, 0), (1, 2, 3), (-8, 0, 0, 0), (0, 0, 0, 9999), (0.5, 1, 1, 1)]
)
def test_sides_that_are_none_are_refused(sides: Any) -> None:
    with pytest.raises(UsageError, match="say how many pixels to add left, above"):
        check_sides(sides, "photo.png")


def test_a_size_below_the_canvas_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="the size 64x64 is smaller"):
        run("a cat", files["sd1"], image=files["photo"], outpaint=(64, 0, 0, 0), **QUICK)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="name it with --image"):
        check_sides((8, 8, 8, 8), None)
    with pytest.raises(UsageError, match="1 ControlNets and 2 pictures"):
        steers([("net", 1.0)], ["a.png", "b.png"])
    with pytest.raises(UsageError, match="2 ControlNets and 0 pictures"):
        steers([("net", 1.0), ("other", 1.0)], [])
    with pytest.raises(UsageError, match="not clips"):
        steers([("net", 1.0)], ["a.png"], motion="mm.ckpt")
    with pytest.raises(UsageError, match="control strength 99"):
        steers([("net", 99.0)], ["a.png"])
    with pytest.raises(UsageError, match="name it with --refiner"):
        refine(None, 0.8)
    with pytest.raises(UsageError, match="--hires does not go with --refiner"):
        refine("r", None, hires=2.0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        refine("r", 1.0)


def test_one_picture_serves_all_controlnets_and_one_may_be_without() -> None:
    two = steers([("a", 0.5), ("b", 1.0, 0.0, 0.5)], ["p.png"])

    assert two == (Steer("a", "p.png", 0.5), Steer("b", "p.png", 1.0, 0.0, 0.5))
    assert steers([], ["p.png"]) == ()
    assert refine("r", None) == Refine("r", 0.8)
    assert refine(None, None) is None


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("canny.safetensors", ("canny.safetensors", 1.0, 0.0, 1.0)),
        ("canny:0.8", ("canny", 0.8, 0.0, 1.0)),
        ("C:/nets/canny:0.8:0-0.6", ("C:/nets/canny", 0.8, 0.0, 0.6)),
        ("canny:.2-.6", ("canny", 1.0, 0.2, 0.6)),
    ],
)
def test_the_command_line_takes_a_controlnet_apart(text: str, want: tuple[Any, ...]) -> None:
    assert Control().convert(text, None, None) == want


def test_the_command_line_knows_them(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "cat.png"
    common = ["a cat", "-c", str(files["sd1"]), "--size", "64x64", "--steps", "2", "-o", str(out)]
    net = ["--control", f"{files['net']}:0.5:0-0.9", "--control-image", str(files["edges"])]

    done = main(["generate", *common, *net])
    odd = main(["generate", *common, "--outpaint", "8,8,8,8"])

    assert done == 0
    assert out.exists()
    assert odd == UsageError.exit_code


def test_making_it_again_names_what_it_was_steered_by(
    files: dict[str, Path], tmp_path: Path
) -> None:
    from memcard.core.progress import Notice
    from memcard.jobs.generate import save as write

    given: dict[str, Any] = {"controls": [(files["net"], 0.8)], "control_images": [files["edges"]]}
    (path,) = write(run("a cat", files["sd1"], **given, **QUICK), tmp_path / "x.png")
    told: list[Any] = []

    run_again(source=path, checkpoint=str(files["sd1"]), progress=told.append)

    texts = [one.text for one in told if isinstance(one, Notice)]
    assert any("canny.safetensors" in text and "--control" in text for text in texts), texts


def test_a_grey_picture_of_sixteen_bits_keeps_its_values(tmp_path: Path) -> None:
    from memcard.jobs._given_pictures import fitted

    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "depth.png")

    found = fitted(tmp_path / "depth.png", (2, 2), "RGB")

    assert (found[..., 0] * 255).round().tolist() == [[0.0, 100.0], [200.0, 255.0]]


def test_a_picture_says_how_far_another_one_was_followed(
    files: dict[str, Path], tmp_path: Path
) -> None:
    from memcard.jobs.generate import save as write
    from memcard.jobs.image_info import read_image, request_of

    tensors = {k: v / 4 for k, v in family("sd1")[1].items()}
    first = tensors["unet.conv_in.weight"]
    tensors["unet.conv_in.weight"] = torch.cat([first, first / 9], dim=1)
    model = save(tmp_path / "pix2pix.safetensors", tensors)

    found = run("winter", model, image=files["photo"], image_cfg=1.25, steps=2, seed=5)
    (path,) = write(found, tmp_path / "x.png")
    info = read_image(path)

    assert "Image CFG scale: 1.25" in found.pictures[0].infotext
    assert info.notes == ()  # every setting of ours can be read
    assert request_of(info, given=("checkpoint",)).arguments["image_cfg"] == 1.25
    assert found.settings.cfg == 7.5
    with pytest.raises(UsageError, match="no use for --hires"):
        run("winter", model, image=files["photo"], hires=2.0, steps=2, seed=5)


def test_a_dry_run_names_what_stands_beside_the_checkpoint(files: dict[str, Path]) -> None:
    from memcard.jobs._generate_plan import plan

    given: dict[str, Any] = {"controls": [(files["net"], 0.8)], "control_images": [files["edges"]]}
    steered = plan("a cat", files["sd1"], **given)
    finished = plan("a cat", files["sdxl"], refiner=files["sdxl_refiner"], refiner_at=0.7)

    assert steered.controls == ("canny.safetensors",)
    assert any(part.file == "canny.safetensors" for part in steered.parts)
    assert any(
        "sdxl_refiner.safetensors takes the pictures over at 0.7" in n for n in finished.notes
    )
