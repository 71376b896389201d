"""LoRA: extraction against a full SVD, and baking against a copy; memcard and peers side by side.

    python benchmarks/lora.py [FOLDER]

Needs 5 GB in FOLDER (default: the temporary folder); leaves nothing. CPU seconds are those of the
calls themselves or of a process of its own; wall time means something on a quiet machine only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RANK = 32
# Layers of Stable Diffusion 1.5 and XL as matrices; a convolution's kernel counts as wide inputs.
SHAPES = ((320, 2880), (640, 640), (640, 5760), (1280, 1280))
REPEATS = 3

BAKE = """
from memcard.jobs.lora import lora_bake
lora_bake(BASE, [(LORA, 0.8)], OUT, digests=False, threads=2)
"""
COPY = """
import subprocess
subprocess.run(["cp", "--reflink=never", BASE, OUT], check=True)
"""
REPORT = """
import json, os, re
from pathlib import Path
t = os.times()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps({"cpu": t.user + t.system + t.children_user + t.children_system, "mb": peak / 1024}))
"""


def change(rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Return a change of rank 16 with noise, as a fine-tune makes it."""
    rng = np.random.default_rng((rows, columns))
    strong = rng.standard_normal((rows, 16)) @ rng.standard_normal((16, columns))
    return (0.001 * (strong + 0.5 * rng.standard_normal((rows, columns)))).astype(np.float32)


def cpu(work: Any) -> float:
    """Return the least CPU seconds of a few runs."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def extraction() -> None:
    """Print one row per layer: ours, and torch.linalg.svd of the whole matrix as kohya calls it."""
    import torch

    from memcard.maths.svd import approximate, relative_error

    torch.set_num_threads(1)  # threads that wait for each other would count as work of the peer
    print(f"Extraction, rank {RANK}, CPU s a layer; error as a multiple of the best there is\n")
    print("| layer | full SVD | memcard | ratio | error |\n|---|---|---|---|---|")
    sums = [0.0, 0.0]
    for rows, columns in SHAPES:
        matrix = change(rows, columns)
        tensor = torch.from_numpy(matrix)
        peer = cpu(lambda tensor=tensor: torch.linalg.svd(tensor))
        ours = cpu(lambda matrix=matrix: approximate(matrix, RANK, name="x"))
        made = approximate(matrix, RANK, name="x")
        values = torch.linalg.svdvals(tensor.double()).numpy() ** 2
        best = float(np.sqrt(values[RANK:].sum() / values.sum()))
        error = relative_error(matrix, made.up, made.down) / best
        sums = [sums[0] + peer, sums[1] + ours]
        print(f"| {rows}x{columns} | {peer:.3f} | {ours:.4f} | {peer / ours:.0f} | {error:.4f} |")
    print(f"| all | {sums[0]:.2f} | {sums[1]:.3f} | {sums[0] / sums[1]:.0f} | |\n")


def baking(folder: Path) -> None:
    """Print a copy of a Stable-Diffusion-1.5-sized fp16 base and a bake of a rank-32 LoRA into it."""
    base, lora, out = (folder / f"{name}.safetensors" for name in ("base", "lora", "out"))
    write_inputs(base, lora)
    print("Baking, fp16, rank 32 on every layer of the UNet and the text encoder\n")
    print("| run | CPU s | wall s | peak MB |\n|---|---|---|---|")
    for name, code in (("cp", COPY), ("memcard lora bake", BAKE), ("cp again", COPY)):
        facts = run(code, base, lora, out)
        print(f"| {name} | {facts['cpu']:.2f} | {facts['wall']:.2f} | {facts['mb']:.0f} |")


def write_inputs(base: Path, lora: Path) -> None:
    """Write a base with the names and shapes of SD 1.5, and a LoRA for all of its layers."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from fixtures.published import published
    from memcard.core.tensors import DTYPES, Spec
    from memcard.formats.safetensors import PLUGIN
    from memcard.ops._lora_names import layers

    rng, half = np.random.default_rng(0), DTYPES["F16"]
    specs = {name: Spec(half, shape) for name, shape in published("sd1-ldm").items()}
    values = (rng.standard_normal(1 << 22, np.float32) * 0.02).astype("f2").tobytes()
    with PLUGIN.create(base) as sink:
        sink.begin(specs, {})
        for name, spec in specs.items():
            for at in range(0, spec.nbytes, len(values)):
                part = memoryview(values)[: min(len(values), spec.nbytes - at)]
                sink.write(name, part, at)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers(specs):
        shape = layer.place.shape
        ones = (1,) * (len(shape) - 2)
        shapes[f"{layer.name}.lora_up.weight"] = (shape[0], RANK, *ones)
        shapes[f"{layer.name}.lora_down.weight"] = (RANK, *shape[1:])
    with PLUGIN.create(lora) as sink:
        sink.begin({name: Spec(half, shape) for name, shape in shapes.items()}, {})
        for name, shape in shapes.items():
            array = (rng.standard_normal(shape, np.float32) * 0.02).astype("f2")
            sink.write(name, memoryview(array.tobytes()))


def run(code: str, base: Path, lora: Path, out: Path) -> dict[str, float]:
    """Run code in a process of its own and return what it cost."""
    out.unlink(missing_ok=True)
    head = f"BASE, LORA, OUT = {str(base)!r}, {str(lora)!r}, {str(out)!r}\n"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", head + code + REPORT], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts | {"wall": time.perf_counter() - start}


def main() -> None:
    """Print both tables."""
    extraction()
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        baking(Path(folder))


if __name__ == "__main__":
    main()
