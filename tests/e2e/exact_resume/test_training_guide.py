"""The scripts of the training guide run as they stand, and have nothing to do when they are run again."""

import re
from pathlib import Path

import pytest

from fixtures.warmed import Server
from memcard.training.saves import numbered

PAGE = Path(__file__).parents[3] / "docs" / "training.md"
SCRIPTS = {
    re.search(r'"(runs/(?!out)\w+)"', code)[1]: code
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    if "def main" in code
}


def test_the_guide_has_a_script_for_each_trainer():
    assert list(SCRIPTS) == ["runs/accelerated", "runs/lightning", "runs/transformers"]


@pytest.fixture(scope="module")
def trainers():
    """A process that has imported the trainers: 5 seconds each."""
    server = Server()
    yield server
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("run", SCRIPTS)
def test_a_script_runs_and_resumes(tmp_path, trainers, run):
    (tmp_path / "script.py").write_text(SCRIPTS[run])

    def run_it():
        code, _, said = trainers.run("e2e.exact_resume.script", str(tmp_path))
        assert code == 0, said
        return said

    run_it()
    step = numbered(tmp_path / run)[-1][0]
    said = run_it()

    # the accelerated one makes no save at its end, and it saves by time
    assert step == 39 or (run == "runs/accelerated" and step >= 1)
    assert f"resuming {run} after step {step}" in said
