"""What every operation promises, held against all of them by their being there."""

import inspect

import numpy as np
import pytest

from fixtures import small
from memcard.core.tensors import Spec
from memcard.formats import open_file
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source
from memcard.recipes.op import Op, complete


def base(seed):
    rng = np.random.default_rng(seed)
    arrays = small.weights(seed, size=5000)
    name = "model.diffusion_model.out.2.weight"
    arrays[name] = (rng.standard_normal((40, 30)) * 0.1).astype("f2")
    arrays["model_ema.diffusion_modelout2weight"] = arrays[name] / 2
    arrays["position_ids"] = np.arange(77)
    return arrays


def lora(seed):
    rng = np.random.default_rng(seed)
    module = "lora_unet_out_2"
    return {
        f"{module}.lora_up.weight": rng.standard_normal((40, 4)).astype("f2"),
        f"{module}.lora_down.weight": rng.standard_normal((4, 30)).astype("f2"),
        f"{module}.alpha": np.array(2.0, "f2"),
    }


INPUTS = {
    "identity": ([base(1)], {}),
    "dequantize": ([base(1)], {}),  # with blocks: tests/unit/ops/test_dequantize.py
    "cast": ([base(1)], {"dtype": "BF16"}),
    "weighted_average": ([base(1), base(2)], {"weights": [0.7, 0.3]}),
    "lora_bake": ([base(1), lora(2), lora(3)], {"strengths": [0.8, -0.5]}),
    "overlay": ([base(1), {"b.bias": small.weights(2)["b.bias"]}], {}),
    "pick_ema": ([base(1)], {"which": "ema"}),
}


@pytest.mark.parametrize("name", OPS)
class TestOp:
    @pytest.fixture
    def node(self, name, tmp_path):
        arrays, params = INPUTS[name]
        paths = [small.save(tmp_path / f"{i}.safetensors", a) for i, a in enumerate(arrays)]
        return Apply(name, tuple(Source(str(p)) for p in paths), Params(params))

    def test_keeps_the_protocol(self, name):
        assert isinstance(OPS[name], Op)
        assert len(OPS[name].title) > 3
        assert len(OPS[name].source) > 8
        assert inspect.getmodule(type(OPS[name])).__doc__

    def test_defaults_lie_in_their_own_ranges_and_are_explained(self, name):
        params = complete(name, OPS[name], Params())

        for key, param in OPS[name].params.items():
            assert len(param.help) > 8
            assert complete(name, OPS[name], Params({key: params[key]})) == params

    def test_plans_from_headers_in_the_order_of_the_first_input(self, name, node):
        inputs = [open_file(s.ref) for s in node.inputs]
        steps = OPS[name].plan([c.specs for c in inputs], complete(name, OPS[name], node.params))

        names = [step.name for step in steps]
        assert names == [n for n in inputs[0].specs if n in set(names)]
        assert all(isinstance(step.spec, Spec) for step in steps)
        for step in steps:
            for index, key in step.needs + step.small:
                assert key in inputs[index].specs

    def test_gives_the_same_bits_in_any_chunk(self, name, node):
        result = evaluate(node, lambda s: open_file(s.ref), OPS)
        rng = np.random.default_rng(0)
        for tensor, spec in result.specs.items():
            whole, pieces, at = bytes(result.read(tensor)), b"", 0
            while at < spec.nbytes:
                part = bytearray(min(int(rng.integers(1, 999)), spec.nbytes - at))
                result.readinto(tensor, memoryview(part), at)
                pieces += part
                at += len(part)
            assert pieces == whole
        result.close()

    def test_does_not_change_its_inputs(self, name, node):
        before = [open_file(s.ref).read("b.bias").tobytes() for s in node.inputs[:1]]
        result = evaluate(node, lambda s: open_file(s.ref), OPS)
        for tensor in result.specs:
            result.read(tensor)

        assert [open_file(s.ref).read("b.bias").tobytes() for s in node.inputs[:1]] == before
        result.close()


def test_every_operation_has_inputs_to_be_tested_with():
    assert sorted(INPUTS) == list(OPS)
