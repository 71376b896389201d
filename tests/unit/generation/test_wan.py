"""Clips of Wan 2.1 are those of diffusers' WanPipeline, built by hand from the same weights."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fixtures import small, wan
from fixtures.diffusers_models import load as tensors_of
from fixtures.diffusers_models import save
from memcard.architectures import ARCHITECTURES
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.dialects import translate
from memcard.errors import CorruptError, MismatchError, UnsupportedError, UsageError
from memcard.formats import open_file
from memcard.generation.denoise import Start, conditions, decode, denoise
from memcard.generation.engine import LOW_MEMORY, Pipeline
from memcard.generation.engines.wan import PLUGIN, shift_of
from memcard.generation.latents import generator
from memcard.generation.load import load
from memcard.generation.lone_parts import SLOTS, encoders
from memcard.generation.parts import assemble, with_vae
from memcard.generation.preview import preview
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose
from memcard.generation.words import plain
from memcard.jobs._generate_memory import work_of
from memcard.jobs._missing_parts import complete
from memcard.jobs.add import add
from memcard.jobs.convert import convert
from memcard.jobs.generate import run
from memcard.jobs.lora import open_with_loras
from memcard.store.layout import Layout

pytest.importorskip("sentencepiece")
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = " A red fox runs over  fresh snow &amp; ice, très vite. 🦊 "
SMALL = {"width": 32, "height": 48, "frames": 9, "steps": 3}


def settings(**said: Any) -> Settings:
    return choose(ARCHITECTURES["wan21"], {}, {**SMALL, **said})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> Path:
    return wan.whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def lone(tmp_path_factory: Any) -> dict[str, Path]:
    return wan.lone(tmp_path_factory.mktemp("lone"))


def pipeline_of(path: Path, *more: Path, **said: Any) -> Pipeline:
    assembly, _, _ = complete(assemble(open_file(path), path.name), more)
    return load(assembly, **{"device": "cpu", "dtype": "F32", "encoder": True, **said})


@pytest.fixture(scope="module")
def ours(whole: Path) -> Pipeline:
    return pipeline_of(whole)


def clip(pipeline: Pipeline, used: Settings, seed: int = 5) -> tuple[Tensor, Tensor]:
    told = conditions(pipeline, PROMPT, used.negative, used)
    latents = denoise(pipeline, told, used, seed)
    return latents, decode(pipeline, latents, used)


def scheduler(name: str, shift: float = 3.0) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return UniPCMultistepScheduler(**{**wan.SCHEDULER, "flow_shift": shift})


def reference(used: Settings, output: str, seed: int = 5) -> Tensor:
    found = wan.reference(scheduler(used.sampler))(
        PROMPT,
        negative_prompt=used.negative,
        num_inference_steps=used.steps,
        guidance_scale=used.cfg,
        height=used.height,
        width=used.width,
        num_frames=used.frames,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type=output,
    ).frames
    shown: Tensor = found if output == "latent" else found[0].permute(0, 2, 3, 1)
    return shown


@pytest.mark.parametrize(
    "said",
    [
        {"negative": "worst quality, static"},
        {"sampler": "euler", "frames": 5},
        {"cfg": 1.0, "frames": 1, "steps": 4, "width": 48},
    ],
    ids=lambda said: " ".join(f"{k}={v}" for k, v in said.items()),
)
def test_the_clip_is_that_of_diffusers(said: dict[str, Any], ours: Pipeline) -> None:
    used = settings(**said)

    latents, frames = clip(ours, used)

    shown = reference(used, "pt")
    assert frames.shape == shown.shape == (used.frames, used.height, used.width, 3)
    assert latents.std() > 0.5
    assert frames.std() > 0.1
    assert float((latents - reference(used, "latent")).abs().max()) == 0.0
    assert float((frames - shown).abs().max()) == 0.0


def test_from_a_clip_it_is_that_of_diffusers(
    ours: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.pipelines.wan import pipeline_wan, pipeline_wan_video2video

    # It calls ftfy even where that is not installed; WanPipeline asks first.
    monkeypatch.setattr(pipeline_wan_video2video, "prompt_clean", pipeline_wan.prompt_clean)
    used = settings(steps=4, frames=5)
    video = torch.rand(5, 48, 32, 3, generator=generator(1))
    pipe = wan.reference(scheduler("unipc"), video=True)
    want = pipe(
        video=[Image.fromarray((f.numpy() * 255).round().astype(np.uint8)) for f in video],
        prompt=PROMPT,
        negative_prompt="",
        height=48,
        width=32,
        num_inference_steps=4,
        guidance_scale=5.0,
        strength=0.5,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
    ).frames
    told = conditions(ours, PROMPT, "", used)
    rounded = (video * 255).round() / 255
    with torch.inference_mode():
        begun = ours.engine.encode_pixels(ours, rounded, used, generator(5))

    found = denoise(ours, told, used, 5, start=lambda source: Start(begun, 0.5))

    assert float((found - want).abs().max()) == 0.0


def test_file_folder_ckpt_and_lone_parts_give_one_clip(
    ours: Pipeline, whole: Path, lone: dict[str, Path], tmp_path: Path
) -> None:
    convert(whole, f"{tmp_path / 'folder'}/")
    convert(whole, tmp_path / "x.ckpt")
    used = settings(steps=2, frames=5)
    want = clip(ours, used)[1]
    others = {
        "folder": (tmp_path / "folder",),
        "ckpt": (tmp_path / "x.ckpt",),
        "parts": (lone["transformer"], lone["text_encoder"], lone["vae"]),
        "of both": (lone["transformer"], tmp_path / "folder" / "text_encoder", lone["vae"]),
    }

    for name, paths in others.items():
        assert float((clip(pipeline_of(*paths), used)[1] - want).abs().max()) <= 1e-5, name
    assert (tmp_path / "folder/tokenizer/spiece.model").read_bytes() == wan.vocabulary()


def test_diffusers_makes_the_clip_of_the_folder(
    ours: Pipeline, whole: Path, tmp_path: Path
) -> None:
    from diffusers import WanPipeline

    convert(whole, f"{tmp_path}/f/")
    pipe = WanPipeline.from_pretrained(str(tmp_path / "f"), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    used = settings(steps=2, frames=5)

    found = pipe(
        "a red fox runs", negative_prompt="static", num_inference_steps=2, guidance_scale=5.0, height=48,
        width=32, num_frames=5, generator=torch.Generator("cpu").manual_seed(5), output_type="latent",
    ).frames  # fmt: skip

    told = conditions(ours, "a red fox runs", "static", used)
    assert float((found - denoise(ours, told, used, 5)).abs().max()) <= 1e-5
    said = pipe.scheduler.config
    assert {name: said[name] for name in wan.SCHEDULER} == wan.SCHEDULER
    for part, model in wan.models().items():
        want, have = model.state_dict(), getattr(pipe, part).state_dict()
        assert [n for n in want if not torch.equal(have[n], want[n])] == []


@pytest.mark.parametrize("part", ["text_encoder", "transformer"])
def test_scaled_fp8_is_read_as_what_it_stands_for(
    part: str, lone: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    packed = wan.scaled_fp8(lone[part], tmp_path / "fp8_e4m3fn_scaled.safetensors")
    stored = load_file(str(packed))
    numbers = {n: v for n, v in stored.items() if not n.endswith(("scale_weight", "scaled_fp8"))}
    for name in [n for n in stored if n.endswith("scale_weight")]:
        weight = name.replace("scale_weight", "weight")
        numbers[weight] = stored[weight].float() * stored[name]
    plain_file = save(tmp_path / "numbers.safetensors", numbers)
    used = settings(steps=2, frames=1)

    found, want = (
        clip(pipeline_of(there["transformer"], there["text_encoder"], there["vae"]), used)[0]
        for there in ({**lone, part: packed}, {**lone, part: plain_file})
    )

    assert any(value.dtype == torch.float8_e4m3fn for value in stored.values())
    assert float((found - want).abs().max()) <= 1e-5


def test_gguf_blocks_are_read_as_what_they_stand_for(lone: dict[str, Path], tmp_path: Path) -> None:
    """As ComfyUI-GGUF packs the transformer: the patches' kernel has too many axes, and is flattened."""
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q8_0
    packed = tmp_path / "wan2.1-t2v-1.3b-Q8_0.gguf"
    writer, numbers = gguf.GGUFWriter(str(packed), "wan"), {}
    for name, value in tensors_of(open_file(lone["transformer"])).items():
        array = numbers[name] = value.numpy()
        if array.ndim == 5:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(array.shape))
            writer.add_tensor(name, array.reshape(len(array), -1))
        elif array.ndim == 2 and array.shape[1] % 32 == 0:
            blocks = gguf.quants.quantize(array, kind)
            writer.add_tensor(name, blocks, raw_dtype=kind)
            numbers[name] = gguf.quants.dequantize(blocks, kind).reshape(array.shape)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    plain_file = small.save(tmp_path / "numbers.safetensors", numbers)
    used = settings(steps=2, frames=1)

    found, want = (
        clip(pipeline_of(path, lone["text_encoder"], lone["vae"]), used)[0]
        for path in (packed, plain_file)
    )

    assert float((found - want).abs().max()) <= 1e-5


def wan_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UMT5 under the names of Wan's authors, as ``umt5-xxl-enc-bf16.safetensors`` has them."""
    names = {
        "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
        "layer.0.SelfAttention": "attn",
        "layer.0.layer_norm": "norm1",
        "layer.1.layer_norm": "norm2",
        "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
        "layer.1.DenseReluDense.wi_1": "ffn.fc1",
        "layer.1.DenseReluDense.wo": "ffn.fc2",
        "encoder.block": "blocks",
        "encoder.final_layer_norm": "norm",
        "shared": "token_embedding",
    }
    found = {}
    for name, value in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)  # noqa: PLW2901
        found[name] = value
    found.pop("spiece_model")
    return found


def test_the_encoder_of_wans_authors_is_read_too(
    ours: Pipeline, lone: dict[str, Path], tmp_path: Path
) -> None:
    named = save(tmp_path / "umt5.safetensors", wan_names(tensors_of(open_file(lone["text_encoder"]))))  # fmt: skip
    with pytest.raises(MismatchError, match="without its tokenizer"):
        pipeline_of(lone["transformer"], named, lone["vae"])
    (tmp_path / "spiece.model").write_bytes(wan.vocabulary())
    used = settings(steps=1, frames=1)

    found = clip(pipeline_of(lone["transformer"], named, lone["vae"]), used)[0]

    assert float((found - clip(ours, used)[0]).abs().max()) <= 1e-5


def test_a_damaged_vocabulary_is_refused(lone: dict[str, Path], tmp_path: Path) -> None:
    tensors = tensors_of(open_file(lone["text_encoder"]))
    tensors["spiece_model"] = tensors["spiece_model"][:-7]
    bad = save(tmp_path / "bad.safetensors", tensors)

    with pytest.raises(CorruptError, match=r"bad\.safetensors: is no SentencePiece model"):
        pipeline_of(lone["transformer"], bad, lone["vae"])


LORAS = {
    "kohya": ("lora_unet_blocks_0_{old}", "_", ".lora_down.weight", ".lora_up.weight"),
    "comfyui": ("diffusion_model.blocks.0.{old}", ".", ".lora_A.weight", ".lora_B.weight"),
    "diffusers": ("transformer.blocks.0.{new}", ".", ".lora_A.weight", ".lora_B.weight"),
}
MODULES = {
    "self_attn.q": "attn1.to_q", "cross_attn.o": "attn2.to_out.0", "ffn.0": "ffn.net.0.proj",
}  # fmt: skip


@pytest.mark.parametrize("names", LORAS)
def test_loras_of_all_names_do_what_baking_by_hand_does(
    names: str, ours: Pipeline, whole: Path, lone: dict[str, Path], tmp_path: Path
) -> None:
    template, joint, down, up = LORAS[names]
    state = wan.models()["transformer"].state_dict()
    torch.manual_seed(3)
    lora, baked = {}, {}
    for old, new in MODULES.items():
        weight = state[f"blocks.0.{new}.weight"]
        factors = torch.randn(4, weight.shape[1]) / 9, torch.randn(weight.shape[0], 4) / 9
        stem = template.format(old=old.replace(".", joint), new=new)
        lora |= {stem + down: factors[0], stem + up: factors[1]}
        baked[f"blocks.0.{new}.weight"] = weight + 0.7 * factors[1] @ factors[0]
    path = save(tmp_path / "lora.safetensors", lora)
    used = settings(steps=1, frames=1)

    parts = (lone["transformer"], lone["text_encoder"], lone["vae"])
    base, *more = (whole,) if names == "comfyui" else parts
    assembly, _, _ = complete(assemble(open_with_loras(base, [(path, 0.7, None)]), "x"), more)
    found = load(assembly, device="cpu", dtype="F32")

    weights = found.denoiser.state_dict()
    for name, want in baked.items():
        assert float((weights[name] - want).abs().max()) <= 1e-6
    same = "blocks.1.attn1.to_q.weight"
    assert torch.equal(weights[same], state[same])
    assert float((clip(found, used)[0] - clip(ours, used)[0]).abs().max()) > 1e-3


def test_differences_of_norms_and_biases_are_added_too(whole: Path, tmp_path: Path) -> None:
    """As in LoRAs for few steps; Wan's third norm is diffusers' second."""
    state = wan.models()["transformer"].state_dict()
    lora, baked = {}, {}
    changes = {
        "blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
        "blocks.0.cross_attn.norm_k.diff": "blocks.0.attn2.norm_k.weight",
        "time_projection.1.diff_b": "condition_embedder.time_proj.bias",
        "patch_embedding.diff": "patch_embedding.weight",
        "head.head.diff": "proj_out.weight",
    }
    for old, new in changes.items():
        change = torch.randn(state[new].shape, generator=generator(len(lora))) / 9
        lora[f"diffusion_model.{old}"], baked[new] = change, state[new] + change
    path = save(tmp_path / "lora.safetensors", lora)

    opened = open_with_loras(whole, [(path, 1.0, None)])
    found = load(assemble(opened, "x"), device="cpu", dtype="F32").denoiser.state_dict()

    odd = [n for n, v in state.items() if float((found[n] - baked.get(n, v)).abs().max()) > 1e-6]
    assert odd == []


def test_another_vae_stands_in(ours: Pipeline, whole: Path, lone: dict[str, Path], tmp_path: Path) -> None:  # fmt: skip
    tensors = tensors_of(open_file(lone["vae"]))
    tensors["decoder.head.2.bias"] = tensors["decoder.head.2.bias"] + 0.2
    decoder = {n: v for n, v in tensors.items() if not n.startswith(("encoder.", "conv1."))}
    used = settings(steps=1, frames=1)
    assembly = assemble(open_file(whole), "x")

    other = with_vae(assembly, open_file(save(tmp_path / "v.safetensors", decoder)), "v")
    found = clip(load(other, device="cpu", dtype="F32"), used)

    want = clip(ours, used)
    assert torch.equal(found[0], want[0])
    assert float((found[1] - want[1]).mean()) == pytest.approx(0.1, abs=0.05)


def test_a_vae_of_another_family_is_refused(whole: Path, tmp_path: Path) -> None:
    from fixtures import videos

    vae = {n: v for n, v in videos.ltx("0.9.0")[1].items() if n.startswith("vae.")}

    with pytest.raises(MismatchError, match=r"holds no VAE that Wan 2\.1 could use"):
        with_vae(assemble(open_file(whole), "x"), open_file(save(tmp_path / "v.safetensors", vae)), "v")  # fmt: skip


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_what_lacks_is_named_with_where_it_comes_from(lone: dict[str, Path], part: str) -> None:
    there = [path for name, path in lone.items() if name not in ("transformer", part)]
    what = {"vae": "wan_2.1_vae.safetensors", "text_encoder": "umt5_xxl_fp16.safetensors"}[part]

    with pytest.raises(MismatchError, match=rf"lacks {part} .*{what}.*--{part.replace('_', '-')}"):
        pipeline_of(lone["transformer"], *there)


def test_parts_come_from_the_library(
    ours: Pipeline, lone: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    add(Layout(tmp_path / "home"), [lone["text_encoder"], lone["vae"]])
    used = settings(steps=1, frames=1)

    assembly, opened, notes = complete(assemble(open_file(lone["transformer"]), "wan"))

    assert sorted(notes) == [
        "The VAE of Wan 2.1, 16 channels from 'vae' of the library.",
        "UMT5-XXL with its words from 'text_encoder' of the library.",
    ]
    found = clip(load(assembly, device="cpu", dtype="F32"), used)[1]
    assert float((found - clip(ours, used)[1]).abs().max()) <= 1e-5
    for checkpoint in opened:
        checkpoint.close()


def test_little_memory_decodes_in_tiles(ours: Pipeline) -> None:
    """They overlap, so that the clip changes little; the autoencoder is as before afterwards."""
    used = settings(width=288, height=32, frames=5)
    latents = ours.engine.noise(ours, used, generator(2))
    frugal = replace(ours, extras={**ours.extras, LOW_MEMORY: lambda: None})

    tiled, want = decode(frugal, latents, used), decode(ours, latents, used)

    assert tiled.shape == want.shape
    assert 0 < float((tiled - want).abs().mean()) < 0.02
    assert torch.equal(decode(ours, latents, used), want)


def test_a_t5_is_no_umt5(lone: dict[str, Path], tmp_path: Path) -> None:
    """As wide, and other words."""
    tensors = tensors_of(open_file(lone["text_encoder"]))
    del tensors["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"]
    path = save(tmp_path / "t5xxl.safetensors", tensors)

    with pytest.raises(MismatchError, match=r"t5xxl.safetensors: holds T5, 32 wide.*UMT5-XXL"):
        pipeline_of(lone["transformer"], path, lone["vae"])


def test_a_umt5_is_no_t5(lone: dict[str, Path]) -> None:
    """So no family that reads T5 takes it."""
    assert encoders(open_file(lone["text_encoder"])) == ("UMT5, 32 wide",)
    assert [s.component for slots in SLOTS.values() for s in slots if s.kind == "umt5"] == ["text_encoder"]  # fmt: skip


def test_the_job_makes_a_clip(lone: dict[str, Path], tmp_path: Path) -> None:
    shown: list[Any] = []

    made = run(
        PROMPT,
        lone["transformer"],
        text_encoders=[lone["text_encoder"]],
        vae=lone["vae"],
        **{**SMALL, "frames": 5, "steps": 2},
        seed=1,
        preview=shown.append,
    )

    assert made.pictures[0].frames.shape == (5, 48, 32, 3)
    assert made.settings.sampler == "unipc"
    assert "Sampler: UniPC" in made.pictures[0].infotext


def test_a_clip_is_estimated_by_the_frames_that_are_decoded_at_once(ours: Pipeline) -> None:
    """At full size 17 frames of 256 x 256 took 0.5 GB beside the weights; 81 take no more to decode."""
    full = replace(
        ours,
        configs={
            **ours.configs,
            "vae": {**ours.configs["vae"], "base_dim": 96},
            "transformer": {**ours.configs["transformer"], "num_attention_heads": 12},
        },
    )
    used = replace(settings(), width=256, height=256, frames=17, cfg=1.0)

    found, longer, guided = (
        work_of(full, one, 2, tiled=False)
        for one in (used, replace(used, frames=41), replace(used, cfg=5.0))
    )

    assert 0.3e9 < found < 1e9
    assert found == longer == guided


def test_a_preview_is_like_the_clip(ours: Pipeline) -> None:
    latents, frames = clip(ours, settings(frames=1))

    small = preview(ours, latents, side=6).resize((4, 6), Image.Resampling.BOX)
    want = frames[0].reshape(6, 8, 4, 8, 3).mean(dim=(1, 3))

    found = torch.from_numpy(np.asarray(small).copy()).float() / 255
    assert float((found.mean(dim=(0, 1)) - want.mean(dim=(0, 1))).abs().max()) < 0.2


def test_a_picture_becomes_a_clip_that_stands_still(whole: Path, tmp_path: Path) -> None:
    picture = np.full((48, 32, 3), 90, np.uint8)
    Image.fromarray(picture).save(tmp_path / "x.png")
    said = {**SMALL, "frames": 5, "steps": 4, "seed": 1}

    little = run("a fox", whole, image=tmp_path / "x.png", strength=0.3, **said)
    want = run("a fox", whole, **said)

    assert not torch.equal(
        torch.as_tensor(little.pictures[0].frames), torch.as_tensor(want.pictures[0].frames)
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"frames": 6}, "6 frames are not one more than a multiple of 4: use 5 or 9"),
        ({"mask": "x.png", "image": "x.png"}, "takes no mask"),
        ({"hires": 2.0}, "no second pass"),
    ],
)
def test_what_a_clip_cannot_be_made_of_is_refused(
    said: dict[str, Any], why: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((48, 32, 3), np.uint8)).save("x.png")

    try:
        run("a fox", whole, **{**SMALL, "seed": 1, "steps": 1, **said})
    except UsageError as error:
        assert why in str(error)  # noqa: PT017
    else:  # a number of frames may be set right, and said
        assert "frames" in said


def test_all_faults_of_a_clip_are_told_at_once(ours: Pipeline) -> None:
    with pytest.raises(UsageError, match=r"16 frames.*use 13 or 17.*width 40.*use 32 or 48"):
        ours.engine.encode(ours, plain("x"), replace(settings(), frames=16, width=40))


def test_the_nearest_number_of_frames_is_offered(ours: Pipeline) -> None:
    found = {n: PLUGIN.fitting(ours, replace(settings(), frames=n)) for n in (1, 2, 6, 8, 81)}

    assert {n: used.frames for n, (used, _) in found.items()} == {1: 1, 2: 1, 6: 5, 8: 9, 81: 81}
    assert found[81][1] == ()
    assert "8" in found[8][1][0]


def test_larger_clips_get_more_noise_unless_a_folder_says_so() -> None:
    sizes = {(832, 480): 3.0, (1280, 720): 5.0, (1280, 704): 5.0, (480, 832): 3.0, (704, 544): 3.0}

    for (width, height), want in sizes.items():
        used = replace(settings(), width=width, height=height)
        assert shift_of({"flow_shift": 3.0}, used) == want
        assert shift_of({}, used) == want
        assert shift_of({"flow_shift": 8.0}, used) == 8.0
        assert shift_of({"flow_shift": 3.0, "shift": 6.0}, used) == 6.0


@pytest.mark.parametrize("sampler", ["unipc", "euler", "dpmpp_2m", "heun", "euler_a"])
def test_all_samplers_walk_down_to_no_noise(ours: Pipeline, sampler: str) -> None:
    used = settings(sampler=sampler, steps=4, cfg=1.0, frames=1)

    found = ours.engine.scheduler(ours, used)

    assert float(found.sigmas[0]) > 0.99
    assert float(found.sigmas[-1]) == 0.0
    assert torch.isfinite(clip(ours, used)[1]).all()


def test_a_schedule_by_name_is_walked(ours: Pipeline) -> None:
    own = ours.engine.scheduler(ours, settings(steps=6))
    found = ours.engine.scheduler(ours, settings(steps=6, schedule="beta"))

    assert own.timesteps.dtype == torch.int64  # whole ones, as Wan's own code tells them
    assert not torch.equal(found.sigmas, own.sigmas)


def test_its_defaults_are_those_of_its_authors() -> None:
    used = choose(ARCHITECTURES["wan21"], {}, {})

    assert (used.frames, used.fps, used.width, used.height) == (81, 16, 832, 480)
    assert (used.steps, used.cfg, used.sampler, used.schedule) == (50, 5.0, "unipc", "normal")


def test_half_precision_keeps_its_latents_and_what_must_be_whole(whole: Path) -> None:
    half = pipeline_of(whole, dtype="BF16")
    latents, frames = clip(half, settings(steps=1))
    weights = half.denoiser.state_dict()

    assert latents.dtype == frames.dtype == torch.float32
    assert torch.isfinite(frames).all()
    assert weights["blocks.0.attn1.to_q.weight"].dtype == torch.bfloat16
    assert weights["blocks.0.scale_shift_table"].dtype == torch.float32


class Headers:
    """A file of which nothing but the header may be read."""

    format = "safetensors"
    notes = ()

    def __init__(self, specs: Specs, metadata: Mapping[str, str] | None = None) -> None:
        self.specs, self.metadata = specs, metadata or {}

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name}: a tensor was touched")


@cache
def published(size: str, *parts: str) -> dict[str, Spec]:
    specs = {
        f"{part}.{name}": Spec(DTYPES["BF16"], tuple(value.shape))
        for part in parts
        for name, value in wan.full_size(size)[part].state_dict().items()
        if not name.endswith("embed_tokens.weight")
    }
    return {name: a.spec for name, a in translate(specs, "ldm").arrangements.items()}


@pytest.mark.parametrize(
    ("size", "gigabytes"),
    [("1.3B", 2.84), pytest.param("14B", 28.58, marks=pytest.mark.slow)],
)
def test_every_tensor_of_a_published_file_has_its_place(size: str, gigabytes: float) -> None:
    single = published(size, "transformer", "vae", "text_encoder")

    found = assemble(Headers(single), "wan")

    assert (found.family, found.identity.variant) == ("wan21", f"text to video, {size}")
    assert (found.missing, found.notes, found.prediction) == ((), (), "flow")
    assert sum(len(part.names) for part in found.parts.values()) == len(single)
    sizes = {name: part.nbytes / 1e9 for name, part in found.parts.items()}
    wanted = {"transformer": gigabytes, "vae": 0.25, "text_encoder": 11.36}
    assert sizes == pytest.approx(wanted, abs=0.01)
    for part in found.parts.values():
        module = found.engine.empty(part.name, part.config)
        shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        shapes.pop("encoder.embed_tokens.weight", None)
        assert {n: part.view.specs[source].shape for n, source in part.names.items()} == shapes


def widened(specs: Mapping[str, Spec], channels: int) -> dict[str, Spec]:
    name = "model.diffusion_model.patch_embedding.weight"
    old = specs[name].shape
    return {**specs, name: Spec(DTYPES["BF16"], (old[0], channels, *old[2:]))}


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"vace_patch_embedding.weight": (1536, 96, 1, 2, 2)}, "VACE"),
        ({"img_emb.proj.1.weight": (1280, 1280), "img_emb.proj.1.bias": (1280,)}, "Wan 2.1"),
        ({"patch": 48}, "Wan 2"),
    ],
)
def test_relatives_are_refused_by_their_names(change: dict[str, Any], title: str) -> None:
    specs = published("1.3B", "transformer")
    if "patch" in change:
        specs = widened(specs, change["patch"])
    else:
        more = {f"model.diffusion_model.{n}": Spec(DTYPES["BF16"], s) for n, s in change.items()}
        specs = widened(specs, 36) | more if "VACE" not in title else specs | more

    with pytest.raises(UnsupportedError, match=rf"x: is .*{title}.*cannot generate with it yet"):
        assemble(Headers(specs), "x")


@pytest.mark.parametrize("half", ["high", "low"])
def test_one_half_of_a_pair_is_known_by_its_name(whole: Path, half: str) -> None:
    """The same tensors as Wan 2.1: nothing else tells."""
    with pytest.raises(UnsupportedError, match=rf"the {half}-noise half of a Wan 2\.2 pair"):
        assemble(open_file(whole), f"wan2.2_t2v_{half}_noise_14B_fp16.safetensors")


def test_a_pair_of_wan_2_2_is_refused_by_its_name() -> None:
    specs = {
        name.replace("model.diffusion_model.", ""): spec
        for name, spec in published("14B", "transformer").items()
    }
    folder = {
        "diffusers/model_index.json": '{"_class_name": "WanPipeline", "boundary_ratio": 0.875}'
    }

    with pytest.raises(UnsupportedError, match=r"is Wan 2\.2, text to video 14B"):
        assemble(Headers(specs, folder), "x")
