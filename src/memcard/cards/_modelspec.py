"""The fields of ModelSpec, as they stand in a file's header and in SwarmUI's sidecars.

Source: ModelSpec 1.0.1, https://github.com/Stability-AI/ModelSpec. It has no key for CFG, steps, sampler,
scheduler and VAE; memcard writes those as ``memcard.card``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from memcard.cards._take import Taker
from memcard.core.card import Card

PREFIX: Final = "modelspec."
_TEXTS: Final = ("title", "description", "author", "date", "license")
_FALSE: Final = frozenset({"false", "no", "0"})
# ModelSpec's minimum for a model of which nothing else is known
_REQUIRED: Final = {"sai_model_spec": "1.0.1"}


def take(taker: Taker, where: str) -> None:
    """Move what is ModelSpec from ``taker`` to the card; keys have lost their prefix.

    Args:
        taker: holds the entries.
        where: name of the file that has them, for a picture inside.
    """
    for name in _TEXTS:
        taker.take(name, name)
    taker.take("purpose", "usage_hint")
    taker.words("tags", "tags")
    taker.words("merged_from", "merged_from")
    taker.words("trigger_words", "trigger_phrase")
    taker.take("settings.size", "resolution")
    taker.take(
        "settings.prediction_type", "prediction_type", "predict_key"
    )  # ComfyUI writes the latter
    taker.number("settings.clip_skip", "encoder_layer")
    taker.take("hashes.tensors_sha256", "hash_sha256")
    for key in ("thumbnail", "preview_image"):
        picture = taker.left.get(key)
        if isinstance(picture, str) and picture.startswith("data:image/"):
            taker.put_good("previews", [f"{where}#{PREFIX}{key}"])
            taker.drop(key)
    taker.drop("sai_model_spec")
    if str(taker.left.get("is_negative_embedding", "false")).lower() in _FALSE:
        taker.drop("is_negative_embedding")


def entries(card: Card) -> dict[str, str]:
    """Return a card as ModelSpec entries, with their prefix; what it has no key for is left out.

    ``architecture`` and ``implementation``, which ModelSpec asks for, are in the card only if it was read
    from ModelSpec; nothing is made up.
    """
    found: dict[str, str] = dict(_REQUIRED)
    for dialect in ("swarm", "modelspec"):
        said = card.extra.get(dialect, {})
        found |= {key: value for key, value in said.items() if isinstance(value, str)}
    for name in _TEXTS:
        if value := getattr(card, name):
            found[name] = value
    named: Mapping[str, Any] = {
        "usage_hint": card.purpose,
        "tags": ", ".join(card.tags),
        "merged_from": ", ".join(card.merged_from),
        "trigger_phrase": ", ".join(card.trigger_words),
        "resolution": card.settings.get("size"),
        "encoder_layer": card.settings.get("clip_skip"),
    }
    found |= {key: str(value) for key, value in named.items() if value}
    if kind := card.settings.get("prediction_type"):
        found["prediction_type"] = "v" if kind == "v_prediction" else "epsilon"
    if digest := card.hashes.get("tensors_sha256"):
        found["hash_sha256"] = f"0x{digest}"
    return {f"{PREFIX}{key}": value for key, value in sorted(found.items())}
