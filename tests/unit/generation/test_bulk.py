"""Plain files in large pieces: the same values as tensor by tensor, whatever lies between, and nothing half-read."""

from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures.small import save
from memcard.core.checkpoint import Extent
from memcard.errors import CorruptError, IntegrityError
from memcard.formats import open_file
from memcard.generation import bulk, weights
from memcard.generation.bulk import Load, stretches

KINDS = {torch.float16: np.float16, torch.float32: np.float32}
SIZES = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9)), min_size=1, max_size=9)


@pytest.fixture(autouse=True)
def small_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_WORTH", 0)


def laid_out(
    path: Path, sizes: list[tuple[int, int]], kind: torch.dtype
) -> tuple[list[Extent], bytes]:
    """Write tensors of so many values, each after so many bytes of something else."""
    rng, extents, whole = np.random.default_rng(0), [], b""
    for count, gap in sizes:
        whole += b"\xee" * gap
        values = rng.standard_normal(count).astype(KINDS[kind]).tobytes()
        extents.append(Extent(path, len(whole), len(values)))
        whole += values
    path.write_bytes(whole)
    return extents, whole


@given(sizes=SIZES, at_once=st.integers(8, 300), target=st.sampled_from([*KINDS, torch.bfloat16]))
def test_the_values_of_the_file(
    sizes: list[tuple[int, int]],
    at_once: int,
    target: torch.dtype,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("bulk") / "file"
    for kind, numpy_kind in KINDS.items():
        extents, whole = laid_out(path, sizes, kind)
        loads = [
            Load(e, kind, torch.full((e.size // kind.itemsize,), 7, dtype=target)) for e in extents
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bulk, "_AT_ONCE", at_once)
            patch.setattr(bulk, "_OWN", type(bulk._OWN)())
            found = stretches(loads)
            assert found is not None
            assert [one.fill() for one in found] == [True] * len(found)
        for load in loads:
            e = load.extent
            values = np.frombuffer(whole[e.offset : e.offset + e.size], numpy_kind)
            expected = torch.from_numpy(values.copy()).to(torch.float32).to(target)
            assert torch.equal(load.out, expected)


def test_what_lies_side_by_side_is_read_by_one_call(tmp_path: Path) -> None:
    extents, _ = laid_out(tmp_path / "file", [(10, 0), (20, 0), (30, 2), (5, 0)], torch.float16)
    loads = [
        Load(e, torch.float16, torch.empty(e.size // 2, dtype=torch.bfloat16)) for e in extents
    ]
    found = stretches(list(reversed(loads)))
    assert found is not None
    assert [[load.extent.size // 2 for load, _, _ in one.parts] for one in found] == [
        [10, 20],
        [30, 5],
    ]
    assert all(a.begin < b.begin for a, b in pairwise(found))


def test_a_file_that_ends_early_is_told(tmp_path: Path) -> None:
    extents, whole = laid_out(tmp_path / "file", [(100, 0)], torch.float16)
    (tmp_path / "file").write_bytes(whole[:-1])
    for target in (torch.float16, torch.float32):
        found = stretches([Load(extents[0], torch.float16, torch.empty(100, dtype=target))])
        assert found is not None
        assert found[0].fill() is False


@pytest.mark.parametrize("kind", [torch.float64, torch.float8_e4m3fn])
def test_what_has_no_loop_is_left_to_others(tmp_path: Path, kind: torch.dtype) -> None:
    extent = Extent(tmp_path / "file", 0, 80)
    out = torch.empty(80 // kind.itemsize, dtype=torch.float16)
    assert stretches([Load(extent, kind, out)]) is None


def test_little_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_WORTH", 81)
    extent = Extent(tmp_path / "file", 0, 80)
    assert stretches([Load(extent, torch.float16, torch.empty(40, dtype=torch.float32))]) is None


def test_without_compiled_loops_others_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("llvmlite")

    monkeypatch.setattr(bulk, "_kernels", missing)
    extent = Extent(tmp_path / "file", 0, 80)
    assert stretches([Load(extent, torch.float16, torch.empty(40, dtype=torch.float32))]) is None
    same = stretches([Load(extent, torch.float16, torch.empty(40, dtype=torch.float16))])
    assert same is not None, "no loop is needed"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_checkpoint_has_the_values_that_single_tensors_have(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    arrays = {f"t{i}": rng.standard_normal((i, 5)).astype(np.float16) for i in range(1, 30)}
    path = save(tmp_path / "a.safetensors", arrays)
    names = {name: name for name in arrays}
    with closing(open_file(path)) as checkpoint:
        at_once = weights.read(checkpoint, names, dtype=dtype, device=torch.device("cpu"), own=True)
        monkeypatch.setattr(bulk, "_WORTH", 1 << 40)
        single = weights.read(checkpoint, names, dtype=dtype, device=torch.device("cpu"), own=True)
    assert {n: t.dtype for n, t in at_once.items()} == dict.fromkeys(names, dtype)
    for name in names:
        assert torch.equal(at_once[name], single[name])
        assert torch.equal(single[name], torch.from_numpy(arrays[name]).float().to(dtype))


def test_a_checkpoint_that_was_cut_since_is_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"w": np.ones(1000, np.float16)})
    with closing(open_file(path)) as checkpoint:
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises((CorruptError, IntegrityError), match=r"a\.safetensors"):
            weights.read(
                checkpoint, {"w": "w"}, dtype=torch.float32, device=torch.device("cpu"), own=True
            )
