"""LoRA: extraction against a full SVD, and baking against a copy; memcard and peers side by side.

    python benchmarks/lora.py [FOLDER]

Needs 5 GB in FOLDER (default: the temporary folder); leaves nothing. CPU seconds are those of the
calls themselves or of a process of its own; wall time means something on a quiet machine only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from memcard.core.tensors import DTYPES, Spec
from memcard.formats.safetensors import PLUGIN
from memcard.ops._lora_names import layers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fixtures.published import published

RANK = 32
# Layers of Stable Diffusion 1.5 and XL as matrices; a convolution's kernel counts as wide inputs.
SHAPES = ((320, 320), (320, 1280), (640, 640), (768, 768), (320, 2880), (1280, 1280), (640, 5760),
          (1280, 5120))  # fmt: skip
REPEATS = 10
LONG = 0.5  # seconds; what takes longer is run once
LAYERS = {
    "queries, keys, values and outputs of the UNet": "lora_unet.*attn[12]_",
    "all transformer blocks, text encoder": "lora_te|lora_unet.*attentions",
    "every layer of the UNet": "lora_unet",
}

BAKE = """
from memcard.jobs.lora import lora_bake
lora_bake(BASE, [(lora, 0.8) for lora in LORAS], OUT, digests=False, threads=THREADS)
"""
COPY = """
import subprocess
subprocess.run(["cp", "--reflink=never", BASE, OUT], check=True)
subprocess.run(["sync", OUT], check=True)
"""
# What scripts do that load a model whole: the change of each layer in float32, added and cast back.
NAIVE = """
import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(THREADS)
base = load_file(BASE)
for path in LORAS:
    lora = load_file(path)
    for name, weight in NAMES.items():
        if f"{name}.lora_up.weight" not in lora:
            continue
        up, down = (lora[f"{name}.lora_{end}.weight"].float() for end in ("up", "down"))
        old = base[weight]
        change = (up.flatten(1) @ down.flatten(1)).reshape(old.shape)
        base[weight] = (old.float() + 0.8 * change).to(old.dtype)
save_file(base, OUT)
"""
REPORT = """
import json, os, re
from pathlib import Path
t = os.times()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
system = t.system + t.children_system
print(json.dumps({"cpu": t.user + t.children_user + system, "system": system, "mb": peak / 1024}))
"""


def change(rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Return a change of rank 16 with noise, as a fine-tune makes it."""
    rng = np.random.default_rng((rows, columns))
    strong = rng.standard_normal((rows, 16)) @ rng.standard_normal((16, columns))
    return (0.001 * (strong + 0.5 * rng.standard_normal((rows, columns)))).astype(np.float32)


def cpu(work: Callable[[], object]) -> float:
    """Return the least CPU seconds of a few runs."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
        if best > LONG:
            break
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
    """Print a copy of a Stable-Diffusion-1.5-sized fp16 base, and bakes of rank-32 LoRAs into it."""
    base, out = folder / "base.safetensors", folder / "out.safetensors"
    shapes = published("sd1-ldm")
    write_base(base, shapes)
    names: dict[str, str] = {}
    loras = {title: folder / f"{i}.safetensors" for i, title in enumerate(LAYERS)}
    changed, found = {}, dict[str, float]()
    for title, path in loras.items():
        modules = write_lora(path, shapes, LAYERS[title])
        names |= modules
        changed[title] = sum(prod(shapes[name]) for name in modules.values())
    print(f"Baking, fp16, rank {RANK}, base of {base.stat().st_size / 1e9:.2f} GB\n")
    print("| run | CPU s | of it system | wall s | peak MB |\n|---|---|---|---|---|")
    shared: dict[str, object] = {"BASE": str(base), "OUT": str(out), "NAMES": names}
    row("floor: cp, sync", COPY, out, shared)
    for title, path in loras.items():
        share = f"{title}: {changed[title] / 1e6:.0f} M of {sum(map(prod, shapes.values())) / 1e6:.0f} M values"
        for threads in (1, 2):
            values = {**shared, "LORAS": [str(path)], "THREADS": threads}
            row(f"**{share}**, {threads} threads", BAKE, out, values)
        found[title] = exactness(base, path, out, names)
        row(f"naive torch, {title}", NAIVE, out, {**shared, "LORAS": [str(path)], "THREADS": 2})
    row("floor again", COPY, out, shared)
    row("floor again", COPY, out, shared)
    for title, equal in found.items():
        print(f"\n{title}: {equal:.4%} of the values equal float64 rounded once, none 2 ulp away")


def exactness(base: Path, lora: Path, out: Path, names: Mapping[str, str]) -> float:
    """Compare some layers of ``out`` with W + 0.8 up @ down in float64; the share that is equal.

    Raises:
        AssertionError: a value is 2 ulp away or more.
    """
    files = [PLUGIN.open(path) for path in (base, lora, out)]
    same = count = 0
    for module in [m for m in names if f"{m}.lora_up.weight" in files[1].specs][::11]:
        old, up, down, new = (
            np.frombuffer(file.read(name), "f2").reshape(file.specs[name].shape)
            for file, name in zip(
                (files[0], files[1], files[1], files[2]),
                (names[module], *(f"{module}.lora_{e}.weight" for e in ("up", "down")), names[module]),
                strict=True,
            )
        )  # fmt: skip
        product = up.reshape(len(up), -1).astype("f8") @ down.reshape(RANK, -1).astype("f8")
        right = (old.astype("f8") + 0.8 * product.reshape(old.shape)).astype("f2")
        apart = np.abs(right.view("i2").astype("i4") - new.view("i2").astype("i4"))
        assert apart.max() <= 1, module  # noqa: S101
        same, count = same + int(np.count_nonzero(apart == 0)), count + apart.size
    return same / count


def write_base(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write a base with the names and shapes of SD 1.5."""
    values = (np.random.default_rng(0).standard_normal(1 << 22, np.float32) * 0.02).astype("f2")
    data = memoryview(values.tobytes())
    specs = {name: Spec(DTYPES["F16"], shape) for name, shape in shapes.items()}
    with PLUGIN.create(path) as sink:
        sink.begin(specs, {})
        for name, spec in specs.items():
            for at in range(0, spec.nbytes, len(data)):
                sink.write(name, data[: min(len(data), spec.nbytes - at)], at)


def write_lora(path: Path, shapes: Mapping[str, tuple[int, ...]], pattern: str) -> dict[str, str]:
    """Write a LoRA for the layers whose names have the pattern; module to tensor of the base."""
    rng, found = np.random.default_rng(1), dict[str, str]()
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for layer in layers({name: Spec(DTYPES["F16"], shape) for name, shape in shapes.items()}):
        if not re.search(pattern, layer.name) or len(layer.place.runs) != 1:
            continue
        shape, found[layer.name] = layer.place.shape, layer.place.runs[0].tensor
        ones = (1,) * (len(shape) - 2)
        for end, size in (("up", (shape[0], RANK, *ones)), ("down", (RANK, *shape[1:]))):
            values = (rng.standard_normal(size, np.float32) * 0.02).astype("f2")
            arrays[f"{layer.name}.lora_{end}.weight"] = values
    with PLUGIN.create(path) as sink:
        sink.begin({name: Spec(DTYPES["F16"], array.shape) for name, array in arrays.items()}, {})
        for name, array in arrays.items():
            sink.write(name, memoryview(array.tobytes()))
    return found


def row(title: str, code: str, out: Path, values: Mapping[str, object]) -> None:
    """Run code in a process of its own and print what it cost."""
    out.unlink(missing_ok=True)
    head = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", head + code + REPORT], capture_output=True, text=True, check=True
    )
    wall = time.perf_counter() - start
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"| {title} | {facts['cpu']:.2f} | {facts['system']:.2f} | {wall:.2f} | {facts['mb']:.0f} |",
        flush=True,
    )


def main() -> None:
    """Print both tables."""
    extraction()
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        baking(Path(folder))


if __name__ == "__main__":
    main()
