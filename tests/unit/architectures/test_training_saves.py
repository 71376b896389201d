"""Saves of trainings are told by their metadata, with their sections as parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures.sd15 import FULL, unet_shapes
from memcard.architectures import components, identify
from memcard.core.tensors import DTYPES, Spec
from memcard.formats import open_file

GOLDEN = Path(__file__).parents[2] / "golden" / "training_v1" / "step-000000003.safetensors"
CARD = {"memcard.card": '{"kind":"training"}'}
SPEC = Spec(DTYPES["F32"], (4,))


def test_a_save_of_ours_says_what_it_is_and_what_it_holds() -> None:
    opened = open_file(GOLDEN)
    found = identify(opened.specs, opened.metadata)
    parts = components(opened.specs, opened.metadata)
    opened.close()

    assert found.kind == "training"
    assert {"model", "optimizer", "random"} <= set(found.components)
    assert "rest" not in found.components
    assert set(parts.values()) == set(found.components)
    assert "after step 3" in found.evidence[0]


def test_sections_are_told_by_the_first_level_of_a_name() -> None:
    names = ("model.a", "optimizer.a.exp_avg", "ema.slow.a", "random.0.1.torch", "modelled.a", "a")
    found = identify(dict.fromkeys(names, SPEC), CARD)

    assert list(found.components) == ["model", "optimizer", "ema", "random", "other"]
    assert found.components["other"].parameters == 8
    assert found.ema


def test_the_same_names_without_the_metadata_are_no_save() -> None:
    assert identify({"model.a": SPEC, "random.0.torch": SPEC}, {}).kind == "unknown"


@pytest.mark.parametrize("text", ["{", "[]", "null", "1", "[" * 100_000, '{"step": "x"}'])
def test_facts_that_cannot_be_read_do_not_hide_what_it_is(text: str) -> None:
    assert identify({"model.a": SPEC}, {"memcard.training": text}).kind == "training"
    assert identify({"model.a": SPEC}, {"memcard.card": text}).kind == "unknown"


def test_a_model_inside_is_named_where_it_has_the_names_of_a_family() -> None:
    facts = {"memcard.training": json.dumps({"step": 7, "name": "neon"})}
    unet = {f"model.diffusion_model.{n}": s for n, s in unet_shapes(FULL).items()}
    found = identify({n: Spec(DTYPES["F16"], s) for n, s in unet.items()}, facts)

    assert (found.kind, found.architecture) == ("training", "sd1")
    assert list(found.components) == ["model"]
    assert "after step 7 of neon" in found.evidence[0]
