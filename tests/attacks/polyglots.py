"""Live payloads outside of torch's zip: old torch files, bare pickles, files that are two things, folders."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from attacks.containers import REFUSED, archive, npy
from attacks.routes import EMPTY, evil, system
from fixtures.gguf_bytes import ONE_GGUF
from fixtures.legacy_bytes import MAGIC, OLD_ONE, SYSTEM, dumps, legacy, old_state_dict, old_tensor
from fixtures.safetensors_bytes import ONE_SAFE
from fixtures.torch_archive import ONE, ONE_DATA, name, pack, text, write_archive
from fixtures.zip_bytes import Entry, zipped

Verdicts = str | tuple[str, ...]
Bytes = Callable[[str], bytes]


def first(marker: str, then: bytes) -> bytes:
    """A program that makes the call, throws the result away and goes on honestly."""
    return b"\x80\x02" + system(marker) + b"0" + then


def _view(marker: str) -> bytes:
    """In the sixth part of an old persistent id."""
    return old_state_dict({"w": old_tensor("0", [4], [1], view=system(marker))})


def _module(marker: str) -> bytes:
    """The persistent id of a pickled module: its class and its source code."""
    pid = b"(" + text("module") + system(marker) + text("net.py") + text("class Net: ...") + b"tQ"
    return b"\x80\x02" + pid + b"."


def _members(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as pack_of_files:
        for member, content in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            pack_of_files.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _zip_read_as_a_pickle(marker: str) -> bytes:
    """``PK`` begins a persistent id of protocol 0; it ends at a newline in a member's name."""
    # The id has to be ASCII, and so has every byte of the header: lengths and checksum.
    code = (b"archive/\n" + system(marker) + b".").ljust(0x130, b"x")
    return zipped([Entry(code, b"x", crc=0x11111111), Entry(b"archive/data.pkl", EMPTY)])


def _shifted_zip(marker: str, before: bytes) -> bytes:
    """An archive behind other bytes, with offsets that fit: zipfile opens it."""
    members = [Entry(b"archive/data.pkl", evil(marker)), Entry(b"archive/version", b"3\n")]
    return zipped(members, before=before)


# Name: the verdicts that are right, the careless reader that runs it, the suffix, the bytes.
FILES: dict[str, tuple[Verdicts, str, str, Bytes]] = {
    "old_in_the_magic": ("unsafe", "rows", ".pt", lambda m: legacy(OLD_ONE, magic=first(m, dumps(MAGIC)[2:]))),
    "old_in_the_version": ("unsafe", "rows", ".pt", lambda m: legacy(OLD_ONE, version=first(m, dumps(1001)[2:]))),
    "old_in_the_system": ("unsafe", "rows", ".pt", lambda m: legacy(OLD_ONE, system=first(m, dumps(SYSTEM)[2:]))),
    "old_in_the_object": ("unsafe", "rows", ".ckpt", lambda m: legacy(first(m, OLD_ONE[2:]))),
    "old_in_the_keys": ("unsafe", "rows", ".pth", lambda m: legacy(OLD_ONE, keys=first(m, dumps(["0"])[2:]))),
    "old_in_a_view": ("unsafe", "rows", ".bin", lambda m: legacy(_view(m))),
    "old_in_a_module": ("unsafe", "rows", ".pt", lambda m: legacy(_module(m))),
    "old_in_protocol_0": ("unsafe", "rows", ".pt", lambda m: (
        legacy(OLD_ONE, magic=system(m) + b"0L" + str(MAGIC).encode() + b"L\n."))),
    "old_cut_off_after_the_call": ("unsafe", "rows", ".pt", lambda m: legacy(first(m, OLD_ONE[2:]))[:-40]),
    "old_behind_the_storages": (("unsafe", "corrupt"), "carve", ".pt", lambda m: legacy(OLD_ONE) + evil(m)),
    "old_named_safetensors": ("unsafe", "rows", ".safetensors", lambda m: legacy(first(m, OLD_ONE[2:]))),
    "bare_pickle": ("unsafe", "rows", ".pkl", evil),
    "bare_pickle_of_protocol_0": ("unsafe", "rows", ".pt", lambda m: f"cos\nsystem\n(S'touch {m}'\ntR.".encode()),
    "bare_pickle_named_safetensors": ("unsafe", "rows", ".safetensors", evil),
    "bare_pickle_after_an_honest_one": ("unsafe", "rows", ".pt", lambda m: EMPTY + evil(m)),
    "zip_named_safetensors": ("unsafe", "zipfile", ".safetensors", lambda m: archive(("archive/data.pkl", evil(m)))),
    "pickle_before_a_zip": ("unsafe", "rows", ".pt", lambda m: evil(m) + archive(("archive/data.pkl", ONE))),
    "honest_pickle_before_a_zip": (REFUSED, "zipfile", ".pt", lambda m: _shifted_zip(m, EMPTY)),
    "pickle_after_a_zip": ("corrupt", "carve", ".pt", lambda m: archive(("archive/data.pkl", EMPTY)) + evil(m)),
    "zip_that_is_a_pickle": (("corrupt", "unsafe"), "rows", ".pt", _zip_read_as_a_pickle),
    "safetensors_before_a_zip": ("corrupt", "zipfile", ".safetensors", lambda m: _shifted_zip(m, ONE_SAFE)),
    "safetensors_before_a_pickle": ("corrupt", "carve", ".safetensors", lambda m: ONE_SAFE + evil(m)),
    "gguf_before_a_zip": ("corrupt", "zipfile", ".gguf", lambda m: _shifted_zip(m, ONE_GGUF)),
    "gguf_before_a_pickle": ("corrupt", "carve", ".gguf", lambda m: ONE_GGUF + evil(m)),
    "picture_before_a_zip": (REFUSED, "zipfile", ".png", lambda m: _shifted_zip(m, b"\x89PNG\r\n\x1a\n")),
    "script_before_a_zip": (REFUSED, "zipfile", ".ckpt", lambda m: _shifted_zip(m, b"#!/bin/sh\nexit\n")),
    "gzip_of_a_pickle": (REFUSED, "gzip", ".pt", lambda m: gzip.compress(evil(m))),
    "tar_of_torch": (REFUSED, "tar", ".pt", lambda m: _members(pickle=evil(m), tensors=b"", storages=b"")),
    "numpy_array_of_objects": (REFUSED, "numpy", ".npy", npy),
}  # fmt: skip

Folder = Callable[[Path, str], Path]


def _index(folder: Path, kind: str, **files: str) -> Path:
    index = folder / f"pytorch_model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": files}))
    return index


def _hostile_shard(folder: Path, marker: str) -> Path:
    write_archive(folder / "good.bin", ONE, ONE_DATA)
    folder.joinpath("bad.bin").write_bytes(archive(("archive/data.pkl", evil(marker))))
    return _index(folder, "bin", w="good.bin", v="bad.bin")


def _hostile_old_shard(folder: Path, marker: str) -> Path:
    folder.joinpath("bad.bin").write_bytes(legacy(first(marker, OLD_ONE[2:])))
    return _index(folder, "bin", w="bad.bin")


def _hostile_shard_named_safetensors(folder: Path, marker: str) -> Path:
    folder.joinpath("bad.safetensors").write_bytes(archive(("archive/data.pkl", evil(marker))))
    return _index(folder, "safetensors", w="bad.safetensors")


def _shard_elsewhere(folder: Path, marker: str) -> Path:
    inside = folder / "model"
    inside.mkdir()
    folder.joinpath("bad.bin").write_bytes(archive(("archive/data.pkl", evil(marker))))
    return _index(inside, "bin", w="../bad.bin")


def diffusers(folder: Path, **components: str) -> Path:
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1"}
    entries = {part: ["diffusers", kind] for part, kind in components.items()}
    folder.joinpath("model_index.json").write_text(json.dumps(index | entries))
    for part, kind in components.items():
        folder.joinpath(part).mkdir()
        folder.joinpath(part, "config.json").write_text(json.dumps({"_class_name": kind}))
    return folder


def _hostile_component(folder: Path, marker: str) -> Path:
    diffusers(folder, unet="UNet2DConditionModel", vae="AutoencoderKL")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(ONE_SAFE)
    bad = folder / "vae" / "diffusion_pytorch_model.bin"
    bad.write_bytes(archive(("archive/data.pkl", evil(marker))))
    return folder


def _hostile_lone_component(folder: Path, marker: str) -> Path:
    folder.joinpath("config.json").write_text('{"_class_name": "AutoencoderKL"}')
    bad = folder / "diffusion_pytorch_model.bin"
    bad.write_bytes(archive(("archive/data.pkl", evil(marker))))
    return folder


def _hostile_shard_of_a_component(folder: Path, marker: str) -> Path:
    diffusers(folder, unet="UNet2DConditionModel")
    part = folder / "unet"
    part.joinpath("bad.bin").write_bytes(pack([("archive/data.pkl", evil(marker))]))
    index = part / "diffusion_pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"w": "bad.bin"}}))
    return folder


def _module_beside(folder: Path, marker: str) -> Path:
    """Importing is enough: the file names a module that lies beside it."""
    folder.joinpath("my_model.py").write_text(f"open({marker!r}, 'w').close()\nclass Net: pass\n")
    program = b"\x80\x02" + name("my_model", "Net") + b"."
    return write_archive(folder / "x.ckpt", program)


def _confusable_module_beside(folder: Path, marker: str) -> Path:
    """Cyrillic letters: reads like collections.OrderedDict."""
    module = "cоllections"  # noqa: RUF001  # the point
    folder.joinpath(f"{module}.py").write_text(f"open({marker!r}, 'w').close()\nOrderedDict = dict")
    program = b"\x80\x02" + name(module, "OrderedDict") + b")R."
    return write_archive(folder / "x.ckpt", program)


# Name: the verdicts that are right, the careless reader that runs it, what makes the folder.
FOLDERS: dict[str, tuple[Verdicts, str, Folder]] = {
    "hostile_shard": ("unsafe", "shards", _hostile_shard),
    "hostile_old_shard": ("unsafe", "shards", _hostile_old_shard),
    "hostile_shard_named_safetensors": (("unsafe", "corrupt"), "shards", _hostile_shard_named_safetensors),
    "shard_in_another_folder": ("corrupt", "shards", _shard_elsewhere),
    "hostile_component": ("unsafe", "folder", _hostile_component),
    "hostile_lone_component": ("unsafe", "folder", _hostile_lone_component),
    "hostile_shard_of_a_component": ("unsafe", "folder", _hostile_shard_of_a_component),
    "module_beside_the_file": ("unsafe", "beside", _module_beside),
    "confusable_module_beside_the_file": ("unsafe", "beside", _confusable_module_beside),
}  # fmt: skip
