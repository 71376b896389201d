"""Odd but lawful torch files, of both kinds. torch writes most; expected bytes come from arrays."""

from __future__ import annotations

import struct
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from attacks.honest_plain import Bytes, Made, Maker, values
from fixtures.legacy_bytes import SYSTEM, dumps, legacy, old_state_dict, old_tensor
from fixtures.torch_archive import (
    ONE,
    ONE_DATA,
    name,
    number,
    numbers,
    state_dict,
    tensor,
    text,
    write_archive,
)
from fixtures.zip_bytes import Entry, entries, wide_field, zipped

A, B = values(1, 3, 4), values(2, 5)
FLOATS = {"bfloat16": ml_dtypes.bfloat16, "float8_e4m3fn": ml_dtypes.float8_e4m3fn} | {
    name: getattr(ml_dtypes, name)
    for name in ("float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
}


def saved(
    build: Callable[[Any], Any], expected: Mapping[str, Bytes], suffix: str = ".pt", **options: Any
) -> Maker:
    """Let torch write what ``build`` makes of it."""

    def make(folder: Path) -> Made:
        import torch

        path = folder / f"model{suffix}"
        torch.save(build(torch), path, **options)
        return path, expected

    return make


def t(torch: Any, array: np.ndarray[Any, Any]) -> Any:
    return torch.from_numpy(array.copy())


def both(torch: Any) -> dict[str, Any]:
    return {"a": t(torch, A), "b": t(torch, B)}


AB = {"a": A, "b": B}


def written(
    program: bytes, storages: Mapping[str, bytes], expected: Mapping[str, Bytes], **options: Any
) -> Maker:
    """A zip put together by hand."""
    return lambda folder: (
        write_archive(folder / "model.ckpt", program, storages, **options),
        expected,
    )


def _whole(torch: Any) -> dict[str, Any]:
    """Every dtype torch has a storage class for, and those that it has none for."""
    kinds = ("float64", "int64", "int32", "int16", "int8", "uint8", "complex64", "complex128")
    found = {kind: torch.arange(6).to(getattr(torch, kind)) for kind in kinds}
    found |= {
        kind: torch.tensor([1, 2, 3], dtype=getattr(torch, kind))
        for kind in ("uint16", "uint32", "uint64")
    }
    return found | {"bool": torch.tensor([True, False])}


WHOLE: dict[str, Bytes] = {
    **{
        kind: np.arange(6).astype(kind)
        for kind in ("float64", "int64", "int32", "int16", "int8", "uint8")
    },
    **{kind: np.arange(6).astype(kind) for kind in ("complex64", "complex128")},
    **{kind: np.array([1, 2, 3], kind) for kind in ("uint16", "uint32", "uint64")},
    "bool": b"\1\0",
}


def _narrow(torch: Any) -> dict[str, Any]:
    return {
        kind: torch.arange(1, 9).view(8).to(torch.uint8).view(getattr(torch, kind))
        for kind in FLOATS
    }


NARROW: dict[str, Bytes] = {kind: bytes(range(1, 9)) for kind in FLOATS}


def _views(torch: Any) -> dict[str, Any]:
    whole = t(torch, np.arange(24, dtype="<f4").reshape(4, 6))
    return {
        "turned": whole.t(), "part": whole[1:3, 2:5], "steps": whole[:, ::2], "spread": whole[:1].expand(3, 6),
        "row": whole[2], "value": whole[1, 1], "none": whole[4:], "whole": whole,
    }  # fmt: skip


_W = np.arange(24, dtype="<f4").reshape(4, 6)
VIEWS: dict[str, Bytes] = {
    "turned": _W.T, "part": _W[1:3, 2:5], "steps": _W[:, ::2], "spread": np.broadcast_to(_W[:1], (3, 6)),
    "row": _W[2], "value": _W[1, 1:2], "none": b"", "whole": _W,
}  # fmt: skip


def _module(torch: Any) -> Any:
    layer = torch.nn.Linear(4, 3, bias=False)
    layer.weight.data = t(torch, A)
    return layer.state_dict()


def _subclass(torch: Any) -> dict[str, Any]:
    odd = torch.nn.parameter.Buffer(t(torch, A))
    parameter = torch.nn.Parameter(t(torch, B))
    parameter.tag = "kept by torch as a state"
    return {"a": odd, "b": parameter}


def _without_checksums(folder: Path) -> Made:
    import torch

    torch.serialization.set_crc32_options(False)
    try:
        torch.save(both(torch), folder / "model.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    return folder / "model.pt", AB


def _big_endian(folder: Path) -> Made:
    swapped = {"0": A.byteswap().tobytes(), "1": values(3, 2, dtype="<c16").byteswap().tobytes()}
    program = state_dict({
        "a": tensor("0", [3, 4], [4, 1], numel=12),
        "c": tensor("1", [2], [1], numel=2, kind="ComplexDoubleStorage"),
    })  # fmt: skip
    more = [("archive/byteorder", b"big")]
    return write_archive(folder / "model.pt", program, swapped, more=more), {
        "a": A,
        "c": values(3, 2, dtype="<c16"),
    }


def _packed_by_hand(folder: Path) -> Made:
    """As ``zip -0 -r`` packs an unpacked checkpoint: folders are members, times lie in extra fields."""
    late, early = b"UT\x09\0\3" + bytes(8), b"UT\5\0\3" + bytes(4)

    def member(path: str, content: bytes = b"") -> Entry:
        return Entry(path.encode(), content, extra=late, central_extra=early)

    parts = [member("model/"), member("model/data.pkl", ONE), member("model/data/")]
    parts += [member("model/data/0", ONE_DATA["0"]), member("model/version", b"3\n")]
    path = folder / "model.ckpt"
    path.write_bytes(zipped(parts))
    return path, {"w": ONE_DATA["0"]}


def _streamed(folder: Path) -> Made:
    """Sizes follow the content; as a writer does that cannot seek."""
    import io

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.content = b""

        def writable(self) -> bool:
            return True

        def write(self, part: Any) -> int:
            self.content += bytes(part)
            return len(part)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        archive.writestr("archive/data.pkl", ONE)
        archive.writestr("archive/data/0", ONE_DATA["0"])
        archive.writestr("archive/version", b"3\n")
    path = folder / "model.ckpt"
    path.write_bytes(pipe.content)
    return path, {"w": ONE_DATA["0"]}


def _in_text() -> bytes:
    """Protocol 0, every number and name as text; only the storage needs a binary instruction."""
    pid = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ"
    w = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + pid
        + b"L0L\n(I4\nt(I1\ntI00\nccollections\nOrderedDict\n(tRtR"
    )
    return (
        b"(dp0\nS'w'\np1\n"
        + w
        + b"p2\nsVepoch\nI3\nsVlr\nF1e-4\nsVnone\nNsS'it\\'s \\xe9'\n(lp3\nI01\nas."
    )


def _wide_opcodes() -> bytes:
    """Protocol 5 with frames, eight-byte lengths and a bytearray."""
    wide = b"\x8d" + struct.pack("<Q", 1) + b"w"
    body = (
        b"}\x94("
        + wide
        + b"\x94"
        + tensor("0", [4], [1])
        + text("b")
        + b"\x96"
        + struct.pack("<Q", 3)
        + b"abcu."
    )
    return b"\x80\x05\x95" + struct.pack("<Q", len(body)) + body


def _from_before_0_4() -> bytes:
    """``_rebuild_tensor`` without gradient and hooks."""
    pid = (
        b"("
        + text("storage")
        + name("torch", "FloatStorage")
        + text("0")
        + text("cpu")
        + number(4)
        + b"tQ"
    )
    return (
        b"\x80\x02}"
        + text("w")
        + name("torch._utils", "_rebuild_tensor")
        + b"("
        + pid
        + number(0)
        + numbers([4])
        + numbers([1])
        + b"tRs."
    )


def _wide_end(folder: Path) -> Made:
    """Wide end records where none are needed."""
    path = folder / "model.ckpt"
    path.write_bytes(zipped(entries(MEMBERS), wide={}))
    return path, {"w": ONE_DATA["0"]}


def _wide_sizes(folder: Path) -> Made:
    """Wide sizes where none are needed, as writers do that did not know how long a member gets."""
    full = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}
    program, storage, version = entries(MEMBERS)
    storage.extra, storage.in_header = wide_field(16, 16), dict(full)
    program.extra, program.in_header = wide_field(len(ONE), len(ONE)), dict(full)
    program.central_extra, program.in_directory = program.extra, dict(full)
    path = folder / "model.ckpt"
    path.write_bytes(zipped([program, storage, version]))
    return path, {"w": ONE_DATA["0"]}


def _other_machine(folder: Path) -> Made:
    """Dates, attributes and versions of other packers say nothing about the content."""
    with zipfile.ZipFile(folder / "model.ckpt", "w") as archive:
        for member, content in MEMBERS:
            info = zipfile.ZipInfo(member, (2023, 5, 6, 7, 8, 10))
            info.create_system, info.external_attr, info.create_version = 3, 0o100644 << 16, 63
            info.comment = b"made by hand"
            archive.writestr(info, content)
    return folder / "model.ckpt", {"w": ONE_DATA["0"]}


def _from_the_gpu() -> bytes:
    """``torch.cuda`` storages on a device this machine does not have."""
    return ONE.replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage").replace(
        text("cpu"), text("cuda:7")
    )


def _python_2() -> bytes:
    """Keys as byte strings, lists as arguments, names of Python 2."""
    made = name("collections", "OrderedDict") + b"]](U\x01w" + tensor("0", [4], [1]) + b"ea\x85R"
    return (
        b"\x80\x02}(U\nstate_dict"
        + made
        + b"U\x05epochK\x03U\x04tags"
        + name("__builtin__", "set")
        + b"]U\x01aa\x85Ru."
    )


MEMBERS = [
    ("archive/data.pkl", ONE),
    ("archive/data/0", ONE_DATA["0"]),
    ("archive/version", b"3\n"),
]
ROOTS = ("a b (1)", "ünï", "v1.5-pruned", "data", "model.ckpt", "x" * 200)
W = {"w": ONE_DATA["0"]}
ODD_NAMES = ("ünïcode.重み", "emoji 🐈", 'quote " \\ slash/', "", " ", "new\nline", "a" * 3000)

ZIP: dict[str, tuple[Any, ...]] = {
    **{f"torch_protocol_{p}": (saved(both, AB, pickle_protocol=p), "torch_zip") for p in (1, 2, 3, 4, 5)},
    **{f"torch_root_{i}": (written(ONE, ONE_DATA, W, root=root), "torch_zip") for i, root in enumerate(ROOTS)},
    "torch_protocol_0": (written(_in_text(), ONE_DATA, W), "torch_zip"),
    "torch_wide_opcodes": (written(_wide_opcodes(), ONE_DATA, W), "torch_zip"),
    "torch_from_before_0_4": (written(_from_before_0_4(), ONE_DATA, W), "torch_zip"),
    "torch_1_6_without_byteorder": (written(ONE, ONE_DATA, W), "torch_zip"),
    "torch_deflated": (written(ONE, ONE_DATA, W, method=zipfile.ZIP_DEFLATED), "torch_zip"),
    "torch_packed_by_hand": (_packed_by_hand, "torch_zip"),
    "torch_streamed": (_streamed, "torch_zip"),
    "torch_wide_end": (_wide_end, "torch_zip"),
    "torch_wide_sizes": (_wide_sizes, "torch_zip"),
    "torch_of_another_machine": (_other_machine, "torch_zip"),
    "torch_from_the_gpu": (written(_from_the_gpu(), ONE_DATA, W), "torch_zip"),
    "torch_of_python_2": (written(_python_2(), ONE_DATA, W), "torch_zip"),
    "torch_without_checksums": (_without_checksums, "torch_zip", "checksum"),
    "torch_big_endian": (_big_endian, "torch_zip"),
    "torch_named_safetensors": (saved(both, AB, ".safetensors"), "torch_zip", ".safetensors"),
    "torch_named_bin": (saved(both, AB, ".bin"), "torch_zip"),
    "torch_dtypes": (saved(_whole, WHOLE), "torch_zip"),
    "torch_narrow_floats": (saved(_narrow, {k: v for k, v in NARROW.items() if k != "bfloat16"} | {"bfloat16": bytes(range(1, 9))}), "torch_zip"),
    "torch_views": (saved(_views, VIEWS), "torch_zip"),
    "torch_tied": (
        saved(lambda torch: dict.fromkeys(("in", "out"), t(torch, A)), {"in": A, "out": A}), "torch_zip", "in, out"
    ),
    "torch_scalar_and_nothing": (
        saved(lambda torch: {"s": torch.tensor(1.5), "z": torch.zeros(0, 7)}, {"s": struct.pack("<f", 1.5), "z": b""}),
        "torch_zip",
    ),
    "torch_empty": (saved(lambda torch: {}, {}), "torch_zip"),
    "torch_bare_tensor": (saved(lambda torch: t(torch, A), {"tensor": A}), "torch_zip"),
    "torch_list": (saved(lambda torch: [t(torch, A), t(torch, B)], {"[0]": A, "[1]": B}), "torch_zip"),
    "torch_tuple_in_a_dict": (
        saved(lambda torch: {"x": (t(torch, A), 3)}, {"x[0]": A}), "torch_zip"
    ),
    "torch_number_keys": (
        saved(lambda torch: {768: [{"linear.weight": t(torch, A)}], "step": 1}, {"[768][0].linear.weight": A}), "torch_zip"
    ),
    "torch_nested": (
        saved(lambda torch: {"g": {"ema": {"w": t(torch, A)}}, "d": {"w": t(torch, B)}}, {"g.ema.w": A, "d.w": B}),
        "torch_zip",
    ),
    "torch_odd_names": (
        saved(lambda torch: {n: t(torch, values(i, 2)) for i, n in enumerate(ODD_NAMES)},
              {n: values(i, 2) for i, n in enumerate(ODD_NAMES)}), "torch_zip",
    ),
    "torch_parameter": (
        saved(lambda torch: {"a": torch.nn.Parameter(t(torch, A))}, {"a": A}), "torch_zip"
    ),
    "torch_subclass_and_state": (saved(_subclass, AB), "torch_zip"),
    "torch_state_dict_of_a_module": (saved(_module, {"weight": A}), "torch_zip"),
    "torch_ordered_dict": (saved(lambda torch: OrderedDict(both(torch)), AB), "torch_zip"),
    "torch_default_dict": (saved(lambda torch: defaultdict(list, both(torch)), AB), "torch_zip"),
}  # fmt: skip


def _old(build: Callable[[Any], Any], expected: Mapping[str, Bytes], **options: Any) -> Maker:
    return saved(build, expected, _use_new_zipfile_serialization=False, **options)


def _old_big_endian(folder: Path) -> Made:
    """Written on a big-endian machine: torch turns the values around, once not the counts."""
    program = old_state_dict({"a": old_tensor("0", [3, 4], [4, 1], numel=12)})
    system = dumps(SYSTEM | {"little_endian": False})
    path = folder / "model.pt"
    path.write_bytes(legacy(program, {"0": A.tobytes()}, system=system, order=">"))
    return path, {"a": A}


def _old_views(folder: Path) -> Made:
    """A view of a storage, as files from before 0.4 share memory: (key, offset, size)."""
    view = b"(" + text("140001") + number(2) + number(6) + b"t"
    part = old_tensor("0", [2, 3], [3, 1], numel=12, view=view)
    program = old_state_dict({"all": old_tensor("0", [3, 4], [4, 1], numel=12), "part": part})
    path = folder / "model.pt"
    path.write_bytes(legacy(program, {"0": A.tobytes()}))
    return path, {"all": A, "part": A.ravel()[2:8]}


LEGACY: dict[str, tuple[Any, ...]] = {
    **{f"old_protocol_{p}": (_old(both, AB, pickle_protocol=p), "torch_legacy") for p in (2, 3, 4, 5)},
    "old_dtypes": (_old(_whole, WHOLE), "torch_legacy"),
    "old_narrow_floats": (_old(_narrow, NARROW), "torch_legacy"),
    "old_tensor_views": (_old(_views, VIEWS), "torch_legacy"),
    "old_storage_views": (_old_views, "torch_legacy"),
    "old_big_endian": (_old_big_endian, "torch_legacy", "big-endian"),
    "old_bare_tensor": (_old(lambda torch: t(torch, A), {"tensor": A}), "torch_legacy"),
    "old_without_tensors": (_old(lambda torch: {"step": 3}, {}), "torch_legacy"),
    "old_named_ckpt": (_old(both, AB, suffix=".ckpt"), "torch_legacy"),
}  # fmt: skip
