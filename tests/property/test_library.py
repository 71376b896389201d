"""What goes into the library comes out with the same SHA-256, whatever it is."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcard.core.tensors import DTYPES, Spec
from memcard.formats import create
from memcard.jobs.add import How
from memcard.jobs.library import Library

NARROW = ("F4", "F6_E2M3", "F6_E3M2")  # several to a byte: their last dimension is a multiple of 4
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)
specs = st.builds(
    lambda dtype, shape: Spec(DTYPES[dtype], (*shape, 4) if dtype in NARROW else tuple(shape)),
    st.sampled_from([name for name in DTYPES if name not in ("C32", "C128")]),
    st.lists(st.integers(0, 5), max_size=4),
)
# of all dtypes: NaNs with payloads, -0, subnormals, infinities
ODD = [bytes([n]) * 16 for n in (0, 1, 0x7F, 0x80, 0xFF, 0x7C, 0xFC)]


def values(spec: Spec, rng: random.Random) -> bytes:
    kind = rng.randrange(3)
    raw = rng.choice(ODD) * (spec.nbytes // 16 + 1) if kind == 0 else rng.randbytes(spec.nbytes)
    return raw[: spec.nbytes]


@pytest.mark.parametrize("how", get_args(How))
@settings(max_examples=15)
@given(
    tensors=st.dictionaries(names, specs, max_size=6),
    metadata=st.dictionaries(names, names, max_size=3),
    seed=st.integers(0, 1 << 30),
)
def test_any_checkpoint_comes_back_as_it_was(
    how: How, tensors: dict[str, Spec], metadata: dict[str, str], seed: int
) -> None:
    rng = random.Random(seed)
    contents = {name: values(spec, rng) for name, spec in tensors.items()}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as root:  # noqa: PTH112
        path = Path(root, "x.safetensors")
        with create(path) as sink:
            sink.begin(tensors, metadata)
            for name, raw in contents.items():
                sink.write(name, memoryview(raw))
        expected = hashlib.sha256(path.read_bytes()).hexdigest()
        library = Library(Path(root, "home"))

        (added,) = library.add([path], how=how)
        with library.open("x") as checkpoint:
            found = {name: bytes(checkpoint.read(name)) for name in checkpoint.specs}
        library.rm("x")
        library.gc()
        library.undo()
        done = library.export("x", Path(root, "y.safetensors"))

        assert found == contents
        assert added.sha256 == done.sha256 == expected
        assert hashlib.sha256(done.path.read_bytes()).hexdigest() == expected
        assert library.show("x").manifest.specs == tensors


@settings(max_examples=20)
@given(
    tensors=st.dictionaries(names, specs, min_size=1, max_size=6),
    relatives=st.lists(st.sampled_from(["same", "flipped", "other", "fewer"]), max_size=3),
    seed=st.integers(0, 1 << 30),
)
def test_relatives_survive_packing_and_collecting(
    tensors: dict[str, Spec], relatives: list[str], seed: int
) -> None:
    """Add, pack, gc, and every file removed: all of them come back from the packs."""
    rng = random.Random(seed)
    contents = {name: values(spec, rng) for name, spec in tensors.items()}
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    with tempfile.TemporaryDirectory(dir=folder) as root:
        library, expected = Library(Path(root, "home")), dict[str, str]()
        for number, how in enumerate(["same", *relatives]):
            name = f"x{number}"
            path = saved(
                Path(root, f"{name}.safetensors"), tensors, related(contents, how, rng), number
            )
            expected[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            library.add([path], how=rng.choice(["in-place", "move"]))

        packed = {done.name: done.skipped for done in library.pack().done}
        library.gc(days=0)
        library.gc(days=0)
        for name in expected:
            Path(root, f"{name}.safetensors").unlink(missing_ok=True)

        assert packed == dict.fromkeys(expected, "")
        for name, sha256 in expected.items():
            done = library.export(name, Path(root, f"{name}.out"))
            assert hashlib.sha256(done.path.read_bytes()).hexdigest() == sha256


def saved(path: Path, tensors: dict[str, Spec], contents: dict[str, bytes], number: int) -> Path:
    kept = {name: spec for name, spec in tensors.items() if name in contents}
    with create(path) as sink:
        sink.begin(kept, {"number": str(number)})
        for name, raw in contents.items():
            sink.write(name, memoryview(raw))
    return path


def related(contents: dict[str, bytes], how: str, rng: random.Random) -> dict[str, bytes]:
    """Return the values of a relative: the same, with a few bits turned, all others, or fewer tensors."""
    if how == "other":
        return {name: rng.randbytes(len(raw)) for name, raw in contents.items()}
    if how == "fewer":
        return dict(list(contents.items())[: len(contents) // 2])
    if how == "flipped":
        return {name: _flipped(raw, rng) for name, raw in contents.items()}
    return contents


def _flipped(raw: bytes, rng: random.Random) -> bytes:
    found = bytearray(raw)
    for _ in range(min(3, len(found))):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)
