"""What a plan says of memory and time, held against what it takes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fixtures import small
from fixtures.methods import run
from memcard.jobs import _cost
from memcard.jobs.merge import merge
from memcard.maths import deltas, rounding, select
from memcard.recipes.execute import CHUNK

WIDE = {"w": np.zeros((1500, 2000), "f2")}  # 6 MB
SMALL = {"w": np.ones((30, 20), "f2"), "note.position_ids": np.arange(3)}
RUN = """
import re, sys
from pathlib import Path
from memcard.jobs.merge import merge
*inputs, out = sys.argv[1:]
made = merge("ties", inputs[1:], base=inputs[0], out=out, digests=False, threads=2)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(made.memory, int(peak) * 1024)
"""


def extra(tmp_path, method, /, *inputs, threads=1, **params):
    return _cost.memory(run(tmp_path, method, *inputs, **params), threads) - _cost._INTERPRETER


def test_memory_is_that_of_the_chunks_of_all_threads(tmp_path):
    one, two = (extra(tmp_path, "weighted_average", WIDE, WIDE, threads=n) for n in (1, 2))

    assert two == 2 * one
    assert 3 * CHUNK < one < 3 * CHUNK + (8 << 20)


def test_memory_counts_what_is_measured_and_what_a_whole_tensor_needs(tmp_path):
    plain = extra(tmp_path, "weighted_average", WIDE, WIDE)
    searched = extra(tmp_path, "ties", WIDE, WIDE)
    whole = extra(tmp_path, "rotate", WIDE, WIDE)
    by_block = extra(tmp_path, "by_block", WIDE, WIDE, method="rotate")
    looked = extra(tmp_path, "cosine_add", WIDE, WIDE)

    assert searched - plain > 16 * deltas.RUN + 2 * 16 * (WIDE["w"].size // 16)
    assert WIDE["w"].size // 16 < select.KEPT
    assert whole > 3 * WIDE["w"].nbytes + 70 * WIDE["w"].size
    assert by_block == whole
    assert looked >= 3 * 8 * 2000


def test_loops_are_counted_where_they_will_be_loaded(tmp_path, monkeypatch):
    without = extra(tmp_path, "weighted_average", SMALL, SMALL)
    monkeypatch.setattr(rounding, "_WORTH", 500)

    assert extra(tmp_path, "weighted_average", SMALL, SMALL) == without + _cost._LOOPS


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_near_what_a_merge_takes(tmp_path):
    arrays = [np.random.default_rng(i).standard_normal((4000, 3000), "f4") for i in range(3)]
    paths = [
        small.save(tmp_path / f"{i}.safetensors", {f"w{n}": a.astype("f2") for n in range(4)})
        for i, a in enumerate(arrays)
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", RUN, *map(str, paths), str(tmp_path / "out.safetensors")]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    guess, peak = map(int, re.findall(r"\d+", done.stdout))
    assert 0.6 < guess / peak < 1.5
    assert peak < 350 << 20
    for path in Path(tmp_path).glob("*.safetensors"):
        path.unlink()


def test_time_is_tried_on_a_tensor_or_not_told(tmp_path):
    assert 0 < _cost.seconds(run(tmp_path, "ties", SMALL, SMALL), 1) < 5
    assert _cost.seconds(run(tmp_path, "rotate", SMALL, SMALL), 1) is None
    assert _cost.seconds(run(tmp_path, "cosine_add", SMALL, SMALL), 1) is None
    assert _cost.seconds(run(tmp_path, "identity", SMALL), 1) == 0


def test_a_plan_has_an_estimate_and_a_result_what_it_took(tmp_path):
    paths = [small.save(tmp_path / f"{i}.safetensors", SMALL) for i in "ab"]
    out = tmp_path / "out.safetensors"

    plan = merge("weighted_average", paths, out=out, dry_run=True)
    made = merge("weighted_average", paths, out=out)

    assert plan.seconds is not None
    assert made.seconds is not None
    assert plan.memory == made.memory
    assert merge("rotate", paths, out=out, dry_run=True, overwrite=True).seconds is None
