"""Families at full size: a file of random weights under the names people have, and a picture out of it.

    python benchmarks/full_size.py [sdxl] [sd3] [flux] [--size 512] [--steps 2] [--folder DIR] [--json]

The tensors are those of the published key lists (the package sd-mecha has them), in float16; SD 3 without its T5,
as people run it who have little memory. The picture is noise; memory and time are real. Beside it diffusers'
``from_single_file`` with the same file, its configs in a folder. Every run is a process of its own, told to
stay offline, and computes in BF16.

Flux.1 is four files in bfloat16, as people have it: the transformer, CLIP-L, T5-XXL and the VAE, 33.7 GB together,
and runs alone: the weights are windows on the files, so that a machine with less memory reads them again each step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fixtures.published import published  # noqa: E402 - not a package
from fixtures.unets import Shapes  # noqa: E402

FAMILIES = {"sdxl": "sdxl-sgm", "sd3": "sd3-comfyui"}
_BLOCK = 1 << 22
_PIPELINES = {"sdxl": "StableDiffusionXLPipeline", "sd3": "StableDiffusion3Pipeline"}
_THEIRS = """
import sys, torch, diffusers
path, configs, kind, side, steps = sys.argv[1:]
more = {"text_encoder_3": None, "tokenizer_3": None} if "3" in kind else {}
pipe = getattr(diffusers, kind).from_single_file(
    path, config=configs, torch_dtype=torch.bfloat16, local_files_only=True, **more)
pipe.set_progress_bar_config(disable=True)
pipe("a red apple", width=int(side), height=int(side), num_inference_steps=int(steps),
     guidance_scale=5.0, generator=torch.Generator().manual_seed(1))
"""


def shapes_of(family: str) -> Shapes:
    """Return the tensors of a family's single file, without a T5."""
    found = published(FAMILIES[family])
    return {key: shape for key, shape in found.items() if ".t5xxl." not in key}


def flux_parts() -> dict[str, Shapes]:
    """Return the tensors of the four files of Flux.1; encoders and VAE have the shapes of SD 3's."""
    sd3 = published("sd3-comfyui")

    def under(prefix: str) -> Shapes:
        return {key.removeprefix(prefix): s for key, s in sd3.items() if key.startswith(prefix)}

    return {
        "flux1-dev": {k: s for k, s in published("flux-flux").items() if "blocks" in k or "_in" in k
                      or "final_layer" in k},
        "clip_l": under("text_encoders.clip_l.transformer."),
        "t5xxl": under("text_encoders.t5xxl.transformer."),
        "ae": under("first_stage_model."),
    }  # fmt: skip


def write(path: Path, shapes: Shapes, dtype: str = "F16") -> Path:
    """Write random weights of 16 bits, small enough that nothing blows up, 4 million at a time."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(_BLOCK, np.float32)  # one block again and again, each time scaled
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            count, scale = int(np.prod(shape)), max(1.0, float(np.prod(shape[1:]))) ** -0.5
            one = 1.0 if len(shape) == 1 and name.endswith(".weight") else 0.0
            values = noise * np.float32(scale if len(shape) > 1 else 0.02) + np.float32(one)
            halves = values.astype(np.float16)
            part = halves if dtype == "F16" else (values.view(np.uint32) >> 16).astype(np.uint16)
            for at in range(0, count, _BLOCK):
                file.write(part[: count - at].tobytes())
    return path


def run(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a process; return its seconds, CPU seconds and peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    said = process.stderr.read() if process.stderr else b""
    _, end, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(end)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {said.decode()[-2000:]}")
    return {
        "seconds": time.perf_counter() - start,
        "CPU seconds": usage.ru_utime + usage.ru_stime,
        "peak GB": usage.ru_maxrss * 1024 / 1e9,
    }


def surroundings(folder: Path) -> dict[str, str]:
    """Return the environment of a run."""
    found = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONPATH": str(ROOT / "src"),
        "MEMCARD_HOME": str(folder / "library"),
    }
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def painting(options: argparse.Namespace, folder: Path, path: Path) -> list[str]:
    """Return the command that paints."""
    side = str(options.size)
    found = [sys.executable, "-m", "memcard", "generate", "a red apple", "-c", str(path)]
    found += ["--size", f"{side}x{side}", "--steps", str(options.steps), "--seed", "1"]
    return [*found, "--dtype", "BF16", "--device", "cpu", "-o", str(folder / "a.png")]


def flux(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return the figures of Flux.1."""
    files = [
        write(folder / f"{name}.safetensors", shapes, "BF16")
        for name, shapes in flux_parts().items()
    ]
    transformer, clip, t5, vae = files
    command = [*painting(options, folder, transformer), "--vae", str(vae), "--low-memory"]
    command += ["--text-encoder", str(clip), "--text-encoder", str(t5)]
    runs = [run(command, surroundings(folder)) for _ in range(options.rounds)]
    found: list[dict[str, Any]] = [
        {"what": f"flux: {what}", "ours": statistics.median(one[what] for one in runs)}
        for what in runs[0]
    ]
    size = sum(path.stat().st_size for path in files) / 1e9
    for path in files:
        path.unlink()
    return [*found, {"what": "flux: GB of the files", "ours": size}]


def measure(family: str, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return the figures of one family."""
    if family == "flux":
        return flux(options, folder)
    path = write(folder / f"{family}.safetensors", shapes_of(family))
    environment = surroundings(folder)
    side, steps = str(options.size), str(options.steps)
    ours = [*painting(options, folder, path), "--cfg", "5"]
    whole = folder / "whole"
    convert = [sys.executable, "-m", "memcard", "convert", str(path), f"{whole}/"]
    subprocess.run(convert, env=environment, check=True, capture_output=True)
    configs = folder / "configs"
    shutil.copytree(whole, configs, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.rmtree(whole)
    theirs = [sys.executable, "-W", "ignore", "-c", _THEIRS, str(path), str(configs)]
    theirs += [_PIPELINES[family], side, steps]
    rows: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(options.rounds):
        rows["ours"].append(run(ours, environment))
        rows["theirs"].append(run(theirs, environment))
    found = []
    for what in ("seconds", "CPU seconds", "peak GB"):
        a, b = (statistics.median(one[what] for one in rows[who]) for who in rows)
        found.append({"what": f"{family}: {what}", "ours": a, "diffusers": b, "ratio": a / b})
    found.append({"what": f"{family}: GB of the file", "ours": path.stat().st_size / 1e9})
    shutil.rmtree(configs)
    path.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*", default=["sdxl", "sd3"])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if odd := set(options.families) - {*FAMILIES, "flux"}:
        parser.error(f"no family {', '.join(odd)}; there are {', '.join(FAMILIES)}, flux")
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="memcard-bench-", dir=options.folder))
    rows: list[dict[str, Any]] = []
    try:
        for family in options.families:
            rows += measure(family, options, folder)
    finally:
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for one in rows:
        rest = "".join(f"{one[k]:10.3f}" for k in ("ours", "diffusers", "ratio") if k in one)
        print(f"{one['what']:30}{rest}")


if __name__ == "__main__":
    main()
