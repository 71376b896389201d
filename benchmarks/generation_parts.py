"""The parts of ``benchmarks/generation.py``; each runs in a process of its own and prints one JSON object.

Ours and theirs are functions of the same name, behind ``our_`` and ``their_``.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
PROMPT = "a red apple on a table"
_PAGE = 4096


def clock(call: Callable[[], object], rounds: int) -> Facts:
    """Return medians of wall and CPU seconds."""
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall": statistics.median(walls), "cpu": statistics.median(cpus)}


def peak() -> int:
    """Return the most bytes this process ever had in memory; getrusage counts those of its parent too."""
    return status("VmHWM")


def status(key: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def rchar() -> int:
    """Return the bytes this process read by system calls."""
    return int(Path("/proc/self/io").read_text().split()[1])


def hand(folder: str, dtype: str) -> Any:
    """Return diffusers' pipeline of a folder, with the sampler of the comparison."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    found: Any = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=getattr(torch, dtype), local_files_only=True, safety_checker=None
    )
    config = {**found.scheduler.config, "algorithm_type": "dpmsolver++"}
    found.scheduler = DPMSolverMultistepScheduler.from_config(config)
    found.set_progress_bar_config(disable=True)
    return found


def single(path: str, configs: str, dtype: str) -> Any:
    """Return diffusers' pipeline of a single file."""
    import torch
    from diffusers import StableDiffusionPipeline

    found: Any = StableDiffusionPipeline.from_single_file(
        *(path,),
        config=configs,
        torch_dtype=getattr(torch, dtype),
        local_files_only=True,
        safety_checker=None,
    )
    found.set_progress_bar_config(disable=True)
    return found


def our_picture(o: Facts) -> Facts:
    """Seconds per image, warm."""
    import memcard

    with memcard.Generator(device="cpu", dtype=o["dtype"]) as generator:
        said = {"steps": o["steps"], "width": o["side"], "height": o["side"], "cfg": 5.0}

        def one() -> None:
            generator.run(PROMPT, o["path"], seed=1, sampler="dpmpp_2m", **said)

        one()
        return {**clock(one, o["rounds"]), "peak": peak()}


def their_picture(o: Facts) -> Facts:
    """The same by diffusers."""
    import torch

    kind = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[o["dtype"]]
    pipe = hand(o["folder"], kind)
    threads = torch.get_num_threads()
    if o["dtype"] == "F32":  # what ours does for a small model
        torch.set_num_threads(1)
    said = {"num_inference_steps": o["steps"], "width": o["side"], "height": o["side"]}

    def one() -> None:
        pipe(PROMPT, guidance_scale=5.0, generator=torch.Generator().manual_seed(1), **said)

    one()
    found = {**clock(one, o["rounds"]), "peak": peak()}
    torch.set_num_threads(threads)
    return found


def our_first_step(o: Facts) -> Facts:
    """From a cold process to the first step; the caller measures."""
    from memcard.cli._spare import leave_out
    from memcard.core.progress import Progress
    from memcard.jobs.generate import run

    leave_out("generate")  # as the command does

    def stop(event: Any) -> None:
        if isinstance(event, Progress) and event.phase == "pictures":
            print(json.dumps({"peak": peak()}), flush=True)
            os._exit(0)

    run(
        *(PROMPT, o["path"]),
        steps=o["steps"], width=o["side"], height=o["side"], cfg=5.0, seed=1, device="cpu",
        dtype=o["dtype"], progress=stop,
    )  # fmt: skip
    raise SystemExit("no step was done")


def their_first_step(o: Facts) -> Facts:
    """The same by diffusers."""

    def stop(*args: Any) -> Any:
        print(json.dumps({"peak": peak()}), flush=True)
        os._exit(0)

    kind = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[o["dtype"]]
    pipe = single(o["path"], o["configs"], kind)
    said = {"num_inference_steps": o["steps"], "width": o["side"], "height": o["side"]}
    pipe(PROMPT, guidance_scale=5.0, callback_on_step_end=stop, **said)
    raise SystemExit("no step was done")


def touch(pipeline: Any) -> None:
    """Have every page of the weights in memory."""
    touch_all(list(pipeline.modules.values()))


def touch_all(modules: list[Any]) -> None:
    """Have every page of the weights of networks in memory."""
    import torch

    for module in modules:
        for weight in module.parameters():
            weight.data.reshape(-1).view(torch.uint8)[::_PAGE].sum()


def our_swap(o: Facts) -> Facts:
    """Swaps between two checkpoints in a warm process, and what a new start costs."""
    from memcard.jobs._generate_models import Models, Wanted

    pair = [Wanted(o["path"]), Wanted(o["other"])]
    found: Facts = {}
    rows = ("kept", o["stored"], None), ("read", o["stored"], 0), ("converted", o["dtype"], 0)
    for row, dtype, budget in rows:
        models = Models("cpu", dtype, budget=budget)
        for wanted in (*pair, *pair):  # twice: the second time the headers and digests are known
            touch(models.get(wanted).pipeline)
        turn = [0]

        def swap(*, full: bool, models: Models = models, turn: list[int] = turn) -> None:
            turn[0] += 1
            loaded = models.get(pair[turn[0] % 2 - 1])
            if full:
                touch(loaded.pipeline)

        found[row] = clock(lambda swap=swap: swap(full=False), o["rounds"])  # type: ignore[misc]
        found[f"{row}, touched"] = clock(lambda swap=swap: swap(full=True), o["rounds"])  # type: ignore[misc]
        models.close()

        def rebuild(dtype: str = dtype) -> None:
            fresh = Models("cpu", dtype, budget=0)
            fresh.get(pair[0])
            fresh.close()

        found[f"{row}, rebuilt"] = clock(rebuild, o["rounds"])
    there = bytearray(Path(o["path"]).stat().st_size)  # pages at hand, as those of weights that go
    found["reading"] = clock(lambda: read(o["path"], memoryview(there)), o["rounds"])
    return found


def read(path: str, into: memoryview) -> None:
    """Read a file into memory that is there."""
    with Path(path).open("rb", buffering=0) as file:
        at = 0
        while count := file.readinto(into[at : at + (8 << 20)]):
            at += count


def their_swap(o: Facts) -> Facts:
    """What building the pipeline anew costs by diffusers, in a warm process."""
    kinds = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    found = {}

    def rebuild(dtype: str, *, full: bool) -> None:
        pipe = single(o["other"], o["configs"], kinds[dtype])
        if full:
            touch_all(list(parts_of(pipe)))

    for row, dtype in (("read", o["stored"]), ("converted", o["dtype"])):
        rebuild(dtype, full=True)
        found[row] = clock(partial(rebuild, dtype, full=False), o["rounds"])
        found[f"{row}, touched"] = clock(partial(rebuild, dtype, full=True), o["rounds"])
    return found


def parts_of(pipe: Any) -> list[Any]:
    """Return the networks of diffusers' pipeline."""
    import torch

    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def our_packed_swap(o: Facts) -> Facts:
    """Swaps to a sibling that is packed as a difference, beside the plain one; every byte in memory."""
    from memcard.jobs._generate_models import Models, Wanted

    found: Facts = {"bytes": Path(o["other"]).stat().st_size}
    files = [Path(o["other"]), *(p for p in Path(o["library"]).rglob("*") if p.is_file())]
    for where in ("memory", "disk"):
        for row, ref in (("plain", o["other"]), ("packed", o["packed"])):
            models = Models("cpu", o["stored"], budget=0)
            clocks, read_here = [], []
            for turn in range(o["rounds"] + 1):
                touch(models.get(Wanted(o["base"])).pipeline)
                if where == "disk":
                    forget(files)
                before = rchar()
                one = clock(lambda: touch(models.get(Wanted(ref)).pipeline), 1)  # noqa: B023
                if turn:  # the first one reads headers and digests that are remembered
                    clocks.append(one)
                    read_here.append(rchar() - before)
            models.close()
            mine = {k: statistics.median(c[k] for c in clocks) for k in ("wall", "cpu")}
            found[f"{row}, {where}"] = {**mine, "read": statistics.median(read_here)}
    return found


def forget(files: list[Path]) -> None:
    """Have no page of files in the memory of the system."""
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def our_peak(o: Facts) -> Facts:
    """The most memory while loading, beside what was there before."""
    from memcard.jobs._generate_models import Models, Wanted

    warm = Models("cpu", "F32")
    warm.get(Wanted("starter"))  # imports of every part
    warm.close()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    models = Models("cpu", o["dtype"])
    pipeline = models.get(Wanted(o["path"])).pipeline
    touch(pipeline)
    weights = sum(p.nbytes for module in pipeline.modules.values() for p in module.parameters())
    return {"peak": status("VmHWM") - before, "weights": weights}


def their_peak(o: Facts) -> Facts:
    """The same by diffusers."""
    from diffusers import StableDiffusionPipeline  # noqa: F401

    kind = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[o["dtype"]]
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    pipe = single(o["path"], o["configs"], kind)
    modules = parts_of(pipe)
    touch_all(modules)
    weights = sum(p.nbytes for module in modules for p in module.parameters())
    return {"peak": status("VmHWM") - before, "weights": weights}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(globals()[sys.argv[1]](json.loads(sys.argv[2]))))
