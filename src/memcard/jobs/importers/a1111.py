"""Merges of A1111's web UI and of its extension supermerger, as they stand in a file's metadata.

``sd_merge_recipe`` says what was done, ``sd_merge_models`` what the files with these SHA-256 were called. A
name is only a hint: the digest decides.

    Weighted sum    A (1 - m) + B m
    Add difference  A + (B - C) m
    Triple sum      A (1 - alpha - beta) + B alpha + C beta
    sum Twice       (A (1 - alpha) + B alpha)(1 - beta) + C beta

Source: metadata of published merges; github.com/AUTOMATIC1111/stable-diffusion-webui 1.10 and
github.com/hako-mikan/sd-webui-supermerger, README.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

from memcard.errors import CorruptError, UnsupportedError, UsageError
from memcard.jobs._block_weights import block_labels, block_weights
from memcard.jobs._merge_rules import cover
from memcard.jobs.importers._mix import Imported, Mix, Names, by_name, exact, lerp
from memcard.recipes.nodes import Source

_Formula = Callable[[Sequence[Mix], Fraction, Fraction], Mix]
_WITH_BASE: Final = (20, 26)  # SDXL; SD 1 and 2
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

# By the first words of the mode: how many models it takes, and what it does with alpha and beta.
_MODES: Final[Mapping[str, tuple[int, _Formula]]] = {
    "no interpolation": (1, lambda m, a, b: m[0]),
    "weight sum": (2, lambda m, a, b: lerp(m[0], m[1], a)),
    "weighted sum": (2, lambda m, a, b: lerp(m[0], m[1], a)),
    "add difference": (3, lambda m, a, b: m[0].plus(m[1], a).plus(m[2], -a)),
    "triple sum": (3, lambda m, a, b: m[0].scaled(1 - a - b).plus(m[1], a).plus(m[2], b)),
    "sum twice": (3, lambda m, a, b: lerp(lerp(m[0], m[1], a), m[2], b)),
}


def read(metadata: Mapping[str, str], names: Names) -> Imported:
    """Return the recipe that the metadata of a merged file tell of.

    Args:
        metadata: with the keys ``sd_merge_recipe`` and, for the names, ``sd_merge_models``.
        names: gives the names of a model's tensors; asked only where weights differ between blocks.

    Raises:
        CorruptError: not what these programs write.
        UnsupportedError: something was done that this memcard does not do; says what.
    """
    recipe = _json(metadata, "sd_merge_recipe")
    models = _json(metadata, "sd_merge_models") if "sd_merge_models" in metadata else {}
    kind = str(recipe.get("type", ""))
    if kind == "webui":
        return _webui(recipe, models)
    if "supermerger" in kind:
        return _supermerger(recipe, models, names)
    raise UnsupportedError(
        f"sd_merge_recipe: written by {kind or 'an unnamed program'!r}; read are webui and "
        "sd-webui-supermerger."
    )


def _webui(recipe: Mapping[str, Any], models: Mapping[str, Any]) -> Imported:
    keys = ("primary_model_hash", "secondary_model_hash", "tertiary_model_hash")
    _refuse(recipe, {
        "bake_in_vae": "another VAE was put in; overlay it yourself",
        "discard_weights": "tensors were dropped by name",
        "is_inpainting": "a model with other input channels was mixed in",
        "is_instruct_pix2pix": "a model with other input channels was mixed in",
    })  # fmt: skip
    count, formula = _mode(recipe.get("interp_method"))
    mixes = [Mix.of(_source(recipe, key, models)) for key in keys[:count]]
    alpha = exact(recipe.get("multiplier", 0), "sd_merge_recipe: multiplier") if count > 1 else 0
    made = formula(mixes, Fraction(alpha), Fraction(0))
    return Imported(made.node("F16" if recipe.get("save_as_half") else "widest"))


def _supermerger(recipe: Mapping[str, Any], models: Mapping[str, Any], names: Names) -> Imported:
    calculation = str(recipe.get("calcmode") or "normal")
    if calculation != "normal":
        raise UnsupportedError(f"sd_merge_recipe: the calculation {calculation!r} is not read.")
    _refuse(recipe, {"elemental_merge": "weights by element are not read"})
    count, formula = _mode(recipe.get("mode"))
    inputs = tuple(_source(recipe, f"model_{x}", models) for x in "abc"[:count])
    alpha, beta = (
        exact(recipe.get(key) or 0, f"sd_merge_recipe: {key}")
        for key in ("base_alpha", "base_beta")
    )

    def settings(alpha: Fraction, beta: Fraction) -> dict[str, Any]:
        made = formula([Mix.of(source) for source in inputs], alpha, beta)
        weights = tuple(float(made.shares.get(source, Fraction(0))) for source in inputs)
        return {"weights": weights, "normalize": False}

    usual = settings(alpha, beta)
    if not recipe.get("mbw"):
        return Imported(by_name("weighted_average", inputs, usual, []))
    tensors = tuple(names(inputs[0]))
    alphas = _by_tensor(recipe.get("weights_alpha"), alpha, tensors)
    betas = _by_tensor(recipe.get("weights_beta"), beta, tensors)
    groups: dict[tuple[Fraction, Fraction], list[str]] = {}
    for name in tensors:
        groups.setdefault((alphas[name], betas[name]), []).append(name)
    groups.pop((alpha, beta), None)
    rules = [(_where(found, tensors), settings(*both)) for both, found in groups.items()]
    note = (
        "supermerger's releases differ about time_embed and the last layer; here they count to IN00 and "
        "to the last OUT block."
    )
    return Imported(by_name("weighted_average", inputs, usual, rules), (note,))


def _by_tensor(given: Any, base: Fraction, tensors: Sequence[str]) -> dict[str, Fraction]:
    """Read weights by block, with or without BASE in front."""
    if not given:
        return dict.fromkeys(tensors, base)
    words = str(given).split(",")
    whole = words if len(words) in _WITH_BASE else [str(float(base)), *words]
    try:
        found = block_weights(",".join(whole), block_labels(tensors))
    except UsageError as error:
        raise CorruptError(f"sd_merge_recipe: {given!r}: {error}") from None
    return {
        name: exact(found[name], "sd_merge_recipe") if name in found else base for name in tensors
    }


def _where(chosen: Sequence[str], tensors: Sequence[str]) -> dict[str, Sequence[str]]:
    prefixes, names = cover(chosen, tensors)
    return {"prefixes": tuple(prefixes), "names": tuple(names)}


def _mode(given: Any) -> tuple[int, _Formula]:
    name = str(given or "No interpolation").partition(":")[0].strip().lower()
    if name not in _MODES:
        raise UnsupportedError(
            f"sd_merge_recipe: the mode {given!r} is not read; read are: {', '.join(_MODES)}."
        )
    return _MODES[name]


def _source(recipe: Mapping[str, Any], key: str, models: Mapping[str, Any]) -> Source:
    digest = str(recipe.get(key) or "").lower()
    if not _SHA256.fullmatch(digest):
        raise CorruptError(f"sd_merge_recipe: {key} is {recipe.get(key)!r}, not a SHA-256.")
    entry = models.get(digest)
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return Source(str(name) if name else f"{digest}.safetensors", digest)


def _refuse(recipe: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    faults = [
        f"{key} is {recipe[key]!r}: {why}"
        for key, why in reasons.items()
        if recipe.get(key) not in (None, False, "", "None", "none")
    ]
    if faults:
        raise UnsupportedError(f"sd_merge_recipe: {'; '.join(faults)}.")


def _json(metadata: Mapping[str, str], key: str) -> Mapping[str, Any]:
    try:
        found = json.loads(metadata[key])
        if isinstance(found, str):  # some writers encode twice
            found = json.loads(found)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{key}: {error}. It should be JSON.") from None
    if not isinstance(found, Mapping):
        raise CorruptError(f"{key}: not a JSON object.")
    return found
