"""torch's files from before 1.6: written by torch, or put together by hand where torch writes them no more."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.legacy_bytes import (
    OLD_ONE,
    SYSTEM,
    dumps,
    legacy,
    old_state_dict,
    old_tensor,
)
from fixtures.torch_archive import ONE_DATA, name, number, text
from memcard.errors import CorruptError, UnsafeError, UnsupportedError
from memcard.formats import FORMATS, open_file
from memcard.formats.torch_legacy import PLUGIN

DTYPES = [
    *("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8"),
    *("bool", "complex64", "complex128"),
]
# Dtypes without a storage class: torch writes an untyped storage that its own old reader cannot take.
NEW_DTYPES = ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"]


def bits(value: torch.Tensor) -> bytes:
    flat = value.detach().resolve_conj().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def random_bits(dtype: str, *shape: int) -> torch.Tensor:
    kind = getattr(torch, dtype)
    size = torch.Size(shape).numel() * torch.empty(0, dtype=kind).element_size()
    top = 2 if dtype == "bool" else 256
    generator = torch.Generator().manual_seed(len(dtype))
    raw = torch.randint(0, top, (size,), dtype=torch.uint8, generator=generator)
    return raw.view(kind).reshape(shape)


def made() -> dict[str, torch.Tensor]:
    tied = torch.randn(4, 4)
    found = {dtype: random_bits(dtype, 3, 4) for dtype in DTYPES}
    return (
        found
        | {
            "scalar": torch.tensor(3.5),
            "empty": torch.empty(0, 4),
            "transposed": torch.arange(12.0).reshape(3, 4).t(),
            "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
            "sliced": torch.arange(20)[3:15:4],
            "complex_transposed": random_bits("complex128", 2, 3).t(),
            "odd_bytes": torch.zeros(3, dtype=torch.uint8),  # moves what follows off its alignment
            "conjugated": random_bits("complex64", 2, 3).conj(),
            "tied.a": tied,
            "tied.row": tied[1:2],
            "parameter": torch.nn.Parameter(torch.randn(2)),
        }
    )


def save(value: Any, path: Path, protocol: int = 2) -> Path:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    return path


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("protocol", range(1, 6))
def test_every_tensor_is_bit_for_bit_what_torch_wrote(protocol: int, tmp_path: Path) -> None:
    tensors = made()
    path = save({"state_dict": OrderedDict(tensors), "epoch": 3}, tmp_path / "a.ckpt", protocol)

    checkpoint = open_file(path)

    assert checkpoint.format == "torch_legacy"
    assert checkpoint.metadata == {"epoch": "3"}
    assert {n: s.shape for n, s in checkpoint.specs.items()} == {
        n: tuple(t.shape) for n, t in tensors.items()
    }
    assert {n: bytes(checkpoint.read(n)) for n in tensors} == {
        n: bits(t) for n, t in tensors.items()
    }


def test_torch_reads_the_same(tmp_path: Path) -> None:
    path = save(made(), tmp_path / "a.pt")

    checkpoint = open_file(path)

    loaded = torch.load(path, weights_only=True)  # noqa: TID251  # the second opinion
    assert {n: bytes(checkpoint.read(n)) for n in checkpoint.specs} == {
        n: bits(t) for n, t in loaded.items()
    }


@pytest.mark.parametrize("dtype", NEW_DTYPES)
def test_dtypes_that_are_newer_than_the_format(dtype: str, tmp_path: Path) -> None:
    tensor = random_bits(dtype, 3, 4)

    checkpoint = open_file(save({"w": tensor}, tmp_path / "a.pt"))

    assert checkpoint.read("w") == bits(tensor)


def test_protocol_0_whose_storages_torch_turns_into_text(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3).t()

    checkpoint = open_file(save({"w": tensor}, tmp_path / "a.pt", 0))

    assert checkpoint.read("w") == bits(tensor)


@pytest.mark.parametrize("value", [torch.ones(3), [torch.ones(3)], torch.ones(3).untyped_storage()])
def test_other_things_than_dicts(value: Any, tmp_path: Path) -> None:
    checkpoint = open_file(save(value, tmp_path / "a.pt"))

    (found,) = checkpoint.specs
    assert checkpoint.read(found) == bits(torch.ones(3))


def test_parts_and_extents_are_the_same_bytes(tmp_path: Path) -> None:
    tensors = made()
    checkpoint = open_file(save(tensors, tmp_path / "a.pt"))
    part, turned = bytearray(37), bytearray(21)

    checkpoint.readinto("tied.a", memoryview(part), 5)
    checkpoint.readinto("transposed", memoryview(turned), 9)
    place = checkpoint.extent("tied.row")

    assert part == bits(tensors["tied.a"])[5:42]
    assert turned == bits(tensors["transposed"])[9:30]
    assert place is not None
    raw = place.path.read_bytes()[place.offset : place.offset + place.size]
    assert raw == bits(tensors["tied.row"])
    assert checkpoint.extent("transposed") is None


def test_long_programs_are_read_in_growing_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memcard.formats.torch_legacy._FIRST_READ", 64)
    tensors = {str(i): torch.tensor([float(i)]) for i in range(200)}

    checkpoint = open_file(save({"note": "x" * 3000, **tensors}, tmp_path / "a.pt"))

    assert checkpoint.read("199") == struct.pack("<f", 199)


def test_only_the_program_is_read_when_it_is_opened(tmp_path: Path) -> None:
    """A sparse file of 5 GB: listing it reads a megabyte."""
    path, count = tmp_path / "a.pt", (5 << 30) // 4
    program = old_state_dict({"w": old_tensor("0", [count], [1], numel=count)})
    head = legacy(program, {"0": b""}, counts=[count])
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 4 * count)

    checkpoint = open_file(path)

    assert checkpoint.specs["w"].nbytes == 5 << 30
    assert checkpoint.extent("w") is not None


def test_values_are_little_endian_whatever_machine_wrote_them(tmp_path: Path) -> None:
    """torch's writer turns them around on a big-endian machine; its reader ignores the third pickle."""
    system = dumps(SYSTEM | {"little_endian": False})
    new = write(tmp_path / "new.pt", legacy(OLD_ONE, system=system))
    old = write(tmp_path / "old.pt", legacy(OLD_ONE, system=system, order=">"))

    assert open_file(new).read("w") == ONE_DATA["0"]
    assert open_file(old).read("w") == ONE_DATA["0"]
    assert "big-endian machine" in open_file(new).notes[0]
    loaded = torch.load(new, weights_only=True)  # noqa: TID251
    assert bits(loaded["w"]) == ONE_DATA["0"]


def test_a_view_on_another_storage(tmp_path: Path) -> None:
    """Six fields, the last a view: how torch 0.3 shared memory."""
    view = b"(" + text("v") + number(1) + number(3) + b"t"
    program = old_state_dict(
        {
            "whole": old_tensor("0", [4], [1]),
            "part": old_tensor("0", [2], [1], offset=1, view=view),
        }
    )

    checkpoint = open_file(write(tmp_path / "a.pt", legacy(program)))

    assert checkpoint.read("whole") == ONE_DATA["0"]
    assert checkpoint.read("part") == ONE_DATA["0"][8:16]
    assert any("tied" in note for note in checkpoint.notes)


def test_a_view_that_torch_reads_too(tmp_path: Path) -> None:
    view = b"(" + text("v") + number(1) + number(3) + b"t"
    program = old_state_dict({"w": old_tensor("0", [3], [1], view=view)})
    path = write(tmp_path / "a.pt", legacy(program))

    loaded = torch.load(path, weights_only=True)  # noqa: TID251

    assert open_file(path).read("w") == bits(loaded["w"])


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 1)
        self.layers = torch.nn.ModuleList([torch.nn.BatchNorm1d(2)])
        self.extra = torch.arange(3.0)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_module_is_unsafe_and_salvage_gives_its_state_dict(tmp_path: Path) -> None:
    net = Net()
    path = save(net, tmp_path / "a.pt")

    with pytest.raises(UnsafeError, match="--salvage") as caught:
        open_file(path)
    checkpoint = open_file(path, salvage=True)

    assert any("torch.nn.modules.conv.Conv2d at byte" in fault for fault in caught.value.faults)
    expected = {n: bits(t) for n, t in (*net.state_dict().items(), ("extra", net.extra))}
    assert {n: bytes(checkpoint.read(n)) for n in checkpoint.specs} == expected
    assert "Nothing was run" in checkpoint.notes[0]


EVIL = name("os", "system") + b"(" + text("true") + b"tR"
HOSTILE = {
    "magic": {"magic": b"\x80\x02" + EVIL + b"0" + dumps(0x1950A86A20F9469CFC6C)[2:]},
    "version": {"version": b"\x80\x02" + EVIL + b"."},
    "system": {"system": b"\x80\x02" + EVIL + b"."},
    "object": {"program": b"\x80\x02}" + text("w") + EVIL + b"s."},
    "keys": {"keys": b"\x80\x02]" + EVIL + b"a."},
}


@pytest.mark.parametrize("place", HOSTILE)
def test_each_of_the_five_programs_is_judged(place: str, tmp_path: Path) -> None:
    parts: dict[str, Any] = {"program": OLD_ONE} | HOSTILE[place]
    raw = legacy(**parts)
    path = write(tmp_path / "a.pt", raw)

    with pytest.raises(UnsafeError) as caught:
        open_file(path)

    (fault,) = [fault for fault in caught.value.faults if "os.system" in fault]
    assert int(fault.rpartition(" ")[2]) == raw.index(b"cos\nsystem")


def test_all_faults_of_all_programs_are_collected(tmp_path: Path) -> None:
    program = b"\x80\x02}" + text("w") + EVIL + b"s."
    raw = legacy(
        program, version=dumps(1002), keys=dumps(["0", "9"]), storages={"0": b""}, counts=[0]
    )

    with pytest.raises(UnsafeError) as caught:
        open_file(write(tmp_path / "a.pt", raw))

    assert [fault[:12] for fault in caught.value.faults] == [
        "os.system at", "the version ", "storage '0' ",
    ]  # fmt: skip


WHOLE = legacy(OLD_ONE)
DAMAGED: dict[str, tuple[bytes, str]] = {
    "trailing": (WHOLE + b"x", "1 bytes follow the last storage"),
    "cut_in_a_storage": (WHOLE[:-1], "inside of storage '0'"),
    "cut_in_a_count": (WHOLE[:-18], "inside of storage '0'"),
    "cut_in_a_program": (WHOLE[:100], "byte"),
    "count_too_large": (legacy(OLD_ONE, counts=[5]), "has 5 elements, not 4"),
    "count_negative": (legacy(OLD_ONE, counts=[-1]), "has -1 elements"),
    "count_of_another_machine": (legacy(OLD_ONE, order=">"), "elements, not 4"),
    "key_twice": (legacy(OLD_ONE, keys=dumps(["0", "0"])), "is there twice"),
    "key_unknown": (legacy(OLD_ONE, keys=dumps(["1"])), "'1' belongs to no tensor"),
    "key_missing": (legacy(OLD_ONE, keys=dumps([])), "storage '0' is missing"),
    "keys_of_numbers": (legacy(OLD_ONE, keys=dumps([0])), "not a list of storage keys"),
    "wrong_version": (legacy(OLD_ONE, version=dumps(7)), "the version is 7, not 1001"),
    "no_machine": (legacy(OLD_ONE, system=dumps([])), "little_endian"),
    "storage_claims_more": (
        legacy(old_state_dict({"w": old_tensor("0", [4], [1], numel=1 << 40)}), counts=[1 << 40]),
        "inside of storage '0', which ends at byte 4398",
    ),
    "view_outside": (
        legacy(old_state_dict({"w": old_tensor("0", [1], [1], view=b"(" + text("v") + number(3) + number(2) + b"t")})),
        "a view of 8 bytes from byte 12",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_corrupt_and_says_what(case: str, tmp_path: Path) -> None:
    raw, said = DAMAGED[case]

    with pytest.raises(CorruptError, match=said):
        open_file(write(tmp_path / "a.pt", raw))


def test_a_program_beyond_the_limit_is_unsupported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memcard.core.limits import Limits

    monkeypatch.setattr("memcard.formats.torch_legacy._FIRST_READ", 64)
    monkeypatch.setattr("memcard.formats.torch_legacy.DEFAULT", Limits(pickle_bytes=512))

    with pytest.raises(UnsupportedError, match="longer than 512"):
        open_file(save({"note": "x" * 3000}, tmp_path / "a.pt"))


def test_it_is_read_and_never_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="only read"):
        PLUGIN.create(tmp_path / "a.pt")
    assert PLUGIN.suffixes == ()


@pytest.mark.parametrize("protocol", range(6))
def test_only_this_format_recognises_it(protocol: int, tmp_path: Path) -> None:
    head = save({"w": torch.ones(1)}, tmp_path / "a.pt", protocol).read_bytes()[:4096]

    assert [form for form in FORMATS.values() if form.sniff(head)] == [PLUGIN]
    assert not PLUGIN.sniff(pickle.dumps({"w": 1}))


def test_listing_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ckpt", WHOLE)
    code = (
        "import sys; from memcard.formats import open_file; c = open_file(sys.argv[1]);"
        "c.read('w'); print(list(c.specs), {'torch', 'numpy', 'pickle'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, env={"PYTHONPATH": "src"})  # fmt: skip

    assert done.stdout.split(" ", 1) == ["['w']", "set()\n"]
