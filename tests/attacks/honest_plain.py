"""Odd but lawful safetensors and GGUF files, shards and diffusers folders."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attacks.polyglots import diffusers
from fixtures.gguf_bytes import (
    ARCHITECTURE,
    ARRAY,
    BF16,
    F16,
    F32,
    I8,
    Q4_0,
    Q8_0,
    U32,
    Info,
    Writer,
    gguf,
)
from fixtures.safetensors_bytes import entry, raw_file, safetensors
from fixtures.torch_archive import ONE, ONE_DATA, write_archive

Bytes = bytes | np.ndarray[Any, Any]
Made = tuple[Path, Mapping[str, Bytes]]
Maker = Callable[[Path], Made]


def values(seed: int, *shape: int, dtype: str = "<f4") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def file(content: bytes, expected: Mapping[str, Bytes], suffix: str = ".safetensors") -> Maker:
    def make(folder: Path) -> Made:
        path = folder / f"model{suffix}"
        path.write_bytes(content)
        return path, expected

    return make


A, B = values(1, 3, 4), values(2, 5)
_NAMES = {
    np.dtype("<f4"): "F32",
    np.dtype("<f2"): "F16",
    np.dtype("<i8"): "I64",
    np.dtype("u1"): "U8",
}


def packed(
    tensors: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A plain file, tensors in order."""
    head: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, array in tensors.items():
        head[name] = entry(at, at + array.nbytes, _NAMES[array.dtype], array.shape)
        at += array.nbytes
    return safetensors(head, b"".join(np.ascontiguousarray(a).tobytes() for a in tensors.values()))


def plain(
    tensors: Mapping[str, np.ndarray[Any, Any]], suffix: str = ".safetensors", **metadata: str
) -> Maker:
    return file(packed(tensors, metadata or None), tensors, suffix)


def bits(dtype: str, shape: Sequence[int], size: int) -> Maker:
    """Any bytes of a dtype numpy does not know."""
    content = bytes(range(1, size + 1))
    return file(safetensors({"w": entry(0, size, dtype, shape)}, content), {"w": content})


def _unsorted() -> Maker:
    head = {"b": entry(48, 68, shape=(5,)), "a": entry(0, 48, shape=(3, 4))}
    return file(safetensors(head, A.tobytes() + B.tobytes()), {"a": A, "b": B})


def _padded(space: bytes) -> Maker:
    head = json.dumps({"a": entry(0, 48, shape=(3, 4))}).encode() + space * 100
    return file(raw_file(head, A.tobytes()), {"a": A})


def _pretty() -> Maker:
    head = json.dumps({"a": entry(0, 48, shape=(3, 4))}, indent=2).encode()
    return file(raw_file(head, A.tobytes()), {"a": A})


def _misaligned() -> Maker:
    head = {"u": entry(0, 3, "U8", (3,)), "a": entry(3, 51, shape=(3, 4))}
    return file(safetensors(head, b"xyz" + A.tobytes()), {"u": b"xyz", "a": A})


ODD_NAMES = (
    "ünïcode.重み",
    "emoji 🐈",
    'quote " \\ slash/',
    "",
    " ",
    "new\nline",
    "__metadata__ ",
    "a" * 3000,
)

SAFETENSORS: dict[str, tuple[Any, ...]] = {
    "safe_unsorted_header": (_unsorted(), "safetensors"),
    "safe_padded_with_spaces": (_padded(b" "), "safetensors"),
    "safe_padded_with_newlines": (_padded(b"\n"), "safetensors"),
    "safe_pretty_header": (_pretty(), "safetensors"),
    "safe_odd_names": (plain({n: values(i, 2) for i, n in enumerate(ODD_NAMES)}), "safetensors"),
    "safe_metadata_of_3_mb": (plain({"a": A}, workflow="é" * 1_500_000), "safetensors"),
    "safe_empty": (file(raw_file(b"{}"), {}), "safetensors"),
    "safe_metadata_only": (file(safetensors({"__metadata__": {"a": "b"}}, b""), {}), "safetensors"),
    "safe_scalar_and_nothing": (plain({"s": values(1), "z": values(1, 0, 7), "y": values(2, 3, 0)}), "safetensors"),
    "safe_not_aligned": (_misaligned(), "safetensors"),
    "safe_64_axes": (plain({"a": values(1, *[1] * 64)}), "safetensors"),
    "safe_field_unknown": (
        file(safetensors({"a": entry(0, 48, shape=(3, 4)) | {"note": "x"}}, A.tobytes()), {"a": A}), "safetensors"
    ),
    "safe_f4": (bits("F4", [2, 4], 4), "safetensors"),
    "safe_f6_e2m3": (bits("F6_E2M3", [4, 2], 6), "safetensors"),
    "safe_f6_e3m2": (bits("F6_E3M2", [8], 6), "safetensors"),
    "safe_f8_e4m3": (bits("F8_E4M3", [8], 8), "safetensors"),
    "safe_f8_e5m2": (bits("F8_E5M2", [8], 8), "safetensors"),
    "safe_f8_e8m0": (bits("F8_E8M0", [2, 4], 8), "safetensors"),
    "safe_f8_fnuz": (bits("F8_E4M3FNUZ", [8], 8), "safetensors"),
    "safe_bf16": (bits("BF16", [4], 8), "safetensors"),
    "safe_c64": (bits("C64", [2], 16), "safetensors"),
    "safe_u64": (bits("U64", [2], 16), "safetensors"),
    "safe_bool": (bits("BOOL", [8], 8), "safetensors"),
    "safe_named_ckpt": (plain({"a": A}, ".ckpt"), "safetensors", ".ckpt"),
    "safe_named_bin": (plain({"a": A}, ".bin"), "safetensors"),
    "safe_kohya_lora": (
        plain(
            {f"lora_unet_mid_block_attentions_0_proj_in.{part}": values(i, *shape, dtype="<f2")
             for i, (part, shape) in enumerate({"alpha": (), "lora_down.weight": (4, 8), "lora_up.weight": (8, 4)}.items())},
            ss_network_dim="4", ss_network_alpha="1", ss_base_model_version="sd_v1",
        ), "safetensors",
    ),
    "safe_peft_adapter": (
        plain({f"base_model.model.unet.to_q.lora_{x}.weight": values(i, 4, 4) for i, x in enumerate("AB")}),
        "safetensors",
    ),
    "safe_textual_inversion": (plain({"emb_params": values(1, 8, 768)}), "safetensors"),
    "safe_textual_inversion_sdxl": (plain({"clip_l": values(1, 2, 768), "clip_g": values(2, 2, 1280)}), "safetensors"),
}  # fmt: skip

_w1, _w2, _be = Writer(1), Writer(2), Writer(3, ">")


def _gguf(info: Info, writer: Writer | None = None, *more: bytes, align: int = 32) -> Maker:
    w = writer or Writer()
    pairs = [w.text("general.architecture", "sd1"), *more]
    content = gguf([info], pairs, writer=w, align=align)
    return file(content, {info.name.decode(): info.content}, ".gguf")


BLOCKS = {F32: 4 * 64, F16: 2 * 64, BF16: 2 * 64, I8: 64, Q8_0: 34 * 2, Q4_0: 18 * 2}


def typed(kind: int) -> Info:
    content = bytes(i * 7 % 251 for i in range(BLOCKS[kind]))
    return Info(b"w.weight", [32, 2], kind, content)


def _gguf_by_its_library(folder: Path) -> Made:
    import gguf as library

    path = folder / "model.gguf"
    writer = library.GGUFWriter(path, "flux")
    writer.add_string("general.name", "naïve")
    writer.add_array("some.list", list(range(1000)))
    writer.add_bool("some.truth", True)
    writer.add_tensor("a", A)
    half = values(3, 4, 64).astype("<f2")
    writer.add_tensor("b", half)
    quantized = library.quants.quantize(values(4, 4, 64), library.GGMLQuantizationType.Q5_0)
    writer.add_tensor("c", quantized, raw_dtype=library.GGMLQuantizationType.Q5_0)
    for step in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
    ):
        step()
    writer.close()
    return path, {"a": A, "b": half, "c": quantized}


_SHAPE = Writer().array("comfy.gguf.orig_shape.w.weight", 5, 3, struct.pack("<3i", 2, 4, 8))
_NESTED = Writer().array(
    "deep", ARRAY, 2, 2 * (struct.pack("<IQ", U32, 2) + struct.pack("<2I", 7, 8))
)

GGUF: dict[str, tuple[Any, ...]] = {
    **{f"gguf_type_{kind}": (_gguf(typed(kind)), "gguf") for kind in BLOCKS},
    "gguf_version_1": (_gguf(typed(F32), _w1), "gguf"),
    "gguf_version_2": (_gguf(typed(F16), _w2), "gguf"),
    "gguf_aligned_to_64": (
        _gguf(typed(Q4_0), None, Writer().scalar("general.alignment", U32, 64), align=64), "gguf"
    ),
    "gguf_original_shape": (_gguf(typed(F16), None, _SHAPE), "gguf"),
    "gguf_list_of_lists": (_gguf(typed(F16), None, _NESTED), "gguf"),
    "gguf_without_tensors": (file(gguf([], [ARCHITECTURE]), {}, ".gguf"), "gguf"),
    "gguf_of_its_library": (_gguf_by_its_library, "gguf"),
    "gguf_named_safetensors": (
        file(gguf([typed(F16)], [ARCHITECTURE]), {"w.weight": typed(F16).content}), "gguf", ".safetensors"
    ),
}  # fmt: skip


def _sharded(folder: Path) -> Made:
    stem = "model-0000{}-of-00002.safetensors"
    for n, (name, array) in enumerate({"a": A, "b": B}.items(), 1):
        folder.joinpath(stem.format(n)).write_bytes(packed({name: array}))
    return _index(folder, "model.safetensors", {"b": stem.format(2), "a": stem.format(1)}), {
        "a": A,
        "b": B,
    }


def _sharded_torch(folder: Path) -> Made:
    write_archive(folder / "x.bin", ONE, ONE_DATA)
    return _index(folder, "pytorch_model.bin", {"w": "x.bin"}), {"w": ONE_DATA["0"]}


def _sharded_without_total(folder: Path) -> Made:
    path, expected = _sharded(folder)
    path.write_text(json.dumps({"weight_map": json.loads(path.read_text())["weight_map"]}))
    return path, expected


def _sharded_through_a_link(folder: Path) -> Made:
    """The cache of the Hugging Face hub keeps files elsewhere, under their digest."""
    blobs = folder / "blobs"
    blobs.mkdir()
    path, expected = _sharded(folder)
    for number, shard in enumerate(sorted(folder.glob("model-*"))):
        shard.rename(blobs / f"{number:064x}")
        shard.symlink_to(Path("blobs") / f"{number:064x}")
    return path, expected


def _index(folder: Path, stem: str, weights: Mapping[str, str]) -> Path:
    path = folder / f"{stem}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 68}, "weight_map": weights}))
    return path


def _pipeline(folder: Path) -> Made:
    diffusers(folder, unet="UNet2DConditionModel", vae="AutoencoderKL", scheduler="DDIMScheduler")
    for part, array in {"unet": A, "vae": B}.items():
        name = "diffusion_pytorch_model.safetensors"
        folder.joinpath(part, name).write_bytes(packed({"w": array}))
    return folder, {"unet.w": A, "vae.w": B}


def _pipeline_of_bins(folder: Path) -> Made:
    diffusers(folder, unet="UNet2DConditionModel")
    write_archive(folder / "unet" / "diffusion_pytorch_model.bin", ONE, ONE_DATA)
    return folder, {"unet.w": ONE_DATA["0"]}


def _pipeline_of_halves(folder: Path) -> Made:
    diffusers(folder, unet="UNet2DConditionModel")
    half = A.astype("<f2")
    name = "diffusion_pytorch_model.fp16.safetensors"
    folder.joinpath("unet", name).write_bytes(packed({"w": half}))
    return folder, {"unet.w": half}


def _component(folder: Path) -> Made:
    folder.joinpath("config.json").write_text('{"_class_name": "AutoencoderKL"}')
    folder.joinpath("diffusion_pytorch_model.safetensors").write_bytes(packed({"w": A}))
    return folder, {"w": A}


FOLDERS: dict[str, tuple[Any, ...]] = {
    "sharded": (_sharded, "sharded"),
    "sharded_torch": (_sharded_torch, "sharded"),
    "sharded_without_total": (_sharded_without_total, "sharded"),
    "sharded_through_a_link": (_sharded_through_a_link, "sharded"),
    "diffusers": (_pipeline, "diffusers_folder"),
    "diffusers_of_bins": (_pipeline_of_bins, "diffusers_folder"),
    "diffusers_of_halves": (_pipeline_of_halves, "diffusers_folder"),
    "diffusers_component": (_component, "diffusers_folder"),
}  # fmt: skip
