from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging
from transformers import CLIPTextConfig, CLIPTextModel

from fixtures.safetensors_bytes import DATA, ONE_SAFE, entry, safetensors
from fixtures.torch_archive import ONE, ONE_DATA, name, text, write_archive
from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import (
    CorruptError,
    DiskError,
    FormatError,
    NotFoundError,
    UnsafeError,
    UnsupportedError,
    UsageError,
)
from memcard.formats import create, is_checkpoint_folder, open_file, sniff_file

F4 = Spec(DTYPES["F32"], (4,))
CALL = b"\x80\x02" + name("posix", "system") + text("true") + b"\x85R."
UNET, MODEL = "diffusion_pytorch_model.safetensors", "model.safetensors"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "safety_checker": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
PIPELINE: Mapping[str, Any] = {
    "model_index.json": INDEX,
    "unet/config.json": {"_class_name": "UNet2DConditionModel"},
    f"unet/{UNET}": ONE_SAFE,
    "text_encoder/config.json": {"architectures": ["CLIPTextModel"]},
    f"text_encoder/{MODEL}": ONE_SAFE,
    "scheduler/scheduler_config.json": {"_class_name": "DDIMScheduler"},
    "tokenizer/vocab.json": {"a": 0},
    "tokenizer/merges.txt": b"#version",
    "README.md": b"hello",
}


def lay(folder: Path, files: Mapping[str, Any]) -> Path:
    for place, content in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def pickled(path: Path, program: bytes = ONE) -> bytes:
    raw = write_archive(path, program, ONE_DATA if program == ONE else None).read_bytes()
    path.unlink()
    return raw


def below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# reading


def test_a_pipeline_has_the_names_of_its_parts(tmp_path: Path) -> None:
    folder = lay(tmp_path / "sd", PIPELINE)

    checkpoint = open_file(folder)

    assert (checkpoint.format, sniff_file(folder)) == ("diffusers_folder", "diffusers_folder")
    assert checkpoint.specs == {"unet.w": F4, "text_encoder.w": F4}
    assert bytes(checkpoint.read("unet.w")) == DATA
    assert checkpoint.notes == ()


def test_configs_are_metadata_and_the_rest_goes_along(tmp_path: Path) -> None:
    checkpoint = open_file(lay(tmp_path, PIPELINE))

    assert list(checkpoint.metadata) == [
        "diffusers/model_index.json",
        "diffusers/scheduler/scheduler_config.json",
        "diffusers/text_encoder/config.json",
        "diffusers/unet/config.json",
    ]
    assert json.loads(checkpoint.metadata["diffusers/model_index.json"]) == INDEX
    files = checkpoint.files  # type: ignore[attr-defined]
    assert {k: v.read_bytes() for k, v in files.items()} == {
        "README.md": b"hello",
        "tokenizer/merges.txt": b"#version",
        "tokenizer/vocab.json": b'{"a": 0}',
    }


def test_one_model_alone_has_its_own_names(tmp_path: Path) -> None:
    folder = lay(tmp_path, PIPELINE) / "unet"

    checkpoint = open_file(folder)

    assert list(checkpoint.specs) == ["w"]
    assert list(checkpoint.metadata) == ["diffusers/config.json"]
    assert [p.name for p in checkpoint.parts] == [UNET]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("offered", "read"),
    [
        (["d.safetensors", "d.bin"], "d.safetensors"),
        (
            ["d.fp16.safetensors", "d.bin"],
            "d.bin",
        ),  # the plain variant comes first, as in diffusers
        (["d.non_ema.safetensors", "d.fp16.bin", "d.ema.bin"], "d.fp16.bin"),
        (["d.non_ema.bin", "d.non_ema.safetensors"], "d.non_ema.safetensors"),
        (["d.safetensors.index.json", "d.safetensors"], "d.safetensors"),
        (["d.safetensors.index.fp16.json"], "d.safetensors.index.fp16.json"),
        (["other.safetensors", "d.bin"], "d.bin"),  # the standard name
    ],
)
def test_of_several_files_the_one_diffusers_takes_is_read(
    offered: list[str], read: str, tmp_path: Path
) -> None:
    stem = "diffusion_pytorch_model"
    index = {"weight_map": {"w": f"{stem}-00001-of-00001.safetensors"}}
    kinds = {"safetensors": ONE_SAFE, "bin": pickled(tmp_path / "x"), "json": index}
    names = [file.replace("d.", f"{stem}.") if file[0] == "d" else file for file in offered]
    files = {file: kinds[file.rpartition(".")[2]] for file in names}
    folder = lay(tmp_path / "unet", {**files, "config.json": {}})
    lay(folder, {f"{stem}-00001-of-00001.safetensors": ONE_SAFE})

    checkpoint = open_file(folder)

    assert [p.name for p in checkpoint.parts] == [read.replace("d.", f"{stem}.")]  # type: ignore[attr-defined]
    assert bytes(checkpoint.read("w")) == DATA
    told = " ".join(n for n in checkpoint.notes if "is read" in n)
    assert [n in told for n in names] == [len(names) > 1] * len(names)


PLACES: dict[str, tuple[Mapping[str, Any], bool]] = {
    "pipeline": ({"model_index.json": INDEX, f"unet/{UNET}": ONE_SAFE}, True),
    "without_index": ({f"unet/{UNET}": ONE_SAFE, f"vae/{UNET}": ONE_SAFE, "LICENSE": b""}, True),
    "model": ({"config.json": {}, MODEL: ONE_SAFE}, True),
    "model_without_config": ({UNET: ONE_SAFE}, True),
    "shards": (
        {
            "model.safetensors.index.json": {
                "weight_map": {"w": "model-00001-of-00001.safetensors"}
            },
            "model-00001-of-00001.safetensors": ONE_SAFE,
        },
        True,
    ),
    "adapter": ({"adapter_config.json": {}, "adapter_model.safetensors": ONE_SAFE}, True),
    "one_checkpoint": ({"dreams.safetensors": ONE_SAFE}, False),
    "many_checkpoints": ({"model.safetensors": ONE_SAFE, "dreams.safetensors": ONE_SAFE}, False),
    "many_with_config": (
        {"a.safetensors": ONE_SAFE, "b.safetensors": ONE_SAFE, "config.json": {}},
        False,
    ),
    "comfyui": ({"unet/x.safetensors": ONE_SAFE, "vae/y": b"", "checkpoints/z": b""}, False),
    "pictures": ({"a.png": b"", "config.json": {}}, False),
    "empty": ({}, False),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_folder_of_checkpoints_is_none_itself(case: str, tmp_path: Path) -> None:
    files, is_one = PLACES[case]
    folder = lay(tmp_path, files)

    assert is_checkpoint_folder(folder) is is_one
    if is_one:
        assert open_file(folder).specs
        return
    with pytest.raises(UnsupportedError, match="is a folder"):
        open_file(folder)


def test_what_is_missing_or_foreign_is_a_note(tmp_path: Path) -> None:
    folder = lay(tmp_path, PIPELINE)
    shutil.rmtree(folder / "tokenizer")
    lay(folder, {"vae_1_0/" + UNET: ONE_SAFE, "x.safetensors": ONE_SAFE, "run.py": b"import os"})
    lay(folder, {"vae/config.json": b"{not json", "unet/config.json": b" " * 70_000})

    checkpoint = open_file(folder)

    told = " ".join(checkpoint.notes)
    assert "names 'tokenizer', but there is no such folder" in told
    assert "no part of the pipeline: vae_1_0" in told
    assert "other checkpoints: x.safetensors" in told
    assert "run.py); loaders run them when told trust_remote_code" in told
    assert "Not JSON, so that no loader can read it: vae/config.json" in told
    assert "diffusers/unet/config.json" not in checkpoint.metadata  # too long: goes along as a file
    assert "unet/config.json" in checkpoint.files  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "place", ["unet/diffusion_pytorch_model.bin", "random_states_0.pkl", "unet/optimizer.bin"]
)
def test_a_hostile_file_makes_the_folder_unsafe_even_if_it_is_not_read(
    place: str, tmp_path: Path
) -> None:
    folder = lay(tmp_path / "sd", PIPELINE)
    lay(folder, {place: pickled(tmp_path / "x", CALL)})

    with pytest.raises(UnsafeError, match=r"posix\.system") as caught:
        open_file(folder)

    assert str(folder) in str(caught.value)
    rescued = open_file(folder, salvage=True)
    assert bytes(rescued.read("unet.w")) == DATA
    assert any(place in n and "asks to run code" in n for n in rescued.notes)


def test_a_hostile_part_is_unsafe_and_all_faults_are_told(tmp_path: Path) -> None:
    files = {k: v for k, v in PIPELINE.items() if not k.endswith(UNET)}
    folder = lay(tmp_path / "sd", files | {f"text_encoder/{MODEL}": b"damaged"})
    lay(folder, {"unet/diffusion_pytorch_model.bin": pickled(tmp_path / "x", CALL)})

    with pytest.raises(UnsafeError, match=r"posix\.system.*\(and 1 more\)") as caught:
        open_file(folder)

    assert any("7 bytes" in fault for fault in caught.value.faults)


def test_damage_in_a_part_is_corrupt(tmp_path: Path) -> None:
    folder = lay(tmp_path, {**PIPELINE, f"unet/{UNET}": ONE_SAFE[:-1]})

    with pytest.raises(CorruptError, match="cut off"):
        open_file(folder)


@pytest.mark.parametrize("raw", [b"{", b"[" * 9999, b"[1]", b"\xff"])
def test_a_broken_model_index_is_corrupt(raw: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=r"model_index\.json: is not"):
        open_file(lay(tmp_path, {**PIPELINE, "model_index.json": raw}))


def test_a_pipeline_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"without weights \(its parts: 'scheduler', 'unet'"):
        open_file(lay(tmp_path, {"model_index.json": INDEX, "unet/config.json": {}}))


def test_parts_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    lay(tmp_path / "secret", {UNET: ONE_SAFE})
    index = {**INDEX, "../secret": ["diffusers", "UNet2DModel"]}

    checkpoint = open_file(lay(tmp_path / "sd", {**PIPELINE, "model_index.json": index}))

    assert set(checkpoint.specs) == {"unet.w", "text_encoder.w"}
    assert any("names '../secret', but there is no such folder" in n for n in checkpoint.notes)


def test_links_out_of_the_folder_are_no_side_files(tmp_path: Path) -> None:
    """A conversion would copy the target into a folder that is then published."""
    (tmp_path / "id_rsa").write_text("secret")
    folder = lay(tmp_path / "sd", PIPELINE)
    (folder / "tokenizer" / "special.json").symlink_to(tmp_path / "id_rsa")
    (folder / "tokenizer" / "config.json").symlink_to(tmp_path / "id_rsa")
    (folder / "tokenizer" / "inside.json").symlink_to(folder / "tokenizer" / "vocab.json")
    (folder / "loop").symlink_to(folder)

    checkpoint = open_file(folder)

    files = checkpoint.files  # type: ignore[attr-defined]
    assert "tokenizer/inside.json" in files
    assert not any("special" in f or "config" in f for f in files)
    assert "diffusers/tokenizer/config.json" not in checkpoint.metadata
    assert any("lead out of the folder are left out" in n for n in checkpoint.notes)


def test_the_cache_of_hugging_face_is_read(tmp_path: Path) -> None:
    """Files of a snapshot are links to blobs beside it."""
    real = lay(tmp_path / "real", PIPELINE)
    snapshot = tmp_path / "models--x--sd" / "snapshots" / "0a1b"
    blobs = tmp_path / "models--x--sd" / "blobs"
    blobs.mkdir(parents=True)
    for number, place in enumerate(below(real)):
        (real / place).rename(blobs / f"{number:064}")
        (snapshot / place).parent.mkdir(parents=True, exist_ok=True)
        link = snapshot / place
        link.symlink_to(os.path.relpath(blobs / f"{number:064}", link.parent))

    checkpoint = open_file(snapshot)

    assert bytes(checkpoint.read("unet.w")) == DATA
    assert "tokenizer/vocab.json" in checkpoint.files  # type: ignore[attr-defined]
    assert checkpoint.notes == ()


def test_a_named_pipe_does_not_stop_anyone(tmp_path: Path) -> None:
    folder = lay(tmp_path, PIPELINE)
    os.mkfifo(folder / "unet" / "config2.json")
    os.mkfifo(folder / "unet" / "diffusion_pytorch_model.bin")

    assert set(open_file(folder).specs) == {"unet.w", "text_encoder.w"}


def test_unknown_names_and_closed_folders_are_errors(tmp_path: Path) -> None:
    checkpoint = open_file(lay(tmp_path, PIPELINE))
    checkpoint.check_unchanged()  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError, match="no tensor 'w'"):
        checkpoint.read("w")


# what diffusers writes and reads


@pytest.fixture(scope="module")
def pipeline() -> Iterator[StableDiffusionPipeline]:
    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    clip = CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2,
        vocab_size=100, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    yield StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(32,), norm_num_groups=8), unet=unet,
        text_encoder=CLIPTextModel(clip), tokenizer=None,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    logging.set_verbosity_warning()


def weights(pipeline: StableDiffusionPipeline) -> dict[str, bytes]:
    return {
        f"{part}.{key}": tensor.contiguous().numpy().tobytes()
        for part in ("unet", "vae", "text_encoder")
        for key, tensor in getattr(pipeline, part).state_dict().items()
    }


def contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {n: bytes(checkpoint.read(n)) for n in checkpoint.specs}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"safe_serialization": False},
        {"variant": "fp16"},
        {"max_shard_size": "200KB"},
        {"max_shard_size": "200KB", "variant": "fp16"},
        {"max_shard_size": "200KB", "safe_serialization": False},
    ],
    ids=str,
)
def test_what_diffusers_saves_is_read_bit_by_bit(
    options: dict[str, Any], pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path / "sd", **options)

    checkpoint = open_file(tmp_path / "sd")

    assert contents(checkpoint) == weights(pipeline)
    assert checkpoint.notes == ()
    assert "diffusers/scheduler/scheduler_config.json" in checkpoint.metadata


@pytest.mark.parametrize("max_shard", [None, 200_000])
def test_diffusers_loads_what_is_written(
    max_shard: int | None, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path / "sd")
    source = open_file(tmp_path / "sd")

    copy_to(f"{tmp_path}/copy/", source, max_shard=max_shard)
    loaded = StableDiffusionPipeline.from_pretrained(
        tmp_path / "copy", local_files_only=True, tokenizer=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "copy" / "unet", local_files_only=True)

    assert weights(loaded) == weights(pipeline)
    assert all(torch.equal(t, loaded.unet.state_dict()[n]) for n, t in unet.state_dict().items())
    assert open_file(tmp_path / "copy").metadata == source.metadata
    if max_shard is None:
        assert below(tmp_path / "copy") == below(tmp_path / "sd")


def copy_to(target: str, source: Checkpoint, **options: Any) -> None:
    with create(target, **options) as sink:
        for place, path in getattr(source, "files", {}).items():
            sink.attach(place, path)  # type: ignore[attr-defined]
        sink.begin(source.specs, source.metadata)
        for tensor in source.specs:
            extent = source.extent(tensor)
            assert extent is not None
            sink.copy(tensor, extent)


# writing


def test_side_files_and_metadata_come_back(tmp_path: Path) -> None:
    source = open_file(lay(tmp_path / "a", PIPELINE))

    copy_to(f"{tmp_path}/b/", source)

    assert below(tmp_path / "b") == below(tmp_path / "a")
    for place in set(below(tmp_path / "a")) - {f"unet/{UNET}", f"text_encoder/{MODEL}"}:
        assert (tmp_path / "b" / place).read_bytes() == (tmp_path / "a" / place).read_bytes()
    assert open_file(tmp_path / "b").metadata == source.metadata
    assert b'"format":"pt"' in (tmp_path / "b" / "unet" / UNET).read_bytes()


def write(path: Path, names: list[str], metadata: Mapping[str, str], **options: Any) -> Path:
    with create(f"{path}/", **options) as sink:
        sink.begin(dict.fromkeys(names, F4), metadata)
        for tensor in names:
            sink.write(tensor, memoryview(DATA))
    return path


@pytest.mark.parametrize(
    ("config", "file"),
    [
        ({"_class_name": "AutoencoderKL"}, UNET),
        ({"architectures": ["T5EncoderModel"]}, MODEL),
        ({"model_type": "clip"}, MODEL),
        ({}, UNET),
    ],
)
def test_one_model_alone_is_written_with_its_config(
    config: dict[str, Any], file: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "m", ["a.b", "c"], {"diffusers/config.json": json.dumps(config)})

    assert below(folder) == sorted(["config.json", file])
    assert list(open_file(folder).specs) == ["a.b", "c"]


def test_parts_without_config_have_their_usual_file_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", ["vae.a", "text_encoder_2.b", "transformer.c"], {"title": "x"})

    assert below(folder) == [f"text_encoder_2/{MODEL}", f"transformer/{UNET}", f"vae/{UNET}"]
    assert open_file(folder).metadata == {"title": "x"}


def test_names_of_another_dialect_are_refused_with_the_remedy(tmp_path: Path) -> None:
    names = ["model.diffusion_model.out.0.weight", "first_stage_model.x", "w", "unet.conv_in.bias"]

    with pytest.raises(UnsupportedError, match=r"3 tensors .*--dialect diffusers"):
        write(tmp_path / "m", names, {})

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "place", ["../x.json", "/x.json", "a/../../x", "a//b", "a\\b", "a/b/c/d/e"]
)
def test_metadata_and_side_files_cannot_lead_out(place: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="is no path in the folder"):
        write(tmp_path / "m", ["unet.w"], {f"diffusers/{place}": "{}"})
    with pytest.raises(UsageError, match="cannot be a side file"):
        create(f"{tmp_path}/m/").attach(place, b"")  # type: ignore[attr-defined]

    assert list(tmp_path.iterdir()) == []


def test_weights_are_no_side_files_and_nothing_is_attached_twice(tmp_path: Path) -> None:
    sink = create(f"{tmp_path}/m/")

    with pytest.raises(UsageError, match="cannot be a side file"):
        sink.attach("unet/x.safetensors", b"")  # type: ignore[attr-defined]
    sink.attach("a.txt", b"")  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"'a\.txt' is attached twice"):
        sink.attach("a.txt", b"")  # type: ignore[attr-defined]


def test_a_folder_with_something_in_it_stays_unless_asked(tmp_path: Path) -> None:
    lay(tmp_path / "m", {"mine.txt": b"mine"})

    with pytest.raises(UsageError, match="is there and not empty"):
        write(tmp_path / "m", ["unet.w"], {})
    assert below(tmp_path) == ["m/mine.txt"]

    write(tmp_path / "m", ["unet.w"], {}, overwrite=True)
    assert below(tmp_path) == [f"m/unet/{UNET}"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()

    assert below(write(tmp_path / "m", ["unet.w"], {})) == [f"unet/{UNET}"]


def test_a_file_of_that_name_stays(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"old")

    with pytest.raises(UsageError, match="is a file"):
        write(tmp_path / "m", ["unet.w"], {}, overwrite=True)

    assert (tmp_path / "m").read_bytes() == b"old"


def test_an_error_on_the_last_file_leaves_the_old_folder(tmp_path: Path) -> None:
    lay(tmp_path / "m", {"mine.txt": b"mine"})
    sink = create(f"{tmp_path}/m/", overwrite=True)
    (tmp_path / "vocab.json").write_text("{}")
    sink.attach("tokenizer/vocab.json", tmp_path / "vocab.json")  # type: ignore[attr-defined]

    with pytest.raises(FileNotFoundError), sink:  # noqa: PT012  # the last line is the accident
        sink.begin({"unet.w": F4}, {})
        sink.write("unet.w", memoryview(DATA))
        (tmp_path / "vocab.json").unlink()

    assert below(tmp_path) == ["m/mine.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_full_disk_names_the_folder_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="m"), create(f"{tmp_path}/m/") as sink:
        sink.begin({"unet.w": Spec(DTYPES["U8"], (1 << 50,))}, {})

    assert list(tmp_path.iterdir()) == []


def test_every_error_of_a_folder_is_a_typed_one(tmp_path: Path) -> None:
    """Half of each file is missing."""
    folder = lay(
        tmp_path, {**PIPELINE, "unet/diffusion_pytorch_model.bin": pickled(tmp_path / "x")}
    )
    for place in below(folder):
        whole = (folder / place).read_bytes()
        (folder / place).write_bytes(whole[: len(whole) // 2])
        with suppress(FormatError):
            open_file(folder).close()
        (folder / place).write_bytes(whole)


def test_a_lone_model_may_lie_in_shards(tmp_path: Path) -> None:
    one = safetensors({"v": entry()}, DATA)
    index = {
        "weight_map": {
            "w": "model-00001-of-00002.safetensors",
            "v": "model-00002-of-00002.safetensors",
        }
    }
    files = {"model.safetensors.index.json": index, "model-00001-of-00002.safetensors": ONE_SAFE}

    checkpoint = open_file(
        lay(tmp_path, {**files, "model-00002-of-00002.safetensors": one, "config.json": {}})
    )

    assert list(checkpoint.specs) == ["w", "v"]
    assert checkpoint.notes == ()
