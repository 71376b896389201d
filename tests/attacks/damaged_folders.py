"""Damaged checkpoints of several files: shards with an index, diffusers folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks.polyglots import diffusers
from fixtures.safetensors_bytes import ONE_SAFE
from fixtures.torch_archive import ONE, ONE_DATA, write_archive

Case = tuple[str, str, Callable[[Path], Path]]
INDEX = "model.safetensors.index.json"


def index(weights: Any, name: str = INDEX, shard: bytes = ONE_SAFE) -> Callable[[Path], Path]:
    """An index with this map beside one shard, a.safetensors with the tensor w."""

    def make(folder: Path) -> Path:
        folder.joinpath("a.safetensors").write_bytes(shard)
        found = folder / name
        found.write_text(json.dumps({"metadata": {"total_size": 16}, "weight_map": weights}))
        return found

    return make


def text(content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.joinpath(INDEX).write_text(content)
        return folder / INDEX

    return make


def _shard_is_a_folder(folder: Path) -> Path:
    folder.joinpath("b.safetensors").mkdir()
    return index({"w": "b.safetensors"})(folder)


def _shard_is_a_link_to_nowhere(folder: Path) -> Path:
    folder.joinpath("b.safetensors").symlink_to(folder / "gone")
    return index({"w": "b.safetensors"})(folder)


def _shard_is_a_device(folder: Path) -> Path:
    folder.joinpath("b.safetensors").symlink_to("/dev/zero")
    return index({"w": "b.safetensors"})(folder)


def _torch_shard_cut(folder: Path) -> Path:
    shard = write_archive(folder / "a.bin", ONE, ONE_DATA)
    shard.write_bytes(shard.read_bytes()[:-9])
    return index({"w": "a.bin"}, "pytorch_model.bin.index.json")(folder)


SHARDED: dict[str, Case] = {
    "index_not_json": ("corrupt|unsupported", "JSON", text('{"weight_map": {"w": ')),
    "index_nested_deep": ("corrupt|unsupported", "JSON", text('{"weight_map": ' + "[" * 100_000)),
    "index_without_a_map": ("corrupt|unsupported", "JSON", text('{"metadata": {}}')),
    "index_map_a_list": ("corrupt", "weight_map", index(["a.safetensors"])),
    "index_map_of_numbers": ("corrupt", "'w'", index({"w": 1})),
    "index_shard_missing": ("corrupt", "b.safetensors", index({"w": "a.safetensors", "v": "b.safetensors"})),
    "index_tensor_missing": ("corrupt", "'v'", index({"w": "a.safetensors", "v": "a.safetensors"})),
    "index_shard_climbs": ("corrupt", "../a.safetensors", index({"w": "../a.safetensors"})),
    "index_shard_absolute": ("corrupt", "/etc/passwd", index({"w": "/etc/passwd"})),
    "index_shard_below": ("corrupt", "x/a.safetensors", index({"w": "x/a.safetensors"})),
    "index_shard_with_a_nul": ("corrupt", "", index({"w": "a.safetensors\0"})),
    "index_shard_of_no_name": ("corrupt", "", index({"w": ""})),
    "index_shard_of_dots": ("corrupt", "", index({"w": ".."})),
    "index_shard_of_5000_letters": ("corrupt", "", index({"w": "a" * 5000 + ".safetensors"})),
    "index_shard_is_the_index": ("corrupt|unsupported", "index", index({"w": INDEX})),
    "index_shard_is_a_folder": ("corrupt|unsupported", "b.safetensors", _shard_is_a_folder),
    "index_shard_is_a_link_to_nowhere": ("corrupt", "b.safetensors", _shard_is_a_link_to_nowhere),
    "index_shard_is_a_device": ("corrupt|unsupported", "b.safetensors", _shard_is_a_device),
    "index_shard_cut": ("corrupt", "a.safetensors", index({"w": "a.safetensors"}, shard=ONE_SAFE[:-1])),
    "index_shard_empty": ("corrupt|unsupported", "a.safetensors", index({"w": "a.safetensors"}, shard=b"")),
    "index_torch_shard_cut": ("corrupt", "a.bin", _torch_shard_cut),
}  # fmt: skip


def pipeline(weights: bytes | None = ONE_SAFE, **files: str) -> Callable[[Path], Path]:
    """A pipeline folder with one component; ``files`` are written last (``__`` is a slash)."""

    def make(folder: Path) -> Path:
        diffusers(folder, unet="UNet2DConditionModel")
        if weights is not None:
            folder.joinpath("unet", "diffusion_pytorch_model.safetensors").write_bytes(weights)
        for name, content in files.items():
            folder.joinpath(name.replace("__", "/") + ".json").write_text(content)
        return folder

    return make


BROKEN_INDEX = json.dumps({"weight_map": {"w": "gone.safetensors"}})

DIFFUSERS: dict[str, Case] = {
    "folder_index_not_json": ("corrupt", "model_index.json", pipeline(model_index="{")),
    "folder_index_a_list": ("corrupt", "model_index.json", pipeline(model_index="[]")),
    "folder_weights_missing": ("unsupported", "weights", pipeline(None)),
    "folder_weights_cut": ("corrupt", "diffusion_pytorch_model.safetensors", pipeline(ONE_SAFE[:-1])),
    "folder_weights_empty": (
        "corrupt|unsupported", "diffusion_pytorch_model.safetensors", pipeline(b"")
    ),
    "folder_shard_missing": (
        "corrupt", "gone.safetensors",
        pipeline(None, **{"unet__diffusion_pytorch_model.safetensors.index": BROKEN_INDEX}),
    ),
    "folder_component_climbs": (
        "corrupt|unsupported", "weights", pipeline(model_index=json.dumps({
            "_class_name": "X", "../unet": ["diffusers", "UNet2DConditionModel"]})),
    ),
}  # fmt: skip
