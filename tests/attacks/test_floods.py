"""Small files that ask for much work or much space: read or refused, but soon and with little memory.

Each is asked in a process that has 5 s and 200 MB for every question (``judge.py``).
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks.worker import VERDICTS, judge
from fixtures.gguf_bytes import Info, Writer, gguf
from fixtures.legacy_bytes import OLD_ONE, legacy
from fixtures.safetensors_bytes import ONE_SAFE, raw_file
from fixtures.torch_archive import ONE_DATA, name, pack, state_dict, tensor, text

pytestmark = pytest.mark.slow  # half a minute on a quiet machine
W = tensor("0", [4], [1])
MB = 1 << 20
MOST_WRITTEN = 1024 * MB


def archive(program: bytes, storage: bytes = ONE_DATA["0"], *, deflate: bool = True) -> bytes:
    members = [
        ("archive/data.pkl", program),
        ("archive/data/0", storage),
        ("archive/version", b"3\n"),
    ]
    return pack(members, zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED)


def calls(function: bytes, value: bytes, times: int) -> bytes:
    """Make a value once, then hand it to a function again and again."""
    one = function + b"(h\x01tR"
    return archive(b"\x80\x02" + value + b"q\x010](" + one * times + b"e.")


def keyed(pairs: Callable[[int], bytes], times: int) -> bytes:
    return archive(
        b"\x80\x02}" + b"".join(b"J" + struct.pack("<i", i) + pairs(i) for i in range(times)) + b"."
    )


def views(count: int, shape: int, stride: int, storage: bytes) -> bytes:
    numel = len(storage) // 4
    made = {f"t{i}": tensor("0", [shape], [stride], numel=numel) for i in range(count)}
    return archive(state_dict(made), storage)


def many(item: bytes, count: int) -> bytes:
    return archive(b"\x80\x02](" + item * count + b"e.")


LONG = text("k" * 50_000) + b"q\x010"
ORDERED = name("collections", "OrderedDict")
BIG_LIST = b"](" + b"N" * 100_000 + b"e"
BIG_DICT = b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(20_000)) + b"u"
EMPTY_ENTRY = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
_w = Writer()

FLOODS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "instructions": (".ckpt", lambda: archive(b"\x80\x02" + b"N0" * 5_000_000 + b"}.")),
    "instructions_of_an_old_file": (".pt", lambda: legacy(b"\x80\x02" + b"N0" * 2_000_000 + b"}.", {})),
    "instructions_of_a_bare_pickle": (".pt", lambda: b"\x80\x02" + b"N0" * 2_000_000 + b"}."),
    "names": (".ckpt", lambda: archive(b"\x80\x02" + b"".join(b"cos\nx%d\n0" % i for i in range(100_000)) + b"}.")),
    "dicts": (".ckpt", lambda: archive(b"\x80\x02(" + b"}" * 120_000 + b"1N.")),
    "appends": (".ckpt", lambda: archive(b"\x80\x02]" + b"Na" * 1_000_000 + b".")),
    "items": (".ckpt", lambda: keyed(lambda i: b"Ns", 400_000)),
    "items_of_dicts": (".ckpt", lambda: keyed(lambda i: b"}s", 400_000)),
    "tuples_of_tuples": (".ckpt", lambda: archive(b"\x80\x02)" + b"2\x86" * 60 + b".")),
    "long_paths": (".ckpt", lambda: archive(
        b"\x80\x02}" + text("k" * 100_000) + b"}(" + b"".join(text(str(i)) + W for i in range(4000)) + b"us.")),
    "long_keys": (".ckpt", lambda: archive(
        b"\x80\x02" + LONG + W + b"q\x020](" + b"}h\x01h\x02s" * 20_000 + b"e.")),
    "encoded_again_and_again": (".ckpt", lambda: archive(
        b"\x80\x02" + text("x" * MB) + b"q\x010]("
        + (name("_codecs", "encode") + b"(h\x01" + text("latin1") + b"tR") * 1000 + b"e.")),
    "lists_of_a_list": (".ckpt", lambda: calls(name("builtins", "list"), BIG_LIST, 3000)),
    "sets_of_a_list": (".ckpt", lambda: calls(name("builtins", "set"), BIG_LIST, 3000)),
    "queues_of_a_list": (".ckpt", lambda: calls(name("collections", "deque"), BIG_LIST, 3000)),
    "sizes_of_a_list": (".ckpt", lambda: calls(name("torch", "Size"), BIG_LIST, 3000)),
    "dicts_of_a_dict": (".ckpt", lambda: calls(ORDERED, BIG_DICT, 2000)),
    "counters_of_a_dict": (".ckpt", lambda: calls(name("collections", "Counter"), BIG_DICT, 2000)),
    "tensors": (".ckpt", lambda: many(W, 10_000)),
    "tensors_of_60_axes": (".ckpt", lambda: many(tensor("0", [1] * 60, [1] * 60), 3000)),
    "views_of_one_value": (".ckpt", lambda: views(2000, 1 << 24, 0, bytes(16))),
    "views_of_one_storage": (".ckpt", lambda: views(2000, MB, 1, bytes(4 * MB))),
    "views_of_zeros": (".ckpt", lambda: views(50, 12 * MB, 1, bytes(48 * MB))),
    "members": (".ckpt", lambda: pack([("archive/data.pkl", b"}.")] + [(f"archive/data/{i}", b"") for i in range(20_000)])),
    "local_headers": (".ckpt", lambda: b"PK\x03\x04" * 500_000),
    "pickles_everywhere": (".ckpt", lambda: b"PK\x03\x04" + b"\x80\x02}q\x00." * 300_000),
    "entries": (".safetensors", lambda: raw_file(("{" + ",".join(EMPTY_ENTRY % i for i in range(20_000)) + "}").encode())),
    "axes": (".safetensors", lambda: raw_file(
        b'{"w":{"dtype":"U8","shape":[' + b"1," * 1_000_000 + b'1],"data_offsets":[0,1]}}', b"x")),
    "lists": (".safetensors", lambda: raw_file(b'{"w":[' + b"[]," * 1_000_000 + b"[]]}")),
    "metadata": (".safetensors", lambda: raw_file(
        ('{"__metadata__":{' + ",".join(f'"{i}":"1"' for i in range(100_000)) + "}}").encode())),
    "pairs": (".gguf", lambda: gguf([], [_w.scalar(b"k%d" % i, 0, 1) for i in range(100_000)])),
    "texts": (".gguf", lambda: gguf([], [_w.array("a", 8, 1_000_000, bytes(8_000_000))])),
    "infos": (".gguf", lambda: gguf([Info(b"t%d" % i, [1], 0, b"abcd", offset=0) for i in range(50_000)])),
    "shards": (".safetensors.index.json", lambda: json.dumps(
        {"weight_map": {f"w{i}": f"s{i}.safetensors" for i in range(50_000)}}).encode()),
}  # fmt: skip

# Files that seem to have 5 GB: a head, then a hole.
HOLES: dict[str, tuple[str, bytes]] = {
    "hole_in_an_index": (".safetensors.index.json", b'{"weight_map": {'),
    "hole_in_a_zip": (".ckpt", b"PK\x03\x04"),
    "hole_in_an_array": (".gguf", gguf([], [_w.array("a", 0, 4 << 30, b"")])),
    "hole_in_a_text": (".gguf", gguf([], [_w.string("a") + _w.u32(8) + _w.length(4 << 30)])),
    "hole_in_an_old_file": (".pt", legacy(OLD_ONE)[:-20]),
    "hole_in_a_pickle": (".pt", b"\x80\x02X\xff\xff\xff\x7f"),
    "hole_in_a_pickled_number": (".pt", b"\x80\x02\x8b\xff\xff\xff\x7f"),
    "hole_in_a_header": (".safetensors", struct.pack("<Q", 99_999_999) + b"{"),
}


def _folder_with_a_hole(folder: Path, hollow: str) -> Path:
    folder.joinpath("unet").mkdir(parents=True)
    folder.joinpath("model_index.json").write_text(
        '{"unet": ["diffusers", "UNet2DConditionModel"]}'
    )
    folder.joinpath("unet", "diffusion_pytorch_model.safetensors").write_bytes(ONE_SAFE)
    with folder.joinpath(hollow).open("wb") as file:
        file.write(b"{")
        file.truncate(5 << 30)
    return folder


@pytest.fixture(scope="module")
def floods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    where, files = tmp_path_factory.mktemp("floods"), {}
    for case, (suffix, make) in FLOODS.items():
        files[case] = where / f"{case}{suffix}"
        files[case].write_bytes(make())
    for case, (suffix, head) in HOLES.items():
        files[case] = where / f"{case}{suffix}"
        with files[case].open("wb") as file:
            file.write(head)
            file.truncate(5 << 30)
    for hollow in ("model_index.json", "unet/config.json"):
        files[hollow] = _folder_with_a_hole(where / hollow.replace("/", "_"), hollow)
    return judge(files, tmp_path_factory.mktemp("out"))


@pytest.mark.parametrize("case", [*FLOODS, *HOLES, "model_index.json", "unet/config.json"])
def test_it_is_answered_soon_with_little_memory(
    case: str, floods: dict[str, dict[str, Any]]
) -> None:
    found = floods[case]

    assert found["open"].get("error", "UnsafeError") in VERDICTS, found["open"]
    assert found["salvage"].get("error", "UnsafeError") in VERDICTS, found["salvage"]
    assert found["inspect"].get("code") in (0, 3, 4, 5), found["inspect"]
    assert found["convert"].get("code") in (0, 2, 3, 4, 5, 7), found["convert"]
    assert found["out_bytes"] < MOST_WRITTEN
