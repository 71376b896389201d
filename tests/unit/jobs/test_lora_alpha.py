"""Alphas that configurations state: by component, by names; PEFT's own matching as oracle."""

import json
import time

import numpy as np
import pytest

from fixtures import small
from memcard.errors import MismatchError, UnsupportedError
from memcard.jobs._lora_alpha import oft_terms, stated, stated_alphas
from memcard.jobs.lora import lora_bake
from memcard.jobs.lora_combine import lora_combine
from memcard.jobs.lora_info import lora_info

PAIR = {"lora_A.weight": np.ones((4, 8), "f4"), "lora_B.weight": np.ones((8, 4), "f4")}


@pytest.fixture
def adapter(tmp_path):
    """Save modules with a configuration: beside the file, or in its metadata."""

    def save(modules, config, *, beside=True):
        tensors = {f"{module}.{end}": a for module in modules for end, a in PAIR.items()}
        text = json.dumps(config)
        if beside:
            (tmp_path / "adapter_config.json").write_text(text, "utf-8")
            return small.save(tmp_path / "adapter_model.safetensors", tensors)
        metadata = {"lora_adapter_metadata": text}
        return small.save(tmp_path / "lora.safetensors", tensors, metadata)

    return save


MODULES = ("blocks.0.proj", "proj", "blocks.0.attn.to_q", "blocks.10.attn.to_q", "a.to_q_extra")


@pytest.mark.parametrize(
    "pattern",
    [
        "proj",
        "^proj",
        "attn.to_q",
        "to_q",
        "blocks.0.attn.to_q",
        "0.attn.to_q",
        "to_q_extra",
        "o_q",
    ],
)
def test_patterns_mean_what_they_mean_to_peft(adapter, pattern):
    from peft.utils.other import get_pattern_key

    path = adapter(
        [f"base_model.model.{m}" for m in MODULES], {"lora_alpha": 8, "alpha_pattern": {pattern: 2}}
    )

    found = stated_alphas(path)

    theirs = {m: {pattern: 2}.get(get_pattern_key([pattern], m), 8) for m in MODULES}
    assert {m: found[f"base_model.model.{m}"] for m in MODULES} == theirs


def test_components_have_configurations_of_their_own(adapter):
    config = {"unet.lora_alpha": 8, "text_encoder.lora_alpha": 2, "text_encoder.use_rslora": True}
    path = adapter(["unet.a", "text_encoder.b", "text_encoder_2.c"], config, beside=False)

    assert stated_alphas(path) == {"unet.a": 8.0, "text_encoder.b": 4.0}


def test_a_module_without_component_takes_the_only_configuration(adapter):
    path = adapter(["a"], {"unet.lora_alpha": 8}, beside=False)

    assert stated_alphas(path) == {"a": 8.0}


def test_a_module_that_could_be_of_either_component_is_not_guessed(adapter):
    path = adapter(["a"], {"unet.lora_alpha": 8, "text_encoder.lora_alpha": 4}, beside=False)

    with pytest.raises(MismatchError, match=r"8\.0, 4\.0"):
        stated_alphas(path)


@pytest.mark.parametrize("pattern", ["(a+)+$", "a|b", "blocks.*", "a b"])
def test_an_expression_of_a_stranger_is_never_run(adapter, pattern):
    path = adapter(["a" * 40], {"lora_alpha": 8, "alpha_pattern": {pattern: 2}})

    start = time.process_time()
    with pytest.raises(UnsupportedError, match="no plain names"):
        stated_alphas(path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "config", [[], {"lora_alpha": True}, {"lora_alpha": "8"}, {"r": 4}], ids=str
)
def test_what_states_no_number_states_nothing(adapter, config):
    path = adapter(["a"], config)

    assert stated_alphas(path) == {}
    assert stated(path).alpha("a", 4) is None
    assert oft_terms(path) is None


def test_baking_uses_each_of_them_and_the_recipe_says_so(adapter, tmp_path):
    config = {"lora_alpha": 4, "alpha_pattern": {"b": 1}}
    path = adapter(["base_model.model.a", "base_model.model.b", "base_model.model.c"], config)
    weights = {f"{n}.weight": np.zeros((8, 8), "f4") for n in "abc"}
    base = small.save(tmp_path / "base.safetensors", weights)

    made = lora_bake(base, [(path, 1.0)], tmp_path / "o.safetensors")

    assert dict(lora_info(path).alphas) == {4.0: 2, 1.0: 1}
    found = small.load(made.out)
    assert [float(found[f"{n}.weight"][0, 0]) for n in "abc"] == [4.0, 1.0, 4.0]
    params = json.loads(made.recipe)["node"]["params"]
    assert params["alphas"] == [4.0]
    assert params["module_alphas"] == "1 base_model.model.b=1.0"


def test_a_folder_of_peft_stands_for_its_adapter(adapter, tmp_path):
    path = adapter(["base_model.model.a"], {"lora_alpha": 2})
    base = small.save(tmp_path / "base.safetensors", {"a.weight": np.zeros((8, 8), "f4")})

    made = lora_bake(base, [(tmp_path, 1.0)], tmp_path / "o.safetensors")
    both = lora_combine([(tmp_path, 1.0), (path, 1.0)], tmp_path / "both.safetensors")

    assert float(small.load(made.out)["a.weight"][0, 0]) == 2.0
    assert dict(lora_info(tmp_path).alphas) == {2.0: 1}
    assert both.ranks == {8: 1}


def test_a_folder_of_several_adapters_or_none_is_not_guessed_from(tmp_path):
    tensors = {f"base_model.model.a.{end}": a for end, a in PAIR.items()}
    with pytest.raises(MismatchError, match=r"no adapter_model\.safetensors"):
        lora_info(tmp_path)
    for part in ("text_encoder", "unet"):
        (tmp_path / part).mkdir()
        small.save(tmp_path / part / "adapter_model.safetensors", tensors)

    with pytest.raises(MismatchError, match="holds 2 adapters"):
        lora_info(tmp_path)
