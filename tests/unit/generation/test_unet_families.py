"""SD 1, SD 2 and SDXL: every layout gives one picture, and it is that of a diffusers pipeline."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.diffusers_models import family, save
from memcard.architectures import ARCHITECTURES
from memcard.core.checkpoint import Checkpoint
from memcard.errors import MismatchError
from memcard.formats import open_file
from memcard.generation.denoise import conditions, decode, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.load import load
from memcard.generation.parts import assemble, parts_of, with_vae
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose
from memcard.jobs.convert import convert

PROMPT = "a photo of a cat, 35mm; très beau"
USED = {"width": 64, "height": 64, "steps": 3, "sampler": "euler", "cfg": 4.0}


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def single(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file under the names of its authors."""
    root: Path = tmp_path_factory.mktemp(name)
    save(root / "d.safetensors", {k: v / 4 for k, v in family(name)[1].items()})
    convert(root / "d.safetensors", root / f"{name}.safetensors", dialect="ldm")
    return root / f"{name}.safetensors"


@pytest.fixture(scope="module")
def folder(single: Path) -> Path:
    """The same as a diffusers folder."""
    convert(single, f"{single.parent / 'folder'}/")
    return single.parent / "folder"


@pytest.fixture(scope="module")
def pipeline(single: Path) -> Iterator[Pipeline]:
    with closing(open_file(single)) as checkpoint:
        yield load(assemble(checkpoint, single.name), device="cpu", dtype="F32")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    import warnings

    from diffusers import DiffusionPipeline, EulerDiscreteScheduler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        found.scheduler = EulerDiscreteScheduler.from_config(found.scheduler.config)
    found.set_progress_bar_config(disable=True)
    for module in found.components.values():
        if isinstance(module, torch.nn.Module):
            for weight in module.parameters():  # out of the file, where they lie as they happen to
                weight.data = weight.data.clone()
    return found


def settings(pipeline: Pipeline, **said: Any) -> Settings:
    usual = {"prediction_type": pipeline.prediction}
    return choose(ARCHITECTURES[pipeline.architecture], {}, {**USED, **said}, usual)


def paint(pipeline: Pipeline, **said: Any) -> Tensor:
    used = settings(pipeline, **said)
    told = conditions(pipeline, PROMPT, used.negative, used)
    return decode(pipeline, denoise(pipeline, told, used, 5), used)[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said",
    [{}, {"negative": "blurry"}, {"clip_skip": 2}, {"cfg": 1.0}, {"cfg_rescale": 0.7}],
    ids=lambda said: " ".join(said) or "plain",
)
def test_the_bits_are_those_of_a_diffusers_pipeline(
    pipeline: Pipeline, theirs: Any, name: str, said: dict[str, Any]
) -> None:
    used = settings(pipeline, **said)
    # SDXL's pipeline tells no prompt from an empty one
    negative = (used.negative or None) if name == "sdxl" else used.negative
    words = {"prompt": PROMPT, "negative_prompt": negative}
    if used.clip_skip > 1:  # diffusers 0.42 looks for a level that transformers 5.6 dropped
        words = skipped(theirs, used.clip_skip, xl=name == "sdxl")

    mine = paint(pipeline, **said)
    found = theirs(
        **words,
        num_inference_steps=used.steps,
        guidance_scale=used.cfg,
        guidance_rescale=used.cfg_rescale,
        height=used.height,
        width=used.width,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="pt",
    )
    want = found.images[0].permute(1, 2, 0)

    assert torch.isfinite(mine).all()
    assert mine.std() > 0.01
    assert float((mine - want).abs().max()) == 0.0


def skipped(theirs: Any, skip: int, *, xl: bool) -> dict[str, Any]:
    """The words of an earlier layer, by hand."""
    states: dict[str, list[Tensor]] = {PROMPT: [], "": []}
    pooled = {}
    encoders = [(theirs.tokenizer, theirs.text_encoder)]
    encoders += [(theirs.tokenizer_2, theirs.text_encoder_2)] if xl else []
    for text, rows in states.items():
        for tokenizer, encoder in encoders:
            ids = tokenizer(
                text, padding="max_length", max_length=77, return_tensors="pt"
            ).input_ids
            with torch.no_grad():
                out = encoder(ids, output_hidden_states=True)
                layer = out.hidden_states[-skip - xl]
                rows.append(layer if xl else encoder.final_layer_norm(layer))
            pooled[text] = out[0]
    wanted, unwanted = (torch.cat(rows, dim=-1) for rows in states.values())
    if not xl:
        return {"prompt_embeds": wanted, "negative_prompt_embeds": unwanted}
    return {
        "prompt_embeds": wanted,
        "pooled_prompt_embeds": pooled[PROMPT],
        "negative_prompt_embeds": torch.zeros_like(wanted),
        "negative_pooled_prompt_embeds": torch.zeros_like(pooled[PROMPT]),
    }


def test_file_folder_and_ckpt_give_one_picture(
    pipeline: Pipeline, single: Path, folder: Path, tmp_path: Path
) -> None:
    convert(single, tmp_path / "x.ckpt")
    want = paint(pipeline)

    for path in (folder, tmp_path / "x.ckpt"):
        with closing(open_file(path)) as checkpoint:
            assembly = assemble(checkpoint, path.name)
            assert assembly.family == pipeline.architecture
            assert torch.equal(paint(load(assembly, device="cpu", dtype="F32")), want)


def test_another_layer_of_clip_and_less_contrast_are_seen(pipeline: Pipeline) -> None:
    want = paint(pipeline)

    assert not torch.equal(paint(pipeline, clip_skip=2), want)
    assert not torch.equal(paint(pipeline, cfg_rescale=0.9), want)


def part_of(name: str, part: str) -> dict[str, Tensor]:
    start = f"{part}."
    return {k: v / 4 for k, v in family(name)[1].items() if k.startswith(start)}


def test_what_lacks_is_named_with_where_it_may_come_from(name: str, tmp_path: Path) -> None:
    save(tmp_path / "bare.safetensors", part_of(name, "unet"))

    with closing(open_file(tmp_path / "bare.safetensors")) as checkpoint:
        assembly = assemble(checkpoint, "bare.safetensors")

        assert set(assembly.missing) == set(assembly.engine.components) - {"unet"}
        with pytest.raises(
            MismatchError, match=r"lacks .*text_encoder.*vae.*--vae.*--text-encoder"
        ):
            load(assembly, device="cpu")


def test_parts_may_come_from_other_files(pipeline: Pipeline, name: str, tmp_path: Path) -> None:
    for part in pipeline.engine.components:
        save(tmp_path / f"{part}.safetensors", part_of(name, part))
    opened: dict[str, Checkpoint] = {
        part: open_file(tmp_path / f"{part}.safetensors") for part in pipeline.engine.components
    }

    assembly = assemble(opened["unet"], "unet")
    for part, checkpoint in opened.items():
        assembly = assembly.with_parts(parts_of(checkpoint, assembly.family, part).values())

    assert torch.equal(paint(load(assembly, device="cpu", dtype="F32")), paint(pipeline))
    for checkpoint in opened.values():
        checkpoint.close()


def test_another_vae_is_used(pipeline: Pipeline, single: Path, tmp_path: Path) -> None:
    convert(single, tmp_path / "half.safetensors", only="vae", dtype="F16")
    with (
        closing(open_file(single)) as checkpoint,
        closing(open_file(tmp_path / "half.safetensors")) as vae,
    ):
        changed = load(with_vae(assemble(checkpoint, "x"), vae, "half"), device="cpu", dtype="F32")
        difference = (paint(changed) - paint(pipeline)).abs().max()

    assert 0 < float(difference) < 0.1
