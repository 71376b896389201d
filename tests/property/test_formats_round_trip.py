from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.gguf_bytes import Info, Writer, gguf
from memcard.core.tensors import DTYPES, Spec
from memcard.formats import create, open_file
from memcard.formats._gguf_header import GGML_TYPES

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = text.filter(lambda name: name != "__metadata__")
COMMON = [n for n in DTYPES if n not in ("C32", "C128", "F4", "F6_E2M3", "F6_E3M2")]
specs = st.builds(
    lambda dtype, shape: Spec(DTYPES[dtype], tuple(shape)),
    st.sampled_from(COMMON),
    st.lists(st.integers(0, 4), max_size=4),
)
PLACES: dict[str, tuple[str, int | None, Callable[[str], str]]] = {
    "safetensors": ("x.safetensors", None, str),
    "torch_zip": ("x.ckpt", None, str),
    "sharded": ("x.safetensors.index.json", 100, str),
    "diffusers_folder": ("x/", 100, lambda name: f"unet.{name}"),
}


@pytest.mark.parametrize("form", PLACES)
@settings(max_examples=20, deadline=None)
@given(
    tensors=st.dictionaries(names, specs, max_size=6),
    metadata=st.dictionaries(
        names.filter(lambda n: n not in ("format", "total_size")), text, max_size=6
    ),
    seed=st.integers(0, 1 << 30),
)
def test_any_checkpoint_comes_back_whole(
    form: str, tensors: dict[str, Spec], metadata: dict[str, str], seed: int
) -> None:
    rng = random.Random(seed)
    place, max_shard, named = PLACES[form]
    if form == "diffusers_folder":  # without a single tensor there is no folder of weights to read
        tensors = {name or "w": spec for name, spec in tensors.items()} or {
            "w": Spec(DTYPES["U8"], (1,))
        }
    tensors = {named(name): spec for name, spec in tensors.items()}
    contents = {name: rng.randbytes(spec.nbytes) for name, spec in tensors.items()}
    with tempfile.TemporaryDirectory() as folder:
        shards = max_shard if form != "torch_zip" else None
        with create(f"{folder}/{place}", max_shard=shards) as sink:
            sink.begin(tensors, metadata)
            for name, raw in contents.items():
                cut = rng.randint(0, len(raw))
                sink.write(name, memoryview(raw[cut:]), cut)
                sink.write(name, memoryview(raw[:cut]))
        checkpoint = open_file(sink.result)

        found = {name: bytes(checkpoint.read(name)) for name in checkpoint.specs}
        checkpoint.close()

    assert checkpoint.format == form
    assert (dict(checkpoint.specs), dict(checkpoint.metadata)) == (tensors, metadata)
    assert found == contents


PACKED = st.sampled_from(sorted(GGML_TYPES))


@settings(max_examples=40, deadline=None)
@given(
    tensors=st.dictionaries(
        text.filter(bool), st.tuples(PACKED, st.lists(st.integers(0, 3), max_size=4)), max_size=6
    ),
    pairs=st.dictionaries(text.filter(bool), text, max_size=6),
    version=st.integers(1, 3),
    seed=st.integers(0, 1 << 30),
)
def test_any_gguf_is_read_whole(
    tensors: dict[str, tuple[int, list[int]]], pairs: dict[str, str], version: int, seed: int
) -> None:
    rng, writer = random.Random(seed), Writer(version)
    expected, contents, infos = {}, {}, []
    for name, (kind, shape) in tensors.items():
        dtype = GGML_TYPES[kind]
        whole = [*shape, dtype.block] if dtype.block > 1 else shape
        spec = Spec(dtype, tuple(whole[-4:]))
        expected[name], contents[name] = spec, rng.randbytes(spec.nbytes)
        infos.append(Info(name.encode(), spec.shape[::-1], kind, contents[name]))
    raw = gguf(infos, [writer.text(k, v) for k, v in pairs.items()], writer=writer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        path.write_bytes(raw)
        checkpoint = open_file(path)

        found = {name: bytes(checkpoint.read(name)) for name in checkpoint.specs}
        checkpoint.close()

    assert dict(checkpoint.specs) == expected
    assert checkpoint.metadata == pairs
    assert found == contents
