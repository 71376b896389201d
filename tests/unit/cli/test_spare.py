"""What a command does not need is not imported, and nothing else changes."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from memcard.cli._spare import leave_out
leave_out(*sys.argv[1:])
import importlib.util
from memcard.core import collector
print([importlib.util.find_spec(name) is None for name in ("peft", "scipy")], collector.OURS)
"""


@pytest.mark.parametrize(
    ("command", "left_out"),
    [("generate", True), ("compare", True), ("tune", True), ("demo", True), ("finetune", False)],
)
def test_only_those_that_make_pictures(command: str, left_out: bool) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("scipy")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, command], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"[{left_out}, {left_out}] {[True] if left_out else []}"


def test_without_a_command_nothing_happens() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("[]")


SCHEDULERS = """
from memcard.cli._spare import leave_out
leave_out("generate")
from memcard.errors import UsageError
from memcard.generation.sampler import SCHEDULES
from memcard.generation.samplers import SAMPLERS
betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
made = 0
for sampler in SAMPLERS.values():
    for schedule in SCHEDULES:
        for prediction in ("epsilon", "v_prediction", "flow"):
            family = {"shift": 3.0} if prediction == "flow" else {**betas, "num_train_timesteps": 1000}
            try:
                sampler.scheduler(family, schedule=schedule, prediction_type=prediction)
            except UsageError:
                continue
            made += 1
print(made)
"""


@pytest.mark.slow
def test_every_sampler_does_without_them() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCHEDULERS],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) > 300
