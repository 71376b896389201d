"""Parameters are completed and checked, all faults at once."""

import pytest

from memcard.errors import UsageError
from memcard.ops import OPS
from memcard.recipes.nodes import Params
from memcard.recipes.op import check_arity, complete

AVERAGE = OPS["weighted_average"]


def test_defaults_are_written_out():
    params = complete("weighted_average", AVERAGE, Params({"weights": [1, 2.0]}))

    assert dict(params) == {"dtype": "widest", "normalize": True, "weights": (1.0, 2.0)}
    assert all(type(w) is float for w in params["weights"])


def test_all_faults_come_at_once():
    bad = Params({"weigths": [1], "normalize": "yes", "dtype": "F17"})

    with pytest.raises(UsageError) as caught:
        complete("weighted_average", AVERAGE, bad)

    text = str(caught.value)
    assert "Did you mean 'weights'?" in text
    assert "normalize is 'yes'" in text
    assert "one of widest, F64" in text


@pytest.mark.parametrize("weights", ["half", [True], [0.5, "x"], 0.5])
def test_weights_are_numbers(weights):
    with pytest.raises(UsageError, match="a list of numbers"):
        complete("weighted_average", AVERAGE, Params({"weights": weights}))


@pytest.mark.parametrize(("op", "count"), [("cast", 2), ("overlay", 1), ("lora_bake", 1)])
def test_a_wrong_number_of_inputs_is_refused(op, count):
    with pytest.raises(UsageError, match=f"{count} given"):
        check_arity(op, OPS[op], count)
