"""What memcard makes of large files; each job runs in a process of its own, started by ``library.py``.

python library_full.py make|store FOLDER | ready FILE_OR_NAME | big FILE | speed FILE | rss VERB FILE FOLDER
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library_ours import grown, taken
from library_peers import cpu

if TYPE_CHECKING:
    import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

GB = 1e9
FILES = ("base", "tune", "merge", "add", "base_bf16")


# files of the size of Stable Diffusion 1.5


def make(folder: Path) -> dict[str, Any]:
    """Write a checkpoint with random values, what is made of it by scripts, and the starter's base."""
    import ml_dtypes
    import numpy as np

    from fixtures.sd15 import FULL, write_safetensors
    from memcard.jobs.resolve import locate

    write_safetensors(folder / "base.safetensors", FULL)
    rng = np.random.default_rng(1)
    change = rng.standard_normal(1 << 22, np.float32)

    def tuned(base: np.ndarray) -> np.ndarray:
        """Change every value by about 0.2 % of what the values of its tensor are."""
        row = np.resize(np.roll(change, int(rng.integers(change.size))), base.shape)
        return base + row * np.float32(0.002 * float(np.abs(base).mean()))

    write(folder, "tune", ("base",), tuned)
    write(folder, "merge", ("base", "tune"), lambda a, b: np.float32(0.6) * a + np.float32(0.4) * b)
    write(folder, "add", ("base", "tune"), lambda a, b: a + np.float32(1.5) * (b - a))
    write(folder, "base_bf16", ("base",), lambda a: a, np.dtype(ml_dtypes.bfloat16))
    (folder / "starter.safetensors").write_bytes(locate("starter").read_bytes())
    return {}


def write(
    folder: Path, name: str, of: tuple[str, ...], work: Callable[..., np.ndarray], dtype: Any = None
) -> None:
    """Write a float16 checkpoint, or one of ``dtype``, computed tensor by tensor in float32."""
    import numpy as np

    import memcard
    from memcard.core.tensors import DTYPES, Spec
    from memcard.formats.safetensors import PLUGIN

    parents = [memcard.open(folder / f"{one}.safetensors") for one in of]
    kind = DTYPES["BF16" if dtype else "F16"]
    with PLUGIN.create(folder / f"{name}.safetensors") as sink:
        specs = parents[0].specs
        sink.begin({n: Spec(kind, s.shape) for n, s in specs.items()}, {})
        for key in specs:
            values = [np.frombuffer(p.read(key), np.float16).astype(np.float32) for p in parents]
            out = work(*values).astype(dtype or np.float16)
            sink.write(key, memoryview(out.tobytes()))


def store(folder: Path) -> dict[str, Any]:
    """Add and pack one after the other; return what each took."""
    import memcard

    library = memcard.Library(folder / "library")
    files = [(name, folder / f"{name}.safetensors") for name in FILES]
    found = dict(grown(library, files))
    library.add([folder / "starter.safetensors"], how="link", name="starter-packed")
    library.pack("starter-packed")
    (
        folder / "hidden"
    ).mkdir()  # else a name would stand for the plain file, as long as that is there
    for path in folder.glob("*.safetensors"):
        path.rename(folder / "hidden" / path.name)
    return found


def ready(ref: str) -> dict[str, Any]:
    """Return how long it took, from the start of the process, until the first step could be made."""
    began = time.perf_counter()
    from memcard.generation.load import load
    from memcard.generation.parts import assemble
    from memcard.jobs.resolve import resolve

    loading = time.perf_counter()
    checkpoint = resolve(ref)
    load(assemble(checkpoint, ref))
    end = time.perf_counter()
    wall = time.time() - float(os.environ["BENCHMARK_START"])
    packed = all(checkpoint.extent(name) is None for name in checkpoint.specs)
    return {
        "wall": wall, "load": end - loading, "imports": loading - began, "cpu": cpu(), "packed": packed,
    }  # fmt: skip


# speed and memory


def big(path: Path) -> dict[str, Any]:
    """Write a file of tensors of 128 MB with random normal float16 values, of about $BENCHMARK_GB."""
    import numpy as np

    from memcard.core.tensors import DTYPES, Spec
    from memcard.formats.safetensors import PLUGIN

    rng, side = np.random.default_rng(0), 8192
    names = [f"layer.{i}.weight" for i in range(round(float(os.environ["BENCHMARK_GB"]) * GB / (2 * side * side)) or 1)]  # fmt: skip
    values = (rng.standard_normal(side * side, np.float32) * 0.03).astype(np.float16)
    with PLUGIN.create(path) as sink:
        sink.begin({name: Spec(DTYPES["F16"], (side, side)) for name in names}, {})
        for name in names:  # other mantissas each time: no two tensors and no two blocks are alike
            noise = np.frombuffer(rng.bytes(values.nbytes), np.uint16) & 0x3FF
            sink.write(name, memoryview((values.view(np.uint16) ^ noise).tobytes()))
    return {"size": path.stat().st_size}


def speed(path: Path) -> dict[str, Any]:
    """Time ``add`` of a new file against hashlib.sha256 of it, in turn, and ``add`` of an unchanged one."""
    import memcard

    found: dict[str, list[tuple[float, float]]] = {"sha256": [], "add": [], "unchanged": []}

    def note(name: str, call: Callable[[], object]) -> None:
        wall, used = time.perf_counter(), cpu()
        call()
        found[name].append((time.perf_counter() - wall, cpu() - used))

    def sha256() -> None:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    sha256()  # warm
    for _ in range(3):
        with tempfile.TemporaryDirectory() as home:
            library = memcard.Library(home)
            note("sha256", sha256)
            note("add", lambda library=library: library.add([path]))
            for _ in range(10):
                note("unchanged", lambda library=library: library.add([path]))
            own = taken(Path(home))
    return {"size": path.stat().st_size, "library": own} | {
        name: {"wall": min(w for w, _ in runs), "cpu": min(c for _, c in runs)}
        for name, runs in found.items()
    }


def rss(verb: str, path: Path, folder: Path) -> dict[str, Any]:
    """Do one verb on a large file; the driver reads the peak of this process."""
    import memcard

    library, start = memcard.Library(folder / "library"), cpu()
    if verb == "add":
        library.add([path], how="link", name="big")
    elif verb == "export":
        library.export("big", folder / "exported.safetensors")
    else:
        library.pack()
    return {"cpu": cpu() - start, "size": path.stat().st_size}


def main() -> None:
    """Do one thing and print what it cost as JSON."""
    name, *more = sys.argv[1:]
    jobs = {"make": make, "store": store, "big": big, "speed": speed}
    if name == "rss":
        found = rss(more[0], Path(more[1]), Path(more[2]))
    elif name == "ready":
        found = ready(more[0])
    else:
        found = jobs[name](Path(more[0]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
