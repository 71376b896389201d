"""torch writes, memcard reads; memcard writes, torch reads."""

from __future__ import annotations

import argparse
import datetime
import decimal
import fractions
import random
import struct
import subprocess
import sys
import types
import uuid
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
from memcard.errors import CorruptError, UnsafeError, UnsupportedError
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
@pytest.mark.parametrize("protocol", range(6))
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


def bits_of(tensor: torch.Tensor) -> bytes:
    return bits(tensor.resolve_conj().resolve_neg())


@pytest.mark.parametrize("protocol", [2, 4])
def test_lazily_conjugated_and_negated_tensors_are_read_as_they_look(
    protocol: int, tmp_path: Path
) -> None:
    base = torch.complex(torch.tensor([1.0, 0.0, float("nan")]), torch.tensor([-2.0, -0.0, 3.0]))
    made = {
        "conj": base.conj(),
        "neg": base.clone().conj().imag,
        "strided": base.repeat(2, 1).t().conj(),
        "double": random_bits("complex128", 3, 2).t().conj(),
        "half": torch._neg_view(torch.tensor([1.0, -0.0], dtype=torch.bfloat16)),
        "both": torch._neg_view(base.conj()),
    }
    torch.save(made, tmp_path / "a.pt", pickle_protocol=protocol)

    checkpoint = open_file(tmp_path / "a.pt")
    part = bytearray(5)
    checkpoint.readinto("conj", memoryview(part), 6)

    assert {n: bytes(checkpoint.read(n)) for n in made} == {n: bits_of(t) for n, t in made.items()}
    assert part == bits_of(made["conj"])[6:11]
    assert checkpoint.extent("conj") is None


def test_meta_tensors_and_negated_integers_are_left_out_and_noted(tmp_path: Path) -> None:
    made = {"meta": torch.empty(3, device="meta"), "int": torch._neg_view(torch.arange(3))}
    torch.save({**made, "v": torch.ones(1)}, tmp_path / "a.pt")

    checkpoint = open_file(tmp_path / "a.pt")

    assert list(checkpoint.specs) == ["v"]
    note = next(note for note in checkpoint.notes if "cannot read" in note)
    assert note.startswith("2 tensors")
    assert "meta_tensor" in note


def parts_of_sparse() -> dict[str, Any]:
    coo, csr = torch.eye(3).to_sparse(), torch.eye(4)[:2].to_sparse_csr()
    return {
        "coo": (coo, {"indices": coo._indices(), "values": coo._values()}),
        "csr": (
            csr,
            {
                "crow_indices": csr.crow_indices(),
                "col_indices": csr.col_indices(),
                "values": csr.values(),
            },
        ),
        "csc": (
            csc := torch.eye(3).to_sparse_csc(),
            {
                "ccol_indices": csc.ccol_indices(),
                "row_indices": csc.row_indices(),
                "values": csc.values(),
            },
        ),
    }


def parts_of_quantized() -> dict[str, Any]:
    whole = torch.quantize_per_tensor(torch.arange(6.0).reshape(2, 3), 0.1, 3, torch.quint8)
    scales, zeros = torch.tensor([0.5, 0.1]).double(), torch.tensor([0, 1])
    rows = torch.quantize_per_channel(torch.ones(2, 3), scales, zeros, 0, torch.qint8)
    packed = torch._empty_affine_quantized([2, 3], scale=0.1, zero_point=0, dtype=torch.quint4x2)
    return {
        "whole": (whole, {"int_repr": whole.int_repr()}),
        "rows": (rows, {"int_repr": rows.int_repr(), "scales": scales, "zero_points": zeros}),
        "wide": (
            wide := torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint32),
            {"int_repr": wide.int_repr()},
        ),
        "packed": (packed, {"packed": None}),
    }


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [parts_of_sparse, parts_of_quantized])
def test_tensors_of_several_parts_are_listed_in_their_parts(
    make: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    made = make()
    torch.save({name: whole for name, (whole, _) in made.items()}, tmp_path / "a.pt")

    checkpoint = open_file(tmp_path / "a.pt")

    expected = {f"{n}.{p}": t for n, (_, parts) in made.items() for p, t in parts.items()}
    assert list(checkpoint.specs) == list(expected)
    assert {n: bytes(checkpoint.read(n)) for n, t in expected.items() if t is not None} == {
        n: bits(t) for n, t in expected.items() if t is not None
    }
    assert any("in its parts" in note for note in checkpoint.notes)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_the_numbers_that_belong_to_the_parts_are_metadata(tmp_path: Path) -> None:
    made = {
        "q": torch.quantize_per_tensor(torch.ones(2), 0.1, 3, torch.quint8),
        "s": torch.eye(3).to_sparse_csr(),
    }
    torch.save(made, tmp_path / "a.pt")

    metadata = open_file(tmp_path / "a.pt").metadata

    assert metadata == {
        "q.scheme": "per_tensor_affine", "q.scale": "0.1", "q.zero_point": "3",
        "s.layout": "sparse_csr", "s.size": "[3, 3]",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nested_tensors_keep_their_buffer(tmp_path: Path) -> None:
    made = torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)])
    torch.save({"w": made}, tmp_path / "a.pt")

    checkpoint = open_file(tmp_path / "a.pt")

    assert list(checkpoint.specs) == ["w.buffer", "w.sizes", "w.strides", "w.offsets"]
    assert checkpoint.read("w.buffer") == struct.pack("<5f", 1, 1, 0, 0, 0)


def test_dtypes_that_have_no_other_name_keep_their_bytes(tmp_path: Path) -> None:
    raw = torch.arange(8, dtype=torch.uint8)
    torch.save({"a": raw.view(torch.bits8), "b": raw.view(torch.bits16)}, tmp_path / "a.pt")

    checkpoint = open_file(tmp_path / "a.pt")

    assert {n: str(s) for n, s in checkpoint.specs.items()} == {"a": "U8 [8]", "b": "U16 [4]"}
    assert checkpoint.read("b") == bytes(range(8))
    assert any("bits16, bits8" in note for note in checkpoint.notes)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("kind", ["storage", "untyped_storage"])
def test_bare_storages_are_tensors_of_one_axis(kind: str, tmp_path: Path) -> None:
    torch.save({"s": getattr(torch.ones(3), kind)()}, tmp_path / "a.pt")

    assert open_file(tmp_path / "a.pt").read("s") == struct.pack("<3f", 1, 1, 1)


def test_the_versions_of_the_modules_are_kept(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pt")

    checkpoint = open_file(tmp_path / "a.pt")

    assert checkpoint.versions["0"] == {"version": 2}  # type: ignore[attr-defined]


def test_a_textual_inversion_is_read(tmp_path: Path) -> None:
    """A1111 and the first trainer save the vectors in a ParameterDict, which torch.load refuses."""
    vectors = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.ones(2, 3))})
    torch.save({"string_to_token": {"*": 265}, "string_to_param": vectors, "name": "x"}, tmp_path / "a.pt")  # fmt: skip

    checkpoint = open_file(tmp_path / "a.pt")

    assert {n: s.shape for n, s in checkpoint.specs.items()} == {"string_to_param.*": (2, 3)}
    assert checkpoint.metadata == {"name": "x"}


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
    "none_type": type(None),
    "bytearray": bytearray(b"x"),
    "slice": slice(1, 2),
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 2),
    "uuid": uuid.UUID(int=5),
    "timedelta": datetime.timedelta(1),
    "simple_namespace": types.SimpleNamespace(a=1),
    "masked_array": np.ma.array([1.0, 2.0]),
    "object_array": np.array([1, "x"], dtype=object),
    "numpy_type": np.float32,
    "numpy_dtype": np.dtype("float32"),
    "grad_scaler": torch.amp.GradScaler("cpu"),
    "layout": torch.strided,
    "version": torch.__version__,
}


@pytest.mark.parametrize("protocol", [1, 2, 5])
@pytest.mark.parametrize("kind", KEPT)
def test_what_trainers_leave_behind_does_not_make_a_file_unsafe(
    kind: str, protocol: int, tmp_path: Path
) -> None:
    made = {"extra": KEPT[kind], "v": torch.ones(1)}
    torch.save(made, tmp_path / "a.pt", pickle_protocol=protocol)

    assert list(open_file(tmp_path / "a.pt").specs) == ["v"]


def test_whole_optimizers_and_schedulers_are_data(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    torch.save({"model": model.state_dict(), "o": optimizer, "s": scheduler}, tmp_path / "a.pt")

    checkpoint = open_file(tmp_path / "a.pt")

    assert list(checkpoint.specs)[:2] == ["model.weight", "model.bias"]
    assert any("torch.optim.adamw.AdamW" in note for note in checkpoint.notes)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_jagged_tensors_are_listed_in_their_parts(tmp_path: Path) -> None:
    made = torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)], layout=torch.jagged)
    torch.save({"w": made}, tmp_path / "a.pt")

    checkpoint = open_file(tmp_path / "a.pt")

    assert list(checkpoint.specs) == ["w.values", "w.offsets"]
    assert checkpoint.metadata["w.layout"] == "jagged"


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


def deflated(path: Path, made: Any) -> Path:
    """Pack what torch wrote again, as people do."""
    torch.save(made, path)
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    path.write_bytes(pack(members, zipfile.ZIP_DEFLATED))
    return path


def test_compressed_members_are_read_as_torch_reads_them(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = deflated(tmp_path / "a.pt", tensors)

    checkpoint = open_file(path)

    loaded = load(path)
    assert {n: bytes(checkpoint.read(n)) for n in tensors} == {
        n: bits(t) for n, t in loaded.items()
    }
    assert checkpoint.extent("float32") is None
    assert any("members are compressed" in note for note in checkpoint.notes)


def test_compressed_big_endian_and_hostile_files_are_no_different(tmp_path: Path) -> None:
    program = state_dict({"w": tensor("0", [2, 2], [1, 2])})
    raw = struct.pack(">4f", 1, 2, 3, 4)
    more = [("archive/byteorder", b"big")]
    path = write_archive(
        tmp_path / "a.pt", program, {"0": raw}, more=more, method=zipfile.ZIP_DEFLATED
    )
    evil = b"\x80\x02" + name("os", "system") + b"(" + text("true") + b"tR."

    assert open_file(path).read("w") == struct.pack("<4f", 1, 3, 2, 4)
    with pytest.raises(UnsafeError, match=r"os\.system"):
        open_file(write_archive(path, evil, method=zipfile.ZIP_DEFLATED))


def test_a_small_archive_that_claims_gigabytes_is_a_bomb(tmp_path: Path) -> None:
    zeros = bytes(100 << 20)
    numel = len(zeros) // 4
    program = state_dict({"w": tensor("0", [numel], [1], numel=numel)})

    with pytest.raises(CorruptError, match=r"claim to hold \d{9} bytes"):
        open_file(
            write_archive(tmp_path / "a.pt", program, {"0": zeros}, method=zipfile.ZIP_DEFLATED)
        )


def test_a_small_file_whose_tensors_share_their_bytes_too_often_is_a_bomb(tmp_path: Path) -> None:
    raw = bytes(1 << 20)
    shared = {str(i): tensor("0", [len(raw) // 4], [1], numel=len(raw) // 4) for i in range(600)}

    with pytest.raises(CorruptError, match="600 tensors have 629145600 bytes together"):
        open_file(write_archive(tmp_path / "a.pt", state_dict(shared), {"0": raw}))


def test_zeros_that_compress_well_are_no_bomb(tmp_path: Path) -> None:
    made = torch.zeros(1 << 20)

    assert open_file(deflated(tmp_path / "a.pt", {"w": made})).read("w") == bytes(4 << 20)


def folders_too(path: Path) -> Path:
    """What ``zip -0 -r`` makes of an unpacked checkpoint: the folders are members."""
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    root = members[0][0].partition("/")[0]
    path.write_bytes(pack([(f"{root}/", b""), (f"{root}/data/", b""), *members]))
    return path


def test_folders_in_the_archive_are_nothing_odd(tmp_path: Path) -> None:
    checkpoint = open_file(folders_too(tmp_path / "a.pt"))

    assert checkpoint.read("w") == struct.pack("<2f", 1, 1)
    assert checkpoint.notes == ()


EVIL = b"\x80\x02" + name("os", "system") + b"(" + text("true") + b"tR."


@pytest.mark.parametrize(
    "member", ["archive/hooks.pkl", "archive/readme.txt", "archive/.data/serialization_id"]
)
def test_a_program_in_another_member_is_judged_too(member: str, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", ONE, ONE_DATA, more=[(member, EVIL)])

    with pytest.raises(UnsafeError) as caught:
        open_file(path)

    assert caught.value.faults[0] == f"{member}: os.system at byte 2"


def test_members_that_torch_does_not_write_are_noted(tmp_path: Path) -> None:
    more = [("archive/readme.txt", b"hello"), ("archive/data/7", b"1234")]

    notes = open_file(write_archive(tmp_path / "a.pt", ONE, ONE_DATA, more=more)).notes

    assert "Members that torch does not write: readme.txt." in notes
    assert "Storages that belong to no tensor: data/7." in notes


def test_all_faults_of_an_archive_are_collected(tmp_path: Path) -> None:
    program = (
        b"\x80\x02}" + text("w") + tensor("0", [4], [1]) + b"s" + text("x") + EVIL[2:-1] + b"s."
    )
    more = [("archive/byteorder", b"odd"), ("other/data.pkl", EVIL)]

    with pytest.raises(UnsafeError) as caught:
        open_file(write_archive(tmp_path / "a.pt", program, {"0": b"1234"}, more=more))

    faults = "; ".join(caught.value.faults)
    assert [text in faults for text in ("other/data.pkl: os.system", "byteorder is b'odd'", "has 4 bytes, not 16", "lies outside")] == [True] * 4  # fmt: skip


def test_a_damaged_archive_that_asks_for_code_is_unsafe(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", EVIL, ONE_DATA)
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(UnsafeError) as caught:
        open_file(path, salvage=True)

    assert caught.value.faults[0] == "os.system at byte 2"
    assert "no archive directory" in caught.value.faults[-1]


def test_salvage_gives_the_tensors_and_a_strong_note(tmp_path: Path) -> None:
    program = b"\x80\x02}(" + text("w") + tensor("0", [4], [1]) + text("x") + EVIL[2:-1] + b"u."
    path = write_archive(tmp_path / "a.pt", program, ONE_DATA)

    checkpoint = open_file(path, salvage=True)

    assert checkpoint.read("w") == ONE_DATA["0"]
    assert checkpoint.notes[0].startswith(
        "DANGER: this file asks the reader to run code: os.system"
    )
    assert "Nothing was run" in checkpoint.notes[0]


@pytest.mark.parametrize(
    "tensor_program", [tensor("0", [5], [1]), tensor("0", [4], [1], numel=1 << 30)]
)
def test_salvage_does_not_turn_off_the_checks(tensor_program: bytes, tmp_path: Path) -> None:
    program = b"\x80\x02}(" + text("x") + EVIL[2:-1] + text("w") + tensor_program + b"u."

    with pytest.raises(CorruptError):
        open_file(write_archive(tmp_path / "a.pt", program, ONE_DATA), salvage=True)


def test_salvage_of_whole_modules_names_their_parameters(tmp_path: Path) -> None:
    net = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.ModuleDict({"n": torch.nn.BatchNorm1d(3)})
    )
    torch.save({"model": net, "step": 3}, tmp_path / "a.pt")

    checkpoint = open_file(tmp_path / "a.pt", salvage=True)

    expected = {f"model.{n}": bits(t) for n, t in net.state_dict().items()}
    assert {n: bytes(checkpoint.read(n)) for n in checkpoint.specs} == expected
    assert checkpoint.metadata == {"step": "3"}


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
