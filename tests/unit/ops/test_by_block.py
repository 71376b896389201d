"""Rules of by_block, as a recipe may hold them."""

import numpy as np
import pytest

from fixtures import small
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source
from memcard.recipes.op import complete


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(9).astype("f4") for name in ("x.a", "x.b", "y.a", "z")}


@pytest.fixture
def result(tmp_path):
    paths = [small.save(tmp_path / f"{i}.safetensors", arrays(i)) for i in range(3)]

    def run(count=2, **params):
        node = Apply("by_block", tuple(Source(str(p)) for p in paths[:count]), Params(params))
        made = evaluate(node, lambda s: open_file(s.ref), OPS)
        return {name: small.array_of(made, name) for name in made.specs}

    return run


def mean(name, weights):
    return sum(w * arrays(i)[name].astype("f8") for i, w in enumerate(weights)).astype("f4")


def test_the_first_rule_that_fits_decides(result):
    found = result(
        rules=[
            {"names": ["x.a"], "keep": 1},
            {"prefixes": ["x."], "set": {"weights": [1.0, 3.0]}},
            {"prefixes": ["x.", "z"], "keep": 0},
        ]
    )

    assert np.array_equal(found["x.a"], arrays(1)["x.a"])
    assert np.array_equal(found["x.b"], mean("x.b", [0.25, 0.75]))
    assert np.array_equal(found["y.a"], mean("y.a", [0.5, 0.5]))
    assert np.array_equal(found["z"], arrays(0)["z"])


def test_an_input_that_is_not_merged_only_gives_what_is_kept_of_it(result):
    found = result(3, merged=2, rules=[{"names": ["z"], "keep": 2}])

    assert np.array_equal(found["z"], arrays(2)["z"])
    assert np.array_equal(found["x.a"], mean("x.a", [0.5, 0.5]))


@pytest.mark.parametrize(("method", "count"), [("ties", 3), ("slerp", 2), ("rotate", 2)])
def test_methods_that_measure_first_give_the_bits_they_give_alone(tmp_path, method, count):
    rng = np.random.default_rng(0)
    many = [{n: rng.standard_normal((40, 30)).astype("f4") for n in "abc"} for _ in range(count)]
    paths = [small.save(tmp_path / f"{i}.safetensors", a) for i, a in enumerate(many)]
    nodes = tuple(Source(str(p)) for p in paths)

    alone = evaluate(Apply(method, nodes, Params()), lambda s: open_file(s.ref), OPS)
    by_block = Apply("by_block", nodes, Params({"method": method}))
    inside = evaluate(by_block, lambda s: open_file(s.ref), OPS)

    assert {n: bytes(inside.read(n)) for n in "abc"} == {n: bytes(alone.read(n)) for n in "abc"}


def test_settings_hold_where_a_rule_is_silent(result):
    found = result(
        settings={"weights": [0.1, 0.2], "normalize": False},
        rules=[{"names": ["z"], "set": {"normalize": True}}],
    )

    assert np.array_equal(found["x.a"], mean("x.a", [0.1, 0.2]))
    assert np.allclose(found["z"], mean("z", [1 / 3, 2 / 3]), rtol=1e-6)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"rules": "x"}, "rules is not a list"),
        ({"rules": [3, {"keep": 0, "if": 1}]}, r"rules\[0\] is not an object.*unknown 'if'"),
        ({"rules": [{"names": ["z"]}]}, 'either "keep" or "set"'),
        ({"rules": [{"names": "z", "keep": 0}]}, '"names" is not a list of texts'),
        ({"rules": [{"names": ["z"], "keep": 2}]}, '"keep" is 2; .* 0 to 1'),
        ({"rules": [{"names": ["z"], "set": 4}]}, '"set" is not an object'),
        ({"rules": [{"names": ["z"], "set": {"wieghts": []}}]}, "Did you mean 'weights'"),
        ({"merged": 3}, "merged is 3"),
        ({"names_from": 2}, "names_from 2"),
        ({"method": "by_block"}, "cannot be by_block itself"),
        ({"settings": {"density": 1}}, "no parameter 'density'"),
    ],
)
def test_rules_that_are_none_are_refused(result, params, text):
    with pytest.raises(UsageError, match=text):
        result(**params)


def test_the_faults_of_all_groups_are_told_at_once():
    op = OPS["by_block"]
    a = {n: Spec(DTYPES["F32"], (3,)) for n in ("x", "y")}
    b = {n: Spec(DTYPES["F32"], (4,)) for n in ("x", "y")}
    rules = [{"names": ["x"], "set": {"weights": [0.1, 0.9]}}]
    params = complete("by_block", op, Params({"rules": rules}))

    with pytest.raises(MismatchError) as caught:
        op.plan([a, b], params)

    assert "'x': [3]" in str(caught.value)
    assert "'y': [3]" in str(caught.value)
