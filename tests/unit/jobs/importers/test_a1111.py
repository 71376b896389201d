"""Merges as A1111 and supermerger write them down."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures import small
from memcard.errors import CorruptError, IntegrityError, MemcardError, UnsupportedError
from memcard.jobs.bake import bake
from memcard.jobs.importers.a1111 import read
from memcard.recipes.nodes import Apply, Source

UNET = "model.diffusion_model."
BLOCKS = {
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": "BASE",
    f"{UNET}time_embed.0.weight": "IN00",
    **{f"{UNET}input_blocks.{i}.0.weight": f"IN{i:02}" for i in range(12)},
    f"{UNET}middle_block.1.weight": "M00",
    **{f"{UNET}output_blocks.{i}.0.weight": f"OUT{i:02}" for i in range(12)},
    f"{UNET}out.2.weight": "OUT11",
}
SHA = {letter: letter * 64 for letter in "abc"}


def names(source: Source) -> list[str]:
    return list(BLOCKS)


def webui(**more: Any) -> dict[str, str]:
    recipe = {
        "type": "webui",
        "primary_model_hash": SHA["a"],
        "secondary_model_hash": SHA["b"],
        "tertiary_model_hash": SHA["c"],
        "interp_method": "Weighted sum",
        "multiplier": 0.3,
        "save_as_half": False,
        "bake_in_vae": "None",
        "discard_weights": "",
        **more,
    }
    models = {SHA["a"]: {"name": "sd15/photo.safetensors", "legacy_hash": "12345678"}}
    return {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}


def supermerger(**more: Any) -> dict[str, str]:
    recipe = {
        "type": "sd-webui-supermerger",
        **{f"model_{letter}": digest for letter, digest in SHA.items()},
        "base_alpha": 0.25,
        "base_beta": 0.5,
        "mode": "Weight sum",
        "mbw": False,
        "elemental_merge": "",
        "calcmode": "normal",
        **more,
    }
    return {"sd_merge_recipe": json.dumps(recipe)}


def weights(metadata: dict[str, str]) -> Any:
    node = read(metadata, names).node
    assert isinstance(node, Apply)
    return node.params["weights"]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (webui(), (0.7, 0.3)),
        (webui(interp_method="Add difference"), (1.0, 0.3, -0.3)),
        (supermerger(), (0.75, 0.25)),
        (supermerger(mode="Add difference:A+(B-C)*alpha"), (1.0, 0.25, -0.25)),
        (supermerger(mode="Triple sum"), (0.25, 0.25, 0.5)),
        (supermerger(mode="sum Twice"), (0.375, 0.125, 0.5)),
    ],
)
def test_the_formulas_become_weights(metadata: dict[str, str], expected: tuple[float, ...]) -> None:
    assert weights(metadata) == expected


def test_the_digest_names_the_file_and_the_name_is_a_hint() -> None:
    node = read(webui(), names).node

    assert isinstance(node, Apply)
    assert node.inputs == (
        Source("sd15/photo.safetensors", SHA["a"]),
        Source(f"{SHA['b']}.safetensors", SHA["b"]),
    )


def test_half_precision_and_no_interpolation() -> None:
    node = read(webui(interp_method="No interpolation", save_as_half=True), names).node

    assert isinstance(node, Apply)
    assert (node.params["weights"], node.params["dtype"]) == ((1.0,), "F16")


@pytest.mark.parametrize("with_base", [False, True])
def test_weights_by_block_reach_their_blocks(with_base: bool) -> None:
    numbers = [f"{i / 100}" for i in range(1, 26)]
    text = ",".join(["0.25", *numbers] if with_base else numbers)

    node = read(supermerger(mbw=True, weights_alpha=text), names).node

    order = list(dict.fromkeys(BLOCKS.values()))
    assert isinstance(node, Apply)
    for name, block in BLOCKS.items():
        alpha = 0.25 if block == "BASE" else order.index(block) / 100
        assert found_weights(node, name) == pytest.approx((1 - alpha, alpha), abs=1e-15)


def found_weights(node: Apply, name: str) -> Any:
    rules: Any = node.params["rules"]
    fits = (r["set"] for r in rules if name in r["names"] or name.startswith(r["prefixes"]))
    settings: Any = node.params["settings"]
    return next(fits, settings)["weights"]


@pytest.mark.parametrize(
    ("metadata", "kind", "reason"),
    [
        (webui(bake_in_vae="x.vae.pt", is_inpainting=True), UnsupportedError, "bake_in_vae.*is_inpainting"),
        (webui(interp_method="Cosine"), UnsupportedError, "Cosine"),
        (webui(primary_model_hash=None), CorruptError, "primary_model_hash"),
        (webui(multiplier="x"), CorruptError, "multiplier"),
        (webui(type="other"), UnsupportedError, "other"),
        (supermerger(calcmode="cosineA"), UnsupportedError, "cosineA"),
        (supermerger(elemental_merge="IN00:attn:0.5"), UnsupportedError, "element"),
        (supermerger(mbw=True, weights_alpha="0,1"), CorruptError, "3 weights"),
        ({"sd_merge_recipe": "{"}, CorruptError, "should be JSON"),
        ({"sd_merge_recipe": "[]"}, CorruptError, "not a JSON object"),
    ],
)  # fmt: skip
def test_what_was_done_beside_is_refused_by_name(
    metadata: dict[str, str], kind: type[MemcardError], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        read(metadata, names)


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """A file that only carries what A1111 writes; its parents lie beside it."""
    digests = {}
    for seed, name in enumerate(("photo", "paint"), 1):
        path = small.save(tmp_path / f"{name}.safetensors", small.weights(seed))
        digests[name] = sha256(path.read_bytes()).hexdigest()
    recipe = json.loads(webui()["sd_merge_recipe"])
    recipe |= {"primary_model_hash": digests["photo"], "secondary_model_hash": digests["paint"]}
    models = {digest: {"name": f"models/{name}.safetensors"} for name, digest in digests.items()}
    metadata = {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}
    return small.save(tmp_path / "old.safetensors", small.weights(3), metadata)


def test_a_merge_of_a1111_is_made_again_from_its_metadata(merged: Path, tmp_path: Path) -> None:
    made = small.load(bake(merged, tmp_path / "out.safetensors").out)

    a, b = (small.weights(seed)["a.weight"].astype("f8") for seed in (1, 2))
    assert np.array_equal(made["a.weight"], (0.7 * a + 0.3 * b).astype("f2"))


def test_a_parent_that_is_another_file_is_refused(merged: Path, tmp_path: Path) -> None:
    small.save(tmp_path / "paint.safetensors", small.weights(9))

    with pytest.raises(IntegrityError, match="paint"):
        bake(merged, tmp_path / "out.safetensors")


def test_the_blocks_of_sdxl_are_19() -> None:
    blocks = [f"input_blocks.{i}.0" for i in range(9)] + ["middle_block.1"]
    blocks += [f"output_blocks.{i}.0" for i in range(9)]
    tensors = [f"{UNET}{block}.weight" for block in blocks]
    text = ",".join(f"{i / 100}" for i in range(1, 20))

    node = read(supermerger(mbw=True, weights_alpha=text), lambda source: tensors).node

    assert isinstance(node, Apply)
    shares = [found_weights(node, name)[1] for name in tensors]
    assert shares == pytest.approx([i / 100 for i in range(1, 20)])
