"""`memcard finetune --parts`: some weights of the UNet learn, the rest keeps the base's bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from memcard.formats import open_file
from memcard.jobs._finetune_plan import Plan
from memcard.jobs.finetune import Tuned, finetune

STARTER = Path(__file__).parents[3] / "src" / "memcard" / "starter" / "base.safetensors"
TINY: dict[str, Any] = {"steps": 1, "batch": 1, "device": "cpu", "sheets": False, "library": False}
PARTS = r"conv_out\.|mid_block\.attentions"


def test_only_the_parts_differ_from_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    data = tmp_path / "pictures"
    data.mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(data / "a black square.png")

    plan = finetune(STARTER, data, tmp_path / "out", parts=PARTS, dry_run=True, **TINY)
    made = finetune(STARTER, data, tmp_path / "out", parts=PARTS, **TINY)

    assert isinstance(plan, Plan)
    assert isinstance(made, Tuned)
    base, result = open_file(STARTER), open_file(made.files[0])
    changed = [n for n in base.specs if bytes(base.read(n)) != bytes(result.read(n))]
    assert {n.removeprefix("model.diffusion_model.").split(".")[0] for n in changed} == {
        "middle_block",
        "out",
    }
    assert plan.learning >= sum(base.specs[n].elements for n in changed) > 0
    assert plan.learning < 400_000
    base.close()
    result.close()
