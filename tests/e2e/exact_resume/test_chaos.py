"""PyPI's ckpt-chaos kills the plain loop at its file events, resumes it, and compares the end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ckpt_chaos")

BAD = "HARD_FAIL,SILENT_DIVERGENCE,LOST_WORK,CONTROL_FAIL"


@pytest.mark.slow
def test_no_kill_at_a_file_event_costs_anything(tmp_path):
    command = [
        sys.executable, "-m", "ckpt_chaos", "run", "--fail-on", BAD,
        "--work", tmp_path / "work", "--max-points", "10", "--modes", "before,torn",
        "--result-file", "{out}/final.txt", "--step-regex", r"resumed at step (\d+)",
        "--checkpoint-glob", "{out}/run/step-*.safetensors", "--ckpt-ignore-size",
        "--", sys.executable, Path(__file__).with_name("chaos.py"), "{out}",
    ]  # fmt: skip
    env = {**os.environ, "MEMCARD_HOME": str(tmp_path / "home")}

    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=1200, check=False
    )

    assert done.returncode == 0, done.stdout
    assert "PASS: " in done.stdout
    assert "3 checkpoints" in done.stdout  # of every=4 in 12 steps: it has seen them
