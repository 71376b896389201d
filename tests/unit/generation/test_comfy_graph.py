"""Graphs of ComfyUI: what is clear is found, what is not is listed, and no graph costs much."""

import copy
import json
import time
from typing import Any

import pytest

from fixtures.foreign_images import COMFY, COMFY_FLUX
from memcard.generation import _comfy_nodes
from memcard.generation.comfy_graph import understand
from memcard.generation.image_info import ImageInfo, Used, UsedLora


def of(graph: dict[str, Any]) -> ImageInfo:
    return understand(json.dumps(graph))


def changed(graph: dict[str, Any] = COMFY, **nodes: Any) -> dict[str, Any]:
    """Return a graph with other nodes; ids stand behind an n."""
    found = copy.deepcopy(graph)
    for key, node in nodes.items():
        if node is None:
            del found[key[1:]]
        elif isinstance(node, tuple):
            kind, inputs = node
            found[key[1:]] = {"class_type": kind, "inputs": inputs}
        else:
            found[key[1:]]["inputs"].update(node)
    return found


def test_a_text_to_image_graph() -> None:
    info = of(COMFY)

    assert (info.tool, info.prompt, info.negative) == ("ComfyUI", "a galaxy bottle", "watermark")
    assert info.seed == 156680208700286
    assert info.settings == {
        "steps": 20,
        "cfg": 8.0,
        "clip_skip": 2,
        "width": 512,
        "height": 640,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
    }
    assert info.checkpoint == Used("sd15\\v1-5-pruned-emaonly.ckpt")
    assert info.checkpoint.stem == "v1-5-pruned-emaonly"
    assert info.vae == Used("vae-ft-mse.safetensors")
    assert info.loras == (UsedLora("film.safetensors", 0.8, 0.5),)
    assert info.notes == ()


def test_a_graph_of_parts_as_flux_has_it() -> None:
    info = of(COMFY_FLUX)

    assert (info.prompt, info.negative, info.seed) == ("a fox", "", 7)
    assert info.checkpoint == Used("flux1-dev.safetensors")
    assert info.vae == Used("ae.safetensors")
    assert info.settings == {
        "steps": 22,
        "cfg": 1.0,
        "guidance": 3.5,
        "width": 1024,
        "height": 768,
        "sampler": "euler",
        "schedule": "simple",
    }
    assert info.notes == ()


def test_a_guider_with_cfg_says_both_prompts() -> None:
    guider = {"model": ["30", 0], "positive": ["26", 0], "negative": ["40", 0], "cfg": 4.0}
    empty = {"text": "fog", "clip": ["11", 0]}

    info = of(changed(COMFY_FLUX, n22=("CFGGuider", guider), n40=("CLIPTextEncode", empty)))

    assert (info.prompt, info.negative, info.settings["cfg"]) == ("a fox", "fog", 4.0)


def test_the_advanced_sampler_has_its_own_name_for_the_seed() -> None:
    graph = changed(n3={"noise_seed": 5, "add_noise": "enable", "start_at_step": 0})
    del graph["3"]["inputs"]["seed"]

    assert of(graph).seed == 5


def test_values_that_come_over_links_are_followed() -> None:
    seed, text = ("Seed (rgthree)", {"seed": 99}), ("PrimitiveString", {"value": "a linked cat"})

    info = of(changed(n3={"seed": ["40", 0]}, n6={"text": ["41", 0]}, n40=seed, n41=text))

    assert (info.seed, info.prompt) == (99, "a linked cat")


def test_texts_that_are_put_together_are_put_together() -> None:
    joint = ("StringConcatenate", {"string_a": ["41", 0], "string_b": "b", "delimiter": ", "})

    info = of(changed(n6={"text": ["40", 0]}, n40=joint, n41=("Text", {"text": "a"})))

    assert info.prompt == "a, b"


def test_an_unknown_node_with_one_way_through_it_is_passed() -> None:
    strange = ("Strange", {"anything": ["6", 0], "level": 3})

    info = of(changed(n3={"positive": ["40", 0]}, n40=strange))

    assert (info.prompt, info.notes) == ("a galaxy bottle", ())


def test_an_unknown_node_with_two_ways_is_listed_and_not_guessed() -> None:
    strange = ("Strange", {"one": ["6", 0], "two": ["7", 0]})

    info = of(changed(n3={"positive": ["40", 0]}, n40=strange))

    assert info.prompt == ""
    assert info.negative == "watermark"
    assert "a galaxy bottle" in info.notes[0]
    assert "watermark" in info.notes[0]


def test_a_controlnet_keeps_positive_and_negative_apart() -> None:
    net = (
        "ControlNetApplyAdvanced",
        {"positive": ["6", 0], "negative": ["7", 0], "image": ["8", 0]},
    )

    info = of(changed(n3={"positive": ["40", 0], "negative": ["40", 1]}, n40=net))

    assert (info.prompt, info.negative) == ("a galaxy bottle", "watermark")


def test_a_zeroed_negative_is_none() -> None:
    info = of(
        changed(n3={"negative": ["40", 0]}, n40=("ConditioningZeroOut", {"conditioning": ["6", 0]}))
    )

    assert (info.prompt, info.negative, info.notes) == ("a galaxy bottle", "", ())


def test_two_encoders_with_one_text_have_one_prompt() -> None:
    both = {
        "text_g": "a hill",
        "text_l": "a hill",
        "width": 1024,
        "height": 1024,
        "clip": ["11", 0],
    }

    assert of(changed(n6=("CLIPTextEncodeSDXL", both))).prompt == "a hill"


def test_a_merge_in_the_graph_lists_its_models() -> None:
    other = ("CheckpointLoaderSimple", {"ckpt_name": "other.safetensors"})
    merge = ("ModelMergeSimple", {"model1": ["4", 0], "model2": ["40", 0], "ratio": 0.5})

    info = of(changed(n10={"model": ["41", 0]}, n40=other, n41=merge))

    assert info.checkpoint is None
    assert "other.safetensors" in info.notes[0]
    assert "v1-5-pruned-emaonly" in info.notes[0]


def test_loras_stand_in_the_order_in_which_they_are_laid_on() -> None:
    power = {
        "model": ["10", 0],
        "clip": ["10", 1],
        "lora_1": {"on": True, "lora": "a.safetensors", "strength": 0.5},
        "lora_2": {"on": False, "lora": "off.safetensors", "strength": 1},
        "lora_3": {"on": True, "lora": "b.safetensors", "strength": 1, "strengthTwo": 0.25},
    }

    info = of(changed(n3={"model": ["40", 0]}, n40=("Power Lora Loader (rgthree)", power)))

    assert info.loras == (
        UsedLora("film.safetensors", 0.8, 0.5),
        UsedLora("a.safetensors", 0.5),
        UsedLora("b.safetensors", 1.0, 0.25),
    )


def test_a_loader_with_everything_in_it() -> None:
    loader = {
        "ckpt_name": "all.safetensors",
        "vae_name": "Baked VAE",
        "clip_skip": -2,
        "lora_name": "None",
        "positive": "a pond",
        "negative": "mud",
        "lora_stack": ["41", 0],
        "empty_latent_width": 512,
        "empty_latent_height": 512,
    }
    stack = {
        "switch_1": "On",
        "lora_name_1": "a.safetensors",
        "model_weight_1": 0.7,
        "clip_weight_1": 0.7,
        "switch_2": "Off",
        "lora_name_2": "b.safetensors",
    }
    sampler = {"model": ["40", 0], "positive": ["40", 1], "negative": ["40", 2]}

    info = of(changed(n3=sampler, n40=("Efficient Loader", loader), n41=("CR LoRA Stack", stack)))

    assert (info.prompt, info.negative) == ("a pond", "mud")
    assert info.checkpoint == Used("all.safetensors")
    assert info.loras == (UsedLora("a.safetensors", 0.7),)
    assert info.settings["clip_skip"] == 2


def test_a_second_pass_is_told_and_the_first_one_counts() -> None:
    second = {
        **COMFY["3"]["inputs"],
        "seed": 1,
        "steps": 12,
        "denoise": 0.5,
        "latent_image": ["41", 0],
    }
    upscale = ("LatentUpscaleBy", {"samples": ["3", 0], "scale_by": 1.5})

    info = of(changed(n40=("KSampler", second), n41=upscale, n8={"samples": ["40", 0]}))

    assert info.seed == 156680208700286
    assert info.settings["steps"] == 20
    assert info.settings["hires_scale"] == 1.5
    assert (info.settings["hires_steps"], info.settings["denoise"]) == (12, 0.5)
    assert "node 40" in info.notes[0]


def test_two_samplers_side_by_side_keep_what_they_share() -> None:
    other = {**COMFY["3"]["inputs"], "seed": 1, "positive": ["42", 0]}
    save = ("SaveImage", {"images": ["41", 0]})
    decode = ("VAEDecode", {"samples": ["40", 0], "vae": ["12", 0]})
    text = ("CLIPTextEncode", {"text": "a second cat", "clip": ["11", 0]})

    info = of(changed(n40=("KSampler", other), n41=decode, n42=text, n43=save))

    assert info.settings["steps"] == 20
    assert (info.seed, info.prompt) == (None, "")
    assert any("differ in seed" in note for note in info.notes)
    assert any("a second cat" in note for note in info.notes)


def test_a_picture_to_begin_from_is_told() -> None:
    encode = ("VAEEncode", {"pixels": ["41", 0], "vae": ["12", 0]})

    info = of(
        changed(
            n3={"denoise": 0.6, "latent_image": ["40", 0]},
            n40=encode,
            n41=("LoadImage", {"image": "x.png"}),
        )
    )

    assert info.settings["denoise"] == 0.6
    assert "width" not in info.settings
    assert "begins from a picture" in info.notes[0]


def test_v_prediction_and_rescale_on_the_models_way() -> None:
    v = ("ModelSamplingDiscrete", {"model": ["10", 0], "sampling": "v_prediction", "zsnr": True})
    rescale = ("RescaleCFG", {"model": ["40", 0], "multiplier": 0.7})

    info = of(changed(n3={"model": ["41", 0]}, n40=v, n41=rescale))

    assert info.settings["prediction_type"] == "v_prediction"
    assert info.settings["cfg_rescale"] == 0.7


def test_only_what_leads_to_a_saved_picture_counts() -> None:
    unused = {**COMFY["3"]["inputs"], "seed": 1}

    assert of(changed(n40=("KSampler", unused))).seed == 156680208700286


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "{", "[" * 100_000, '{"3": 5}', '{"3": {"class_type": "KSampler"}}', "null"],
)
def test_nonsense_is_a_note(text: str) -> None:
    info = understand(text)

    assert (info.tool, info.settings) == ("ComfyUI", {})
    assert len(info.notes) == 1


def test_circles_end() -> None:
    graph = changed(
        n10={"model": ["10", 0], "clip": ["10", 1]},
        n6={"text": ["6", 0]},
        n5=("Loop", {"samples": ["5", 0]}),
        n12=("Loop", {"vae": ["12", 0]}),
        n3={"seed": ["40", 0], "latent_image": ["8", 0]},
        n40=("Value", {"value": ["40", 0]}),
    )

    info = of(graph)

    assert info.checkpoint is None
    assert info.negative == "watermark"


def test_a_graph_that_is_too_large_is_refused() -> None:
    many = {str(i): {"class_type": "A", "inputs": {}} for i in range(_comfy_nodes.NODES + 1)}
    thick = {"0": {"class_type": "A", "inputs": {str(i): ["0", 0] for i in range(60_000)}}}

    assert "nodes; 10000 are read at most" in of(many).notes[0]
    assert "links; 50000 are read at most" in of(thick).notes[0]


def test_a_hostile_graph_of_lawful_size_is_quick() -> None:
    graph = copy.deepcopy(COMFY)
    ways = {f"w{i}": [str(100 + i), 0] for i in range(60)}
    graph |= {str(100 + i): {"class_type": "Every", "inputs": ways} for i in range(60)}
    for i in range(15):
        inputs = {**COMFY["3"]["inputs"], "positive": ["100", 0], "model": ["101", 0], "seed": i}
        graph[str(300 + i)] = {"class_type": "KSampler", "inputs": inputs}
        decode = {"samples": [str(300 + i), 0], "vae": ["102", 0]}
        graph[str(400 + i)] = {"class_type": "VAEDecode", "inputs": decode}
        graph[str(500 + i)] = {"class_type": "SaveImage", "inputs": {"images": [str(400 + i), 0]}}

    before = time.process_time()
    info = of(graph)

    assert time.process_time() - before < 2
    assert info.notes
