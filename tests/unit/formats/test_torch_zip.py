"""torch writes, memcard reads; memcard writes, torch reads."""

from __future__ import annotations

import argparse
import datetime
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fixtures.torch_archive import (
    ONE,
    ONE_DATA,
    name,
    pack,
    state_dict,
    tensor,
    text,
    write_archive,
)
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import CorruptError, UnsupportedError
from memcard.formats import open_file
from memcard.formats.torch_zip import PLUGIN
from memcard.jobs.convert import convert

DTYPE_NAMES = [
    *("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8"),
    *("bool", "complex64", "uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


def bits(value: torch.Tensor) -> bytes:
    flat = value.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)  # noqa: TID251  # the reader we write for


def random_bits(dtype: str, *shape: int) -> torch.Tensor:
    kind = getattr(torch, dtype)
    size = torch.Size(shape).numel() * torch.empty(0, dtype=kind).element_size()
    top = 2 if dtype == "bool" else 256
    generator = torch.Generator().manual_seed(len(dtype))
    raw = torch.randint(0, top, (size,), dtype=torch.uint8, generator=generator)
    return raw.view(kind).reshape(shape)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    tied = torch.randn(4, 4)
    made = {dtype: random_bits(dtype, 3, 4) for dtype in DTYPE_NAMES}
    made |= {
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "transposed": torch.arange(12.0).reshape(3, 4).t(),
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "sliced": torch.arange(20)[3:15:4],
        "permuted": random_bits("bfloat16", 2, 3, 4).permute(2, 0, 1),
        "complex_transposed": random_bits("complex64", 2, 3).t(),
        "tied.a": tied,
        "tied.b": tied,
        "tied.row": tied[1:2],
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    return made


def test_from_torch_to_safetensors_bit_for_bit(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "a.ckpt")

    convert(tmp_path / "a.ckpt", tmp_path / "b.safetensors")

    found = load_file(tmp_path / "b.safetensors")
    assert list(open_file(tmp_path / "b.safetensors").specs) == list(tensors)
    assert {k: (v.dtype, v.shape) for k, v in found.items()} == {
        k: (v.dtype, v.shape) for k, v in tensors.items()
    }
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in tensors.items()}


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth"])
def test_from_safetensors_to_torch_bit_for_bit(
    suffix: str, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(OrderedDict(tensors), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors")

    convert(tmp_path / "b.safetensors", tmp_path / f"c{suffix}")

    found = load(tmp_path / f"c{suffix}")
    found = found["state_dict"] if suffix == ".ckpt" else found
    assert isinstance(found, OrderedDict)
    assert {k: (v.dtype, v.shape, v.stride()) for k, v in found.items()} == {
        k: (v.dtype, v.shape, v.contiguous().stride()) for k, v in tensors.items()
    }
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in tensors.items()}
    mapped = torch.load(tmp_path / f"c{suffix}", weights_only=True, mmap=True)  # noqa: TID251
    mapped = mapped["state_dict"] if suffix == ".ckpt" else mapped
    assert {k: bits(v) for k, v in mapped.items()} == {k: bits(v) for k, v in tensors.items()}


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize(("dtype", "memcard"), [("complex128", "C128"), ("complex32", "C32")])
def test_dtypes_that_only_torch_has_go_from_torch_to_torch(
    dtype: str, memcard: str, tmp_path: Path
) -> None:
    made = random_bits(dtype, 3, 4).t()
    torch.save({"w": made}, tmp_path / "a.pt")

    convert(tmp_path / "a.pt", tmp_path / "b.pt")

    assert open_file(tmp_path / "b.pt").specs == {"w": Spec(DTYPES[memcard], (4, 3))}
    assert bits(load(tmp_path / "b.pt")["w"]) == bits(made)


def test_packed_fp4_counts_values_not_pairs(tmp_path: Path) -> None:
    made = torch.arange(6, dtype=torch.uint8).reshape(2, 3).view(torch.float4_e2m1fn_x2)
    torch.save({"w": made}, tmp_path / "a.pt")

    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c.pt")

    assert open_file(tmp_path / "b.safetensors").specs == {"w": Spec(DTYPES["F4"], (2, 6))}
    back = load(tmp_path / "c.pt")["w"]
    assert back.dtype == torch.float4_e2m1fn_x2
    assert bits(back.view(torch.uint8)) == bytes(range(6))


def test_parts_of_a_strided_view_are_parts_of_the_whole(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(1000.0).reshape(10, 10, 10).permute(2, 0, 1)}, tmp_path / "a.pt")
    checkpoint = open_file(tmp_path / "a.pt")
    whole, part = bytes(checkpoint.read("w")), bytearray(997)

    checkpoint.readinto("w", memoryview(part), 1234)

    assert part == whole[1234:2231]
    assert checkpoint.extent("w") is None


# With protocol 0 torch writes a file that it cannot read itself: the storage becomes a mere text.
@pytest.mark.parametrize("protocol", range(1, 6))
def test_every_pickle_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    made = {"state_dict": OrderedDict(w=torch.arange(4.0)), "note": "hé", "step": 1 << 40}
    torch.save(made, tmp_path / "a.ckpt", pickle_protocol=protocol)

    checkpoint = open_file(tmp_path / "a.ckpt")

    assert checkpoint.read("w") == struct.pack("<4f", 0, 1, 2, 3)
    assert checkpoint.metadata == {"note": "hé", "step": str(1 << 40)}


def test_a_module_and_optimizer_checkpoint(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    torch.save(
        {
            "optimizer_states": [optimizer.state_dict()],
            "state_dict": model.state_dict(),
            "lr_schedulers": [],
            "global_step": 7,
        },
        tmp_path / "a.ckpt",
    )

    checkpoint = open_file(tmp_path / "a.ckpt")
    names = list(checkpoint.specs)

    assert names[:2] == ["0.weight", "0.bias"]
    assert "optimizer_states[0].state[0].exp_avg" in names
    assert checkpoint.metadata == {"global_step": "7"}
    assert "training state" in checkpoint.notes[0]


def lightning_program() -> bytes:
    """A class object as a dict key, as in the callbacks of Stable Diffusion 1's own files."""
    callback = name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    score = text("best_model_score") + tensor("1", [], [], numel=1)
    state = b"}" + callback + b"}(" + score + text("path") + text("x.ckpt") + b"us"
    namespace = (
        name("argparse", "Namespace") + b")\x81}" + text("lr") + name("pathlib", "PosixPath")
    )
    return (
        b"\x80\x02}("
        + text("epoch") + b"K\x05"
        + text("pytorch-lightning_version") + text("1.4.2")
        + text("state_dict") + b"}" + text("w") + tensor("0", [2, 2], [2, 1]) + b"s"
        + text("callbacks") + state
        + text("hyper_parameters") + namespace + text("a") + b"\x85Rsb"
        + b"u."
    )  # fmt: skip


def test_lightning_files_are_read_and_their_names_are_listed(tmp_path: Path) -> None:
    storages = {**ONE_DATA, "1": struct.pack("<f", 0.5)}
    path = write_archive(tmp_path / "sd.ckpt", lightning_program(), storages)

    checkpoint = open_file(path)

    score = "callbacks[pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint]"
    assert list(checkpoint.specs) == ["w", f"{score}.best_model_score"]
    assert checkpoint.read(f"{score}.best_model_score") == struct.pack("<f", 0.5)
    assert checkpoint.metadata == {"epoch": "5", "pytorch-lightning_version": "1.4.2"}
    assert any("argparse.Namespace, pathlib.PosixPath" in note for note in checkpoint.notes)
    with pytest.raises(Exception, match="Unsupported global"):
        load(path)


def test_big_endian_files_are_turned_around(tmp_path: Path) -> None:
    program = state_dict({"w": tensor("0", [2, 2], [1, 2]), "v": tensor("0", [4], [1])})
    raw = struct.pack(">4f", 1, 2, 3, 4)
    more = [("archive/byteorder", b"big")]

    checkpoint = open_file(write_archive(tmp_path / "a.pt", program, {"0": raw}, more=more))
    part = bytearray(5)
    checkpoint.readinto("v", memoryview(part), 3)

    assert checkpoint.read("v") == struct.pack("<4f", 1, 2, 3, 4)
    assert checkpoint.read("w") == struct.pack("<4f", 1, 3, 2, 4)
    assert part == struct.pack("<4f", 1, 2, 3, 4)[3:8]
    assert checkpoint.extent("v") is None


def test_tied_weights_are_reported(tmp_path: Path) -> None:
    made = torch.randn(4)
    torch.save({"a": made, "b": made, "c": made[1:], "d": torch.randn(4)}, tmp_path / "a.pt")

    assert open_file(tmp_path / "a.pt").notes == ("Share one storage (tied weights): a, b, c.",)


def test_parts_of_one_storage_that_do_not_overlap_are_not_tied(tmp_path: Path) -> None:
    made = torch.randn(4)
    torch.save({"a": made[:2], "b": made[2:]}, tmp_path / "a.pt")

    assert open_file(tmp_path / "a.pt").notes == ()


LEFT_OUT: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "sparse": (lambda: torch.eye(2).to_sparse(), "sparse_tensor"),
    "meta": (lambda: torch.empty(3, device="meta"), "meta_tensor"),
    "conjugated": (lambda: torch.ones(2, dtype=torch.complex64).conj(), "conjugated"),
    "negated": (lambda: torch.ones(2, dtype=torch.complex64).conj().imag, "negated"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint32),
        "qtensor",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("case", LEFT_OUT)
def test_tensors_that_are_more_than_bytes_are_left_out_and_noted(case: str, tmp_path: Path) -> None:
    make, text = LEFT_OUT[case]
    torch.save({"w": make(), "v": torch.ones(1)}, tmp_path / "a.pt")

    checkpoint = open_file(tmp_path / "a.pt")

    assert list(checkpoint.specs) == ["v"]
    assert any(text in note for note in checkpoint.notes)


KEPT = {
    "numpy": np.ones(3),
    "numpy_scalar": np.float64(3),
    "numpy_generator": np.random.default_rng(0),
    "random_state": np.random.RandomState(0),
    "python_random": random.getstate(),
    "date": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "path": Path("x"),
    "namespace": argparse.Namespace(lr=1),
    "set": {1, 2},
    "complex": 1 + 2j,
    "range": range(3),
    "ellipsis": ...,
    "device": torch.device("cuda:0"),
    "dtype": torch.float16,
    "size": torch.Size([1, 2]),
    "deque": deque([1], maxlen=3),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", KEPT)
def test_what_trainers_leave_behind_does_not_make_a_file_unsafe(
    kind: str, protocol: int, tmp_path: Path
) -> None:
    made = {"extra": KEPT[kind], "v": torch.ones(1)}
    torch.save(made, tmp_path / "a.pt", pickle_protocol=protocol)

    assert list(open_file(tmp_path / "a.pt").specs) == ["v"]


@pytest.mark.parametrize(
    ("storages", "text"),
    [({}, "storage '0' is missing"), ({"0": bytes(12)}, "has 12 bytes, not 16")],
)
def test_storages_must_have_the_size_the_program_says(
    storages: dict[str, bytes], text: str, tmp_path: Path
) -> None:
    with pytest.raises(CorruptError, match=text):
        open_file(write_archive(tmp_path / "a.pt", ONE, storages))


def test_a_wrong_checksum_is_a_note(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", ONE, ONE_DATA)
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        crc = struct.pack("<I", archive.getinfo("archive/data.pkl").CRC)
    path.write_bytes(raw.replace(crc, b"\1\2\3\4"))

    assert any("checksum" in note for note in open_file(path).notes)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([("x/data.pkl", ONE), ("x/code/a.py", b"")], "TorchScript"),
        ([("a.npy", b"")], r"\.npz"),
        ([("model.safetensors", b"")], "Unpack it first"),
        ([("readme.txt", b"")], "without a data.pkl"),
    ],
)
def test_other_zip_files_are_told_apart(
    members: list[tuple[str, bytes]], text: str, tmp_path: Path
) -> None:
    (tmp_path / "a.pt").write_bytes(pack(members))

    with pytest.raises(UnsupportedError, match=text):
        open_file(tmp_path / "a.pt")


def test_compressed_members_are_refused_with_a_remedy(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", ONE, ONE_DATA, method=zipfile.ZIP_DEFLATED)

    with pytest.raises(UnsupportedError, match="zip -0"):
        open_file(path)


def test_written_archives_are_aligned_and_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with PLUGIN.create(path) as sink:
        sink.begin({n: Spec(DTYPES["U8"], (5,)) for n in "abc"}, {"title": "x"})
        for n in "abc":
            sink.write(n, memoryview(n.encode() * 5))

    checkpoint = open_file(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    places = [checkpoint.extent(n) for n in "abc"]
    assert [place.offset % 64 for place in places if place] == [0, 0, 0]
    assert load(path)["memcard_metadata"] == {"title": "x"}


def test_listing_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.ckpt", ONE, ONE_DATA)
    code = (
        "import sys; from memcard.formats import open_file; c = open_file(sys.argv[1]);"
        "c.read('w'); print(list(c.specs), {'torch', 'numpy', 'pickle'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, env={"PYTHONPATH": "src"})  # fmt: skip

    assert done.stdout.split(" ", 1) == ["['w']", "set()\n"]
