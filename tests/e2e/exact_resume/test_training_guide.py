"""The scripts of the training guide run as they stand, and have nothing to do when they are run again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from memcard.training.saves import numbered

PAGE = Path(__file__).parents[3] / "docs" / "training.md"
SCRIPTS = {
    re.search(r'"(runs/(?!out)\w+)"', code)[1]: code
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    if "def main" in code
}


def test_the_guide_has_a_script_for_each_trainer():
    assert list(SCRIPTS) == ["runs/accelerated", "runs/lightning", "runs/transformers"]


@pytest.mark.slow
@pytest.mark.parametrize("run", SCRIPTS)
def test_a_script_runs_and_resumes(tmp_path, run):
    (tmp_path / "script.py").write_text(SCRIPTS[run])
    env = {**os.environ, "MEMCARD_HOME": str(tmp_path / "home"), "CUDA_VISIBLE_DEVICES": ""}

    def run_it():
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, env=env, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    run_it()
    step = numbered(tmp_path / run)[-1][0]
    said = run_it()

    # the accelerated one makes no save at its end, and it saves by time
    assert step == 39 or (run == "runs/accelerated" and step >= 1)
    assert f"resuming {run} after step {step}" in said
