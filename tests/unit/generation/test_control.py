"""What a ControlNet steers is what diffusers' pipelines make of the same weights."""

import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.diffusers_models import family, save
from memcard.architectures import ARCHITECTURES
from memcard.core.checkpoint import Checkpoint
from memcard.core.views import Rearranged
from memcard.dialects import _controlnet
from memcard.dialects._dialect import read
from memcard.errors import MismatchError, UnsupportedError, UsageError
from memcard.formats import open_file
from memcard.generation import control
from memcard.generation.cache import Cache
from memcard.generation.control import Control, steered, with_control
from memcard.generation.denoise import conditions
from memcard.generation.engine import Pipeline
from memcard.generation.load import load
from memcard.generation.parts import assemble
from memcard.generation.passes import Picture, paint
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose
from memcard.jobs.convert import convert

PROMPT = "a photo of a cat"
USED = {"width": 64, "height": 64, "steps": 4, "cfg": 4.0, "negative": "blurry", "sampler": "euler"}
PIPES = {"sd1": "StableDiffusion", "sdxl": "StableDiffusionXL"}


def controlnet(name: str, seed: int) -> Any:
    """A ControlNet for a family's UNet, with weights that say something everywhere."""
    from diffusers import ControlNetModel

    torch.manual_seed(seed)
    found = ControlNetModel.from_unet(
        family(name)[0]["unet"], conditioning_embedding_out_channels=(16, 16, 24, 32)
    )
    for value in found.parameters():
        value.data = torch.randn(value.shape) / 30
    return found.eval().requires_grad_(requires_grad=False)


def in_layout(path: Path, side: str, prefix: str) -> Path:
    """Write a file of diffusers names in another layout."""
    with closing(open_file(path)) as checkpoint:
        found = read(_controlnet.DIALECT, checkpoint.specs, side)  # type: ignore[arg-type]
        view = Rearranged(checkpoint, found.arrangements)
        made = {prefix + n: torch.frombuffer(bytearray(view.read(n)), dtype=torch.float32)
                .reshape(spec.shape) for n, spec in view.specs.items()}  # fmt: skip
    assert not found.faults
    return save(path.parent / f"{side}{len(prefix)}.safetensors", made)


@pytest.fixture(scope="module", params=["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def nets(name: str) -> list[Any]:
    return [controlnet(name, 3), controlnet(name, 4)]


@pytest.fixture(scope="module")
def files(name: str, nets: list[Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint as a diffusers folder, and both ControlNets."""
    root: Path = tmp_path_factory.mktemp(name)
    save(root / "d.safetensors", {k: v / 4 for k, v in family(name)[1].items()})
    convert(root / "d.safetensors", f"{root / 'folder'}/")
    found = {"folder": root / "folder"}
    for i, net in enumerate(nets):
        found[f"net{i}"] = save(root / f"net{i}.safetensors", net.state_dict())
    return found


@pytest.fixture(scope="module")
def opened(files: dict[str, Path]) -> Iterator[dict[str, Checkpoint]]:
    found = {key: open_file(path) for key, path in files.items()}
    yield found
    for checkpoint in found.values():
        checkpoint.close()


def loaded(opened: dict[str, Checkpoint], *names: str) -> Pipeline:
    assembly = assemble(opened["folder"], "folder")
    for one in names:
        assembly = with_control(assembly, opened[one], one)
    found = load(assembly, device="cpu", dtype="F32", encoder=True)
    for module in found.modules.values():  # aligned memory, as the reference has it
        for value in module.parameters():
            value.data = value.data.clone()
    return found


@pytest.fixture(scope="module")
def components(files: dict[str, Path]) -> dict[str, Any]:
    from diffusers import DiffusionPipeline, EulerDiscreteScheduler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = DiffusionPipeline.from_pretrained(files["folder"], local_files_only=True).components
    for module in found.values():
        if isinstance(module, torch.nn.Module):
            for weight in module.parameters():
                weight.data = weight.data.clone()
    return {**found, "scheduler": EulerDiscreteScheduler.from_config(found["scheduler"].config)}


@pytest.fixture(scope="module")
def pixels() -> list[Tensor]:
    source = torch.Generator().manual_seed(1)
    return [torch.rand(64, 64, 3, generator=source) for _ in range(3)]


def settings(pipeline: Pipeline, **said: Any) -> Settings:
    usual = {"prediction_type": pipeline.prediction}
    return choose(ARCHITECTURES[pipeline.architecture], {}, {**USED, **said}, usual)


def ours(
    pipeline: Pipeline, controls: list[Control], picture: Picture | None = None, **said: Any
) -> Tensor:
    used = settings(pipeline, **said)
    told = conditions(pipeline, PROMPT, used.negative, used)
    strength = 1.0 if picture is None else picture.strength
    pipeline, told = steered(pipeline, told, controls, used, strength=strength)
    return paint(pipeline, told, used, 5, picture=picture)[1]


def theirs(components: dict[str, Any], net: Any, kind: str, **more: Any) -> Tensor:
    import diffusers

    given = {k: v for k, v in components.items() if not k.endswith(("encoder_hid", "safety"))}
    pipe = getattr(diffusers, kind)(**given, controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    words = {"num_inference_steps": 4, "guidance_scale": 4.0, "negative_prompt": "blurry"}
    found: Tensor = pipe(
        PROMPT,
        **{**words, **more},
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
    ).images
    return found


def batch(pixels: Tensor) -> Tensor:
    return pixels.permute(2, 0, 1)[None]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("one", "cfg"), [((0.7, 0.0, 1.0), 4.0), ((1.0, 0.25, 0.75), 4.0), ((1.0, 0.0, 1.0), 1.0)]
)
def test_the_bits_are_those_of_diffusers(
    opened: Any, components: Any, nets: Any, pixels: Any, name: str, one: Any, cfg: float
) -> None:
    pipeline = loaded(opened, "net0")

    mine = ours(pipeline, [Control(pixels[0], *one)], cfg=cfg)
    want = theirs(
        *(components, nets[0], f"{PIPES[name]}ControlNetPipeline"),
        image=batch(pixels[0]),
        controlnet_conditioning_scale=one[0],
        control_guidance_start=one[1],
        control_guidance_end=one[2],
        guidance_scale=cfg,
    )
    free = ours(pipeline, [], cfg=cfg)

    assert torch.isfinite(mine).all()
    assert float((mine - free).abs().max()) > 1e-3  # it steers
    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
def test_two_of_them_add_up(
    opened: Any, components: Any, nets: Any, pixels: Any, name: str
) -> None:
    from diffusers import MultiControlNetModel

    pipeline = loaded(opened, "net0", "net1")

    mine = ours(pipeline, [Control(pixels[0], 0.8), Control(pixels[1], 0.5, 0.0, 0.5)])
    want = theirs(
        *(components, MultiControlNetModel(nets), f"{PIPES[name]}ControlNetPipeline"),
        image=[batch(pixels[0]), batch(pixels[1])],
        controlnet_conditioning_scale=[0.8, 0.5],
        control_guidance_start=[0.0, 0.0],
        control_guidance_end=[1.0, 0.5],
    )

    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
def test_out_of_a_picture_shares_are_of_the_steps_that_are_walked(
    opened: Any, components: Any, nets: Any, pixels: Any, name: str
) -> None:
    pipeline = loaded(opened, "net0")

    mine = ours(pipeline, [Control(pixels[0], 1.0, 0.0, 0.5)], Picture(pixels[2], 0.5))
    want = theirs(
        *(components, nets[0], f"{PIPES[name]}ControlNetImg2ImgPipeline"),
        image=batch(pixels[2]),
        control_image=batch(pixels[0]),
        strength=0.5,
        controlnet_conditioning_scale=1.0,
        control_guidance_end=0.5,
    )

    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_the_layout_of_their_authors_is_the_same_net(
    files: Any, nets: Any, name: str, prefix: str
) -> None:
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    from fixtures.diffusers_models import load as values

    path = in_layout(files["net0"], "ldm", prefix)
    with closing(open_file(path)) as checkpoint, closing(open_file(files["folder"])) as folder:
        state = convert_controlnet_checkpoint(dict(values(checkpoint)), nets[0].config)
        found = load(
            with_control(assemble(folder, "x"), checkpoint, "net"), device="cpu", dtype="F32"
        )
        mine = found.modules["controlnet.0"].state_dict()

        gone = mine.keys() - state.keys()  # diffusers 0.42 forgets those of SDXL

        assert mine.keys() == nets[0].state_dict().keys()
        assert all(key.startswith("add_embedding.") for key in gone)
        assert not gone or name == "sdxl"
        assert all(torch.equal(mine[n], value) for n, value in nets[0].state_dict().items())
        assert all(torch.equal(mine[n], value) for n, value in state.items())


def test_the_cache_keeps_it_with_the_rest(opened: Any) -> None:
    cache = Cache(torch.device("cpu"))
    plain = assemble(opened["folder"], "folder")
    both = with_control(plain, opened["net0"], "net")
    size = sum(spec.nbytes for spec in opened["net0"].specs.values())

    load(plain, device="cpu", dtype="F32", cache=cache)
    before = cache.read_bytes
    first = load(both, device="cpu", dtype="F32", cache=cache)
    again = load(both, device="cpu", dtype="F32", cache=cache)

    assert cache.read_bytes - before == size
    assert first.modules["controlnet.0"] is again.modules["controlnet.0"]


def test_one_for_another_family_is_refused(tmp_path: Path, opened: Any, name: str) -> None:
    other = "sdxl" if name == "sd1" else "sd1"
    path = save(tmp_path / "other.safetensors", controlnet(other, 1).state_dict())

    with (
        closing(open_file(path)) as checkpoint,
        pytest.raises(
            MismatchError, match=r"other: this ControlNet is for another model .* widths"
        ),
    ):
        with_control(assemble(opened["folder"], "x"), checkpoint, "other")


def test_what_is_none_is_named(tmp_path: Path, opened: Any, nets: Any) -> None:
    assembly = assemble(opened["folder"], "x")
    state = nets[0].state_dict()
    union = save(tmp_path / "union.safetensors", {**state, "task_embedding": torch.zeros(6, 32)})
    half = dict(list(state.items())[:-40])
    half.pop("controlnet_cond_embedding.conv_in.weight")
    broken = save(tmp_path / "half.safetensors", half)

    with pytest.raises(
        MismatchError, match=r"folder: is no ControlNet(?: but: checkpoint)?; its first"
    ):
        with_control(assembly, opened["folder"], "folder")
    with (
        closing(open_file(union)) as checkpoint,
        pytest.raises((UnsupportedError, MismatchError), match=r"'task_embedding'|union"),
    ):
        with_control(assembly, checkpoint, "union")
    with (
        closing(open_file(broken)) as checkpoint,
        pytest.raises(MismatchError, match=r"lacks controlnet_cond_embedding\.conv_in\.weight"),
    ):
        with_control(assembly, checkpoint, "half")


def test_flux_has_none_here(opened: Any) -> None:
    assembly = replace(assemble(opened["folder"], "x"), family="flux")

    with pytest.raises(MismatchError, match="ControlNets run with Stable Diffusion"):
        with_control(assembly, opened["net0"], "net")


@pytest.mark.parametrize("wrong", [(-1, 0, 1), (11, 0, 1), (1, 0.5, 0.5), (1, -0.1, 1), (1, 0, 2)])
def test_numbers_out_of_range_are_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match=r"control .* in 0\.\."):
        control.check(*wrong)
