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


def fisher(seed):
    return small.weights(seed, "F32")["b.bias"] ** 2


def gram(seed):
    seen = np.random.default_rng(seed).standard_normal((64, 30))
    return (seen.T @ seen).astype("f4")


OUT = "model.diffusion_model.out.2.weight"
INPUTS = {
    "identity": ([base(1)], {}),
    "dequantize": ([base(1)], {}),  # with blocks: tests/unit/ops/test_dequantize.py
    "cast": ([base(1)], {"dtype": "BF16"}),
    "weighted_average": ([base(1), base(2)], {"weights": [0.7, 0.3]}),
    "emulated_sum": ([base(1), base(2)], {"weights": [0.7, 0.3]}),
    "lora_bake": ([base(1), lora(2), lora(3)], {"strengths": [0.8, -0.5]}),
    "overlay": ([base(1), {"b.bias": small.weights(2)["b.bias"]}], {}),
    "pick_ema": ([base(1)], {"which": "ema"}),
    "by_block": (
        [base(1), base(2)],
        {"rules": [{"prefixes": ["b."], "set": {"weights": [0.2, 0.8]}}]},
    ),
    "by_block_survey": (
        [base(1), base(2)],
        {"rules": [{"names": ["b.bias"], "keep": 1}]},
    ),
    "add_difference": ([base(1), base(2), base(3)], {"lambda": 0.6}),
    "task_arithmetic": ([base(1), base(2), base(3)], {"weights": [0.7, 0.3]}),
    "ties": ([base(1), base(2), base(3)], {"density": 0.3}),
    "dare_linear": ([base(1), base(2), base(3)], {"seed": 1}),
    "dare_ties": ([base(1), base(2), base(3)], {"density": 0.3}),
    "della": ([base(1), base(2), base(3)], {"seed": 1}),
    "breadcrumbs": ([base(1), base(2), base(3)], {"gamma": 0.1}),
    "sce": ([base(1), base(2), base(3)], {"select_topk": 0.4}),
    "model_stock": ([base(1), base(2), base(3)], {"filter_wise": True}),
    "slerp": ([base(1), base(2)], {"t": 0.3}),
    "nuslerp": ([base(1), base(2), base(3)], {"task_vectors": True, "weights": [0.3, 0.7]}),
    "multislerp": ([base(1), base(2), base(3)], {"weights": [0.5, 0.3, 0.2]}),
    "karcher": ([base(1), base(2), base(3)], {}),
    "arcee_fusion": ([base(1), base(2)], {}),
    "nearswap": ([base(1), base(2)], {"t": 0.01}),
    "ram": ([base(1), base(2), base(3)], {"r": 0.1, "epsilon": 0.05}),
    "train_difference": ([base(1), base(2), base(3)], {}),
    "geometric": ([base(1), base(2)], {"alpha": 0.3}),
    "top_k_sum": ([base(1), base(2)], {"width": 0.4, "offset": 0.3}),
    "clamp": ([base(1), base(2), base(3), base(4)], {"stiffness": 0.2}),
    "cosine_add": ([base(1), base(2)], {"alpha": 0.1}),
    "rotate": ([base(1), base(2)], {"alpha": 0.2}),
    "fisher": ([base(1), base(2), {"b.bias": fisher(3)}, {"b.bias": fisher(4)}], {}),
    "regmean": ([base(1), base(2), {OUT: gram(3)}, {OUT: gram(4)}], {}),
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
