"""LoRAs of Flux.1 and Stable Diffusion 3 on real classes with random weights: learnt, stopped, painted with."""

import copy
import dataclasses
import json
import math
import re
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file

from fixtures import flow_models
from fixtures.small import array_of
from memcard.architectures import ARCHITECTURES
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.generation.denoise import conditions, decode, denoise
from memcard.generation.load import load
from memcard.generation.parts import assemble
from memcard.generation.settings import resolve as choose_settings
from memcard.jobs._finetune_flow import FlowPainter, built, painter_of
from memcard.jobs._finetune_models import Base, read_base
from memcard.jobs._finetune_result import write_lora
from memcard.jobs.finetune import Tuned, finetune
from memcard.jobs.generate import generate
from memcard.jobs.lora import open_with_loras
from memcard.jobs.lora_convert import lora_convert
from memcard.jobs.lora_info import lora_info
from memcard.training.finetune.adapters import Adapter, choose
from memcard.training.finetune.loop import Loop
from memcard.training.finetune.model import FlowModel, Words
from memcard.training.finetune.settings import Settings
from memcard.training.noise import Flow

PROMPT = "a red thing"
SIZE = 64
NAMES = ("flux", pytest.param("sd3", marks=pytest.mark.slow))
TINY: dict[str, Any] = {
    "rank": 2, "steps": 2, "batch": 2, "width": SIZE, "height": SIZE, "prompts": (PROMPT,), "sheet_every": 0,
    "device": "cpu", "checkpointing": False, "precision": "fp32", "lr": 1e-2, "save_every": 1, "sheets": False,
}  # fmt: skip
SEEN: dict[str, Any] = {"steps": 2, "width": SIZE, "height": SIZE, "seed": 5, "device": "cpu", "dtype": "F32"}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=NAMES)
def name(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(name: str, tmp_path_factory: Any) -> Path:
    return flow_models.files(name, tmp_path_factory.mktemp(name))["single file"]


@pytest.fixture(scope="module")
def base(path: Path) -> Iterator[Base]:
    checkpoint = open_file(path)
    yield read_base(checkpoint, path.name)
    checkpoint.close()


@pytest.fixture(scope="module")
def model(base: Base) -> FlowModel:
    """Do not change it."""
    found = built(base, device="cpu", precision="fp32")
    assert isinstance(found, FlowModel)
    return found


@pytest.fixture(scope="module")
def pipe(name: str, tmp_path_factory: Any) -> Any:
    return flow_models.reference(name, tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: Any) -> Path:
    root: Path = tmp_path_factory.mktemp("data") / "pictures"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number, said in enumerate((PROMPT, "a blue thing", "a (green) thing", "word, " * 90)):
        dots = rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(dots).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text(said)
    return root


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def tuned(base: Path, data: Path, out: Path, **more: Any) -> Tuned:
    made = finetune(base, data, out, **{**TINY, **more})
    assert isinstance(made, Tuned)
    return made


@pytest.fixture(scope="module")
def learnt(path: Path, pictures: Path, tmp_path_factory: Any) -> tuple[Tuned, list[float]]:
    """A LoRA of all layers after 60 steps, and its losses."""
    folder, seen = tmp_path_factory.mktemp("learnt"), list[float]()
    made = tuned(
        path, pictures, folder / "style", rank=4, alpha=2.0, targets="all", steps=60, batch=4, lr=2e-2,
        schedule="constant", save_every=60, lora_format="both", run_dir=folder / "run", library=False,
        watch=lambda m: seen.append(m.loss),
    )  # fmt: skip
    return made, seen


def arrays(path: Path) -> dict[str, Any]:
    checkpoint = open_file(path)
    found = {name: array_of(checkpoint, name).copy() for name in checkpoint.specs}
    checkpoint.close()
    return found


def dots(image: Image.Image) -> Any:
    return np.asarray(image, np.float32) / 255


def told(pipe: Any, name: str, prompt: str) -> tuple[Any, Any]:
    """What diffusers' pipeline tells its transformer."""
    if name == "sd3":
        states, _, pooled, _ = pipe.encode_prompt(
            prompt, prompt, prompt, device="cpu", do_classifier_free_guidance=False
        )
    else:
        states, pooled, _ = pipe.encode_prompt(prompt, prompt, device="cpu")
    return states, pooled


def painted(path: Path, lora: Path) -> torch.Tensor:
    """The picture before it is rounded to 8 bits."""
    pipeline = load(assemble(open_with_loras(path, [(lora, 1.0)]), "m"), device="cpu", dtype="F32")
    engine: Any = pipeline.engine
    used = choose_settings(
        ARCHITECTURES[pipeline.architecture],
        {},
        {"steps": 2, "width": SIZE, "height": SIZE},
        {"prediction_type": "flow", **engine.usual(pipeline)},
    )
    said = conditions(pipeline, PROMPT, used.negative, used)
    return decode(pipeline, denoise(pipeline, said, used, 5), used)[0]


def painted_by_diffusers(pipe: Any, name: str, folder: Path) -> torch.Tensor:
    pipe.load_lora_weights(str(folder), weight_name="d.safetensors")
    try:
        found: torch.Tensor = pipe(
            prompt=PROMPT, height=SIZE, width=SIZE, num_inference_steps=2, output_type="pt",
            guidance_scale=4.5 if name == "sd3" else 3.5,
            generator=torch.Generator("cpu").manual_seed(5),
        ).images[0]  # fmt: skip
    finally:
        pipe.unload_lora_weights()
    return found.permute(1, 2, 0)


@pytest.mark.parametrize("prompt", [PROMPT, "a (green:1.5) thing", "word, " * 90])
def test_words_are_those_of_diffusers(model: FlowModel, pipe: Any, name: str, prompt: str) -> None:
    with torch.no_grad():
        ours = model.words([prompt])
        states, pooled = told(pipe, name, prompt)

    assert ours.pooled is not None
    assert torch.equal(ours.states, states)
    assert torch.equal(ours.pooled, pooled)


def test_the_transformer_is_asked_as_diffusers_asks_it(
    model: FlowModel, pipe: Any, name: str
) -> None:
    torch.manual_seed(0)
    noisy, times = torch.randn(2, 16, 8, 12), torch.tensor([0.25, 0.8])
    with torch.no_grad():
        states, pooled = (torch.cat([x, x]) for x in told(pipe, name, PROMPT))
        ours = model.predict(noisy, times, Words(states, pooled), [(), ()])
        more: dict[str, Any] = {"encoder_hidden_states": states, "pooled_projections": pooled}
        if name == "sd3":
            want = pipe.transformer(noisy, timestep=times * 1000, **more).sample
        else:
            said = pipe.transformer(
                pipe._pack_latents(noisy, 2, 16, 8, 12),
                timestep=times,
                guidance=torch.ones(2),  # what trainers tell dev
                txt_ids=torch.zeros(512, 3),
                img_ids=pipe._prepare_latent_image_ids(2, 4, 6, "cpu", torch.float32),
                **more,
            ).sample
            want = pipe._unpack_latents(said, 64, 96, 8)

    assert float((ours - want).abs().max()) <= 1e-5  # t * 1000 / 1000 has other last bits


def test_latents_are_shifted_and_scaled(model: FlowModel, pipe: Any) -> None:
    picture = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        mean = pipe.vae.encode(picture).latent_dist.mean
    config = pipe.vae.config

    want = (mean - config.shift_factor) * config.scaling_factor
    assert torch.allclose(model.encode(picture), want, atol=1e-6)
    assert model.encode(picture).shape == (1, 16, 8, 8)


@pytest.mark.slow
def test_the_loss_falls(learnt: tuple[Tuned, list[float]]) -> None:
    made, seen = learnt

    assert len(seen) == made.steps == 60
    assert sum(seen[-20:]) < 0.9 * sum(seen[:20])


def test_a_lora_that_learnt_nothing_changes_nothing(base: Base, path: Path, tmp_path: Path) -> None:
    learning = built(base, device="cpu", precision="fp32")
    painter = painter_of(base, learning, (SIZE, SIZE), "fp32")
    painter.settings = dataclasses.replace(painter.settings, steps=2)
    before = painter.paint([PROMPT], 5)[0]
    settings = Settings(steps=1, lr=1e-3, rank=2, alpha=2.0)
    learnt = choose(learning, adapter=Adapter(2, 2.0), text_encoder=False, checkpointing=False)
    after = painter.paint([PROMPT], 5)[0]
    files, _ = write_lora(path, learnt, settings, tmp_path / "nothing.safetensors", {})

    plain = generate(PROMPT, path, **SEEN)[0]
    with_it = generate(PROMPT, path, [(files[0], 1.0)], **SEEN)[0]

    assert isinstance(painter, FlowPainter)
    assert (dots(before) == dots(after)).all()
    assert (dots(before) == dots(plain)).all()  # the sheet shows what generate paints
    assert (dots(plain) == dots(with_it)).all()


@pytest.mark.slow
def test_the_result_paints_with_us_as_with_diffusers(
    path: Path, learnt: tuple[Tuned, list[float]], pipe: Any, name: str, tmp_path: Path
) -> None:
    lora = learnt[0].files[0]
    info = lora_info(lora, base=path)
    plain = generate(PROMPT, path, **SEEN)[0]
    ours = generate(PROMPT, path, [(lora, 1.0)], **SEEN)[0]
    mixed = painted(path, lora)
    lora_convert(lora, tmp_path / "d.safetensors", to="diffusers", base=path)
    theirs = painted_by_diffusers(pipe, name, tmp_path)

    assert info.dialect == "kohya"
    assert not info.unmatched
    first = {"flux": "lora_unet_double_blocks_0_", "sd3": "lora_unet_joint_blocks_0_"}[name]
    assert any(key.startswith(first) for key in arrays(lora))
    assert any("lora convert" in note for note in learnt[0].notes) == (name == "sd3")
    assert np.abs(dots(plain) - dots(ours)).max() > 0.05
    assert float((mixed - theirs).abs().max()) <= 1e-5  # factors are added there, baked in here
    assert np.abs(mixed.numpy() - dots(ours)).max() <= 0.5 / 255 + 1e-6


@pytest.mark.slow
def test_peft_reads_what_it_is_given(
    path: Path, learnt: tuple[Tuned, list[float]], pipe: Any
) -> None:
    lora, folder = learnt[0].files
    whole = PeftModel.from_pretrained(copy.deepcopy(pipe.transformer), folder).merge_and_unload()
    baked = open_with_loras(path.parent / "folder", [(lora, 1.0)])
    names = [n for n in baked.specs if n.startswith("transformer.")]
    theirs = whole.state_dict()

    assert len(names) > 50
    for key in names:
        value = torch.from_numpy(array_of(baked, key).copy())
        assert torch.allclose(theirs[key.removeprefix("transformer.")], value, atol=2e-5), key


def test_a_run_that_was_stopped_ends_in_the_same_weights_painted_or_not(
    path: Path, pictures: Path, tmp_path: Path
) -> None:
    def stop(moment: Any) -> None:
        if moment.step == 2:
            raise KeyboardInterrupt

    more: dict[str, Any] = {"steps": 3, "checkpointing": True}
    whole = tuned(path, pictures, tmp_path / "whole", **more)
    more |= {"sheets": True, "sheet_every": 2}
    with pytest.raises(KeyboardInterrupt):
        tuned(path, pictures, tmp_path / "twice", watch=stop, **more)
    seen: list[int] = []
    again = tuned(path, pictures, tmp_path / "twice", watch=lambda m: seen.append(m.step), **more)

    one, two = arrays(whole.files[0]), arrays(again.files[0])
    assert seen == [3]
    assert set(one) == set(two)
    assert all((one[key] == two[key]).all() for key in one)
    assert again.sheet is not None


def test_what_makes_no_sense_for_a_flow_is_refused_all_at_once(
    path: Path, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        tuned(path, pictures, tmp_path / "m", rank=0, min_snr=5.0, noise_offset=0.1, precision="fp16", text_encoder=True)  # fmt: skip
    with pytest.raises(UsageError, match="Leave it out"):
        tuned(path, pictures, tmp_path / "m", prediction="epsilon")

    for part in ("--lora RANK", "--min-snr", "--noise-offset", "--train-text-enc", "fp16"):
        assert part in str(caught.value)


def test_larger_pictures_are_seen_through_more_noise_where_the_base_says_so(
    model: FlowModel, name: str
) -> None:
    nothing: Any = None
    loop = Loop(model, nothing, nothing, Settings(steps=1, lr=1e-3, rank=2), nothing)
    shifts = [loop._at(torch.zeros(1, 16, side, side)).schedule for side in (32, 128)]

    assert all(isinstance(found, Flow) for found in shifts)
    want = [3.0, 3.0] if name == "sd3" else [math.exp(0.5), math.exp(1.15)]
    assert [found.shift for found in shifts if isinstance(found, Flow)] == pytest.approx(want)


@pytest.mark.slow
def test_schnell_is_told_no_guidance_and_sd3_may_lack_t5(tmp_path: Path) -> None:
    single = "single file"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with closing(open_file(flow_models.files("schnell", tmp_path / "a")[single])) as checkpoint:
        schnell = built(read_base(checkpoint, "schnell"), device="cpu", precision="fp32")
        words = schnell.words([PROMPT])
        said = schnell.predict(torch.zeros(1, 16, 8, 8), torch.tensor([0.5]), words, [()])
    bare = flow_models.files("sd3", tmp_path / "b", "text_encoder_3")[single]
    with closing(open_file(bare)) as checkpoint:
        without = built(read_base(checkpoint, "sd3"), device="cpu", precision="bf16").words(
            [PROMPT]
        )

    assert words.states.shape == (1, 256, 64)
    assert said.shape == (1, 16, 8, 8)
    assert without.states.shape == (1, 77 + 256, 128)
    assert not without.states[:, 77:].any()


@pytest.mark.slow
def test_a_bare_transformer_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    paths = flow_models.files("flux", tmp_path, "vae", "text_encoder", "text_encoder_2")
    lacks = pytest.raises(MismatchError, match="lacks vae, text_encoder, text_encoder_2")
    with closing(open_file(paths["single file"])) as checkpoint, lacks:
        read_base(checkpoint, "bare")


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_diffusers_reads_kohyas_names_of_flux_at_its_published_widths(
    targets: str, tmp_path: Path
) -> None:
    """Its converter knows these widths alone. The base is a file of zeros that takes no room."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    header, end, factors = dict[str, Any](), 0, dict[str, torch.Tensor]()
    for key, value in model.state_dict().items():
        places = [end, end := end + 2 * value.numel()]
        header[f"transformer.{key}"] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": places}  # fmt: skip
    text = json.dumps(header).encode()
    with (tmp_path / "base.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    pattern = re.compile(Adapter(4, 2.0, targets).pattern("transformer"))
    for key, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and pattern.fullmatch(key):
            factors[f"transformer.{key}.lora_A.weight"] = torch.randn(4, layer.in_features)
            factors[f"transformer.{key}.lora_B.weight"] = torch.randn(layer.out_features, 4)
    save_file(factors, tmp_path / "plain.safetensors")
    named = tmp_path / "kohya.safetensors"
    lora_convert(tmp_path / "plain.safetensors", named, to="kohya", base=tmp_path / "base.safetensors", digests=False)  # fmt: skip

    read = _convert_kohya_flux_lora_to_diffusers(dict(load_file(named)))

    def corner(found: dict[str, torch.Tensor], key: str) -> torch.Tensor:
        up = found[key.replace("lora_A", "lora_B")]
        return up[-64:].float() @ found[key][:, :64].float()

    assert set(factors) <= set(read)
    for key in (k for k in read if "lora_A" in k):
        want = corner(factors, key) if key in factors else torch.zeros(1)  # rows nobody taught
        assert torch.allclose(corner(read, key), want, atol=1e-4), key
