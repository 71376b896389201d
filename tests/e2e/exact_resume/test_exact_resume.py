"""A training that is killed again and again ends as one that ran through, bit for bit.

Killed by SIGKILL in the middle of epochs, resumed, killed, resumed from the save of a resumed run: every loss
that is ever computed, the weights, the average, both moments of AdamW, the learning rates and the next
random numbers are those of the training that was left alone.
"""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from e2e.exact_resume.lives import finals, live, losses

KILLED = -9


def check_resumes(tmp_path, *, kills=(8, 22, 31), world=1, **options):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert live(whole, world=world, **options) == [0] * world
    for kill_at in kills:
        assert KILLED in live(broken, world=world, kill_at=kill_at, **options)
    assert live(broken, world=world, **options) == [0] * world
    compare(whole, broken, world)


def compare(whole, broken, world=1):
    expected = {(rank, step): loss for rank, step, loss in losses(whole, world)}
    found = losses(broken, world)
    wrong = [(rank, step) for rank, step, loss in found if expected[rank, step] != loss]
    assert wrong == []
    assert {(rank, step) for rank, step, _ in found} == set(expected)
    assert finals(broken, world) == finals(whole, world)


def test_killed_twice_and_resumed_twice_is_never_interrupted(tmp_path):
    check_resumes(tmp_path, kills=(8, 18), epochs=2, workers=2)


ONE = {
    "nothing random in the data": {"aug": "none"},
    "random by index": {"aug": "pure"},
    "random in the workers": {"aug": "worker"},
    "without workers": {"workers": 0},
    "persistent workers": {"persistent_workers": True},
    "spawned workers": {"multiprocessing_context": "spawn", "kills": (22,)},
    "ExactSampler": {"loader": "exact", "pass_data": True},
    "ExactSampler, persistent": {"loader": "exact", "persistent_workers": True},
    "weights": {"loader": "weighted"},
    "subset": {"loader": "subset"},
    "random collate": {"loader": "collate"},
    "random collate without workers": {"loader": "collate", "workers": 0},
    "StatefulDataLoader": {"loader": "stateful", "pass_data": True},
    "stream": {"loader": "stream", "workers": 0},
    "stream of a StatefulDataLoader": {"loader": "statefulstream", "pass_data": True},
    "work after step()": {"after": True},
    "accumulated gradients": {"accumulate": 3},
    "a save at every step": {"every": 1},
    "saves by time": {"every": None},
}
TWO = {
    "ExactSampler": {"loader": "exact", "pass_data": True},
    "DistributedSampler": {"loader": "distributed", "workers": 0},
    "StatefulDataLoader": {"loader": "stateful"},
    "shuffle on each": {"loader": "shuffle", "persistent_workers": True},
}


def test_the_loop_of_the_guide_is_exact(tmp_path):
    """Copied from the page; only the kill and the more frequent saves are added."""
    script = tmp_path / "guide.py"
    script.write_text(guide())
    folders = [tmp_path / "whole", tmp_path / "broken"]
    for folder, kills in zip(folders, [[None], [8, 22, None]], strict=True):
        folder.mkdir()
        for kill_at in kills:
            live(folder, script=str(script), kill_at=kill_at)

    one, other = (folder / "runs" / "first" / "step-000000035.safetensors" for folder in folders)

    a, b = load_file(one), load_file(other)
    assert set(a) == set(b) > {"model.0.weight", "optimizer.0.weight.exp_avg"}
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def guide():
    text = (Path(__file__).parents[3] / "docs" / "resume.md").read_text("utf-8")
    loop = text.partition("```python\n")[2].partition("```")[0]
    for old, new in [
        ("def main():", "def main(kill_at=None):"),
        ('"runs/first", ', '"runs/first", every=5, '),
        (
            "        ck.step(",
            "        if step == kill_at:\n            os.kill(os.getpid(), 9)\n        ck.step(",
        ),
    ]:
        assert loop.count(old) == 1
        loop = loop.replace(old, new)
    return (
        f"import os\n{loop}\ndef run(folder, kill_at):\n    os.chdir(folder)\n    main(kill_at)\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE)
def test_one_process(tmp_path, name):
    check_resumes(tmp_path, **ONE[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO)
def test_two_ranks(tmp_path, name):
    check_resumes(tmp_path, world=2, kills=(5, 12, 17), **TWO[name])


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """Also within a save, within a resume, and before the first step."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    options = {"every": 1, "workers": 0, "pause": 0.02}
    assert live(whole, **options) == [0]
    moments = random.Random(3)
    codes = [live(broken, kill_after=moments.uniform(0.1, 2.0), **options) for _ in range(10)]
    assert [KILLED] in codes
    assert live(broken, **options) == [0]
    compare(whole, broken)
