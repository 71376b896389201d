"""What mergekit computes, kept as plain numbers in tests/golden/mergekit_methods.json."""

import json
from pathlib import Path

import numpy as np
import pytest

from fixtures.methods import run_on

GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit_methods.json"
CASES = json.loads(GOLDEN.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c['method']}" for i, c in enumerate(CASES)])
def test_agrees_with_mergekit(tmp_path, case):
    made = run_on(tmp_path, case["method"], *map(np.array, case["inputs"]), **case["params"])

    # its weights pass through float32, so seven digits are what there is
    assert np.allclose(made, case["result"], rtol=3e-7, atol=1e-7)


def test_all_methods_of_mergekit_are_covered():
    methods = {case["method"] for case in CASES}

    assert methods == {
        *("arcee_fusion", "karcher", "multislerp", "nearswap", "nuslerp", "ram", "slerp"),
    }
