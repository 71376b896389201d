"""Methods that first read a whole tensor keep no more of it than they say, however large it is."""

import gc
import tracemalloc

import numpy as np
import pytest

from fixtures import small
from fixtures.long import mostly_slow
from memcard.formats import open_file
from memcard.formats.safetensors import PLUGIN as SAFETENSORS
from memcard.maths import select
from memcard.ops import OPS
from memcard.recipes.bake import bake
from memcard.recipes.nodes import Apply, Params, Source

MANY, LARGE = 24, 6 << 20  # tensors; values of the large one
CHUNK, ROOM = 256 << 10, 1 << 16
# Two threads, each with: what is read, of three inputs at a time, 1.5 MB; the blocks of float64 of the
# inputs and of what is made of them, some 7 MB; what is found in a run, 4 MB; ROOM candidates, 1 MB, twice
# while they are sorted; the sample, as much. One column of the large tensor in float64 would be 50 MB.
LIMIT = 34 << 20

METHODS = {
    "ties": {"density": 0.3},
    "breadcrumbs": {},
    "sce": {"select_topk": 0.4},
    "model_stock": {},
    "karcher": {},
    "arcee_fusion": {},
    "ram": {"r": 0.1},
    "nuslerp": {"flatten": False, "row_wise": True},
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    found = []
    for i in range(3):
        rng = np.random.default_rng(i)
        values = (rng.standard_normal((1 << 13, 128), np.float32) * 0.05).astype("f2")
        arrays = {f"w{n}": np.roll(values, n) for n in range(MANY)}
        arrays["large"] = np.concatenate([values] * (LARGE // values.size))
        found.append(small.save(folder / f"{i}.safetensors", arrays))
    return found


@pytest.mark.parametrize("method", mostly_slow(METHODS, "ties", "model_stock"))
def test_memory_grows_with_neither_the_tensors_nor_their_number(
    tmp_path, monkeypatch, paths, method
):
    monkeypatch.setattr(select, "KEPT", ROOM)
    most = OPS[method].arity[1] or 3
    sources = tuple(Source(str(p)) for p in paths[: 2 if method == "nuslerp" else most])
    node = Apply(method, sources, Params(METHODS[method]))

    gc.collect()
    gc.disable()  # what only the collector would find counts too
    tracemalloc.start()
    try:
        sink = SAFETENSORS.create(tmp_path / "out.safetensors")
        bake(node, lambda s: open_file(s.ref), OPS, sink, threads=2, chunk=CHUNK)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()

    assert peak < LIMIT, f"{peak / 2**20:.0f} MiB"
