from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from memcard.core.checkpoint import Extent
from memcard.core.tensors import DTYPES, Spec
from memcard.core.views import Part
from memcard.errors import CorruptError, IntegrityError, NotFoundError, UnsupportedError
from memcard.formats import open_file
from memcard.formats.safetensors import PLUGIN
from memcard.maths import torch_bridge
from memcard.maths.torch_bridge import Bridge, to_device

MODES = ("mmap", "pread")
OF_TORCH = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.float8_e8m0fnu, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool),
    *(torch.complex128, torch.complex64, torch.complex32, torch.float4_e2m1fn_x2),
]
NOT_IN_SAFETENSORS = (torch.complex128, torch.complex32)


def of(dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor of random bytes; bool gets zeros and ones."""
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def raw(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def same(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, a.shape, raw(a)) == (b.dtype, b.shape, raw(b))


def save_ours(path: Path, tensors: dict[str, Tensor]) -> Path:
    """Write by memcard: it knows dtypes that the safetensors package does not write."""
    names = {dtype: name for name, dtype in torch_bridge.DTYPES.items()}
    specs = {}
    for name, t in tensors.items():
        kind = DTYPES[names[t.dtype]]
        specs[name] = Spec(kind, (*t.shape[:-1], t.shape[-1] * kind.block) if t.ndim else ())
    with PLUGIN.create(path) as sink:
        sink.begin(specs, {})
        for name, t in tensors.items():
            sink.write(name, memoryview(raw(t)))
    return path


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MEMCARD_IO", request.param)
    return str(request.param)


@pytest.mark.parametrize("dtype", [d for d in OF_TORCH if d not in NOT_IN_SAFETENSORS], ids=str)
def test_every_dtype_of_a_safetensors_file(dtype: torch.dtype, mode: str, tmp_path: Path) -> None:
    made = {
        "a": of(dtype, 3, 4),
        "b": of(dtype, 8),
        "none": of(dtype, 0, 4),
        "c": of(dtype, 2, 2, 2),
    }

    found = Bridge(open_file(save_ours(tmp_path / "x.safetensors", made))).tensors()

    assert list(found) == list(made)
    assert all(same(found[name], made[name]) for name in made)


@pytest.mark.parametrize("dtype", [d for d in OF_TORCH if d != torch.float4_e2m1fn_x2], ids=str)
def test_every_dtype_of_a_torch_file(dtype: torch.dtype, mode: str, tmp_path: Path) -> None:
    made = {"a": of(dtype, 3, 4), "scalar": of(dtype), "none": of(dtype, 0, 4)}
    torch.save(made, tmp_path / "x.pt")

    found = Bridge(open_file(tmp_path / "x.pt")).tensors()

    assert all(same(found[name], made[name]) for name in made)


def test_a_mapped_tensor_is_a_window_and_the_file_is_never_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMCARD_IO", "mmap")
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(64.0), "b": torch.ones(3, 3)}, path)
    before = hashlib.sha256(path.read_bytes()).digest()
    bridge = Bridge(open_file(path))
    first = bridge.tensor("a")

    first += 1
    again = bridge.tensor("a")

    assert first.data_ptr() == again.data_ptr()  # no copy
    assert again[0] == 1
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert Bridge(open_file(path)).tensor("a")[0] == 0


def test_tensors_outlive_the_checkpoint(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(5000)}, path)
    checkpoint = open_file(path)
    found = Bridge(checkpoint).tensors()

    checkpoint.close()
    path.unlink()

    assert found["a"].equal(torch.arange(5000))


def test_each_tensor_has_its_own_storage(mode: str, tmp_path: Path) -> None:
    """Saving one tensor must not save the file it came from."""
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(100_000), "b": torch.zeros(3)}, path)

    found = Bridge(open_file(path)).tensors()
    torch.save(found["b"], tmp_path / "b.pt")

    assert found["b"].untyped_storage().nbytes() == 12
    assert (tmp_path / "b.pt").stat().st_size < 5000


def test_tied_weights_share_memory(mode: str, tmp_path: Path) -> None:
    table = torch.randn(10, 4)
    torch.save({"embed": table, "head": table, "flat": table.view(40)}, tmp_path / "x.ckpt")

    found = Bridge(open_file(tmp_path / "x.ckpt")).tensors()
    found["embed"].zero_()

    assert found["head"].count_nonzero() == found["flat"].count_nonzero() == 0
    pointers = {tensor.untyped_storage().data_ptr() for tensor in found.values()}
    assert len(pointers) == 1
    assert found["flat"].shape == (40,)


def test_strided_tensors_are_gathered(mode: str, tmp_path: Path) -> None:
    table = torch.arange(24.0).reshape(4, 6)
    made = {
        "t": table.t(),
        "column": table[:, 2],
        "wide": torch.ones(1).expand(3, 5),
        "late": table[2:],
    }
    torch.save(made, tmp_path / "x.ckpt")

    found = Bridge(open_file(tmp_path / "x.ckpt")).tensors()

    assert all(found[name].is_contiguous() and found[name].equal(made[name]) for name in made)


def test_tensors_at_odd_places_are_copied_to_even_ones(mode: str, tmp_path: Path) -> None:
    header = b'{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    body = b"\7" + raw(torch.tensor([1.5, -2.0]))
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)

    found = Bridge(open_file(path)).tensors()

    assert found["w"].data_ptr() % 4 == 0
    assert found["w"].tolist() == [1.5, -2.0]


def test_a_part_and_an_order(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.full((2,), i) for i, name in enumerate("abc")}, path)
    bridge = Bridge(open_file(path))

    assert {n: t[0].item() for n, t in bridge.tensors(("c", "a")).items()} == {"c": 2, "a": 0}
    assert list(bridge.tensors(("c", "a"))) == ["c", "a"]
    with pytest.raises(NotFoundError, match="no tensor 'x'; 'y'"):
        bridge.tensors(("x", "a", "y"))
    with pytest.raises(NotFoundError, match="'z'"):
        bridge.tensor("z")


def test_dtypes_torch_has_not_are_all_named(tmp_path: Path) -> None:
    specs = {f"w{i}": Spec(DTYPES["F6_E2M3"], (4,)) for i in range(6)}
    specs |= {"half": Spec(DTYPES["F4"], (2, 3)), "good": Spec(DTYPES["F32"], (1,))}
    with PLUGIN.create(tmp_path / "x.safetensors") as sink:
        sink.begin(specs, {})
        for name, spec in specs.items():
            sink.write(name, memoryview(bytes(spec.nbytes)))
    bridge = Bridge(open_file(tmp_path / "x.safetensors"))

    with pytest.raises(UnsupportedError, match=r"'w0' is F6_E2M3 \[4\].*and 3 more") as caught:
        bridge.tensors()

    assert len(caught.value.faults) == 7
    assert bridge.tensor("good").tolist() == [0]


def _replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 400)


@pytest.mark.parametrize("change", [_replaced, _cut])
def test_a_file_that_changed_since_it_was_opened(
    change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMCARD_IO", "mmap")
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    checkpoint = open_file(path)
    change(path)

    with pytest.raises((IntegrityError, CorruptError), match=r"x\.safetensors"):
        Bridge(checkpoint).tensors()


def test_an_extent_beyond_the_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMCARD_IO", "mmap")
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1000)}, path)

    class Lying(Part):
        def extent(self, name: str) -> Extent | None:
            return Extent(path, 4096, 4000)

    with pytest.raises(CorruptError, match="a tensor ends at byte 8096"):
        Bridge(Lying(open_file(path), ("a",))).tensors()


def test_moving_to_a_device_keeps_ties(tmp_path: Path) -> None:
    shared = torch.ones(3)
    moved = to_device({"a": shared, "b": shared, "c": torch.ones(3), "e": torch.ones(0)}, "meta")

    assert {tensor.device.type for tensor in moved.values()} == {"meta"}
    assert moved["a"] is moved["b"]
    assert moved["a"] is not moved["c"]


def handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_file_handle_stays_open_for_each_tensor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMCARD_IO", "mmap")
    path = tmp_path / "x.safetensors"
    save_file({f"w{i}": torch.zeros(8) for i in range(50)}, path)
    before = handles()
    bridge = Bridge(open_file(path))

    kept = [bridge.tensor(f"w{i}") for i in range(50)]

    assert handles() <= before + 2
    assert len(kept) == 50
