"""The same promise with Accelerate, Lightning and the Trainer of transformers.

Killed by SIGKILL within epochs, resumed, killed, resumed from the save of a resumed run: every loss, the
weights, the average, both moments, learning rates, the trainer's own counters and logs, and the next random
numbers are those of the training that was left alone.
"""

from multiprocessing import forkserver

import pytest

from e2e.exact_resume.lives import CONTEXT
from e2e.exact_resume.test_exact_resume import check_resumes

pytestmark = pytest.mark.slow  # 5 seconds to import such a trainer, in every life
MODULES = ["accelerate", "lightning.pytorch", "transformers.trainer", "memcard.jobs.checkpointer"]

ACCELERATE = {
    "nothing random in the data": {"aug": "none"},
    "random by index": {"aug": "pure"},
    "random in the workers": {"aug": "worker"},
    "ExactSampler": {"sampler": "exact"},
    "accumulated gradients": {"accumulate": 3, "every": 4},
    "its seedable sampler": {"use_seedable_sampler": True},
    "its stateful loader": {"use_stateful_dataloader": True},
    "a plain Checkpointer": {"given": False, "every": 13},
}
LIGHTNING = {
    "nothing random in the data": {"aug": "none"},
    "random by index": {"aug": "pure"},
    "random in the workers": {"aug": "worker"},
    "ExactSampler": {"sampler": "exact"},
    "accumulated gradients": {"accumulate_grad_batches": 2, "every": 3},
    "saves where it validates": {"every": 4, "plateau": True},
    "saves between epochs": {"every": 13},
    "no validation": {"validate": False, "every": 1},
}
TRANSFORMERS = {
    "nothing random in the data": {"aug": "none"},
    "random by index": {"aug": "pure"},
    "random in the workers": {"aug": "worker"},
    "ExactSampler": {"sampler": "exact"},
    "accumulated gradients": {"accumulate": 2, "every": 4, "kills": (8, 16)},
    "saves between epochs": {"every": 13, "eval_strategy": "epoch"},
    "saves at every step": {"every": 1},
}
CASES = {
    f"{script}, {name}": (f"train_{script}", options)
    for script, cases in [
        ("accelerate", ACCELERATE), ("lightning", LIGHTNING), ("hf", TRANSFORMERS),
    ]
    for name, options in cases.items()
}  # fmt: skip
TWO = {
    "accelerate, shuffle": ("train_accelerate", {}),
    "accelerate, ExactSampler": ("train_accelerate", {"sampler": "exact", "accumulate": 2}),
    "accelerate, split batches": (
        "train_accelerate",
        {"sampler": "exact", "split_batches": True, "kills": (8, 22)},
    ),
    "accelerate, rank 0 reads": (
        "train_accelerate",
        {"dispatch_batches": True, "workers": 0, "aug": "pure"},
    ),
    "lightning, shuffle": ("train_lightning", {"strategy": "ddp", "devices": 2}),
    "lightning, ExactSampler": (
        "train_lightning",
        {"strategy": "ddp", "devices": 2, "sampler": "exact"},
    ),
    "transformers, shuffle": ("train_hf", {}),
    "transformers, ExactSampler": (
        "train_hf",
        {"sampler": "exact", "accumulate": 2, "kills": (4, 9), "every": 3},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _imported_once():
    forkserver._forkserver._stop()
    before = forkserver._forkserver._preload_modules
    CONTEXT.set_forkserver_preload([*before, *MODULES])
    yield
    forkserver._forkserver._stop()
    CONTEXT.set_forkserver_preload(before)


@pytest.mark.parametrize("name", CASES)
def test_one_process(tmp_path, name):
    script, options = CASES[name]
    check_resumes(tmp_path, script=script, **{"kills": (8, 22)} | options)


@pytest.mark.parametrize("name", TWO)
def test_two_ranks(tmp_path, name):
    script, options = TWO[name]
    check_resumes(tmp_path, script=script, world=2, **{"kills": (8, 12)} | options)
