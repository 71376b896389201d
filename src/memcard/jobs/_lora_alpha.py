"""The alpha of a LoRA whose tensors carry none."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path
from typing import Any

from memcard.errors import MismatchError, UnsupportedError
from memcard.jobs.resolve import locate, resolve


def stated_alpha(ref: str | Path) -> float | None:
    """Return the alpha that metadata states for all modules; None if it states none.

    PEFT keeps it in ``adapter_config.json`` beside the file, diffusers in the metadata. PEFT's
    rank-stabilised LoRA divides by the root of the rank; it is given as the alpha that does the same.

    Raises:
        MismatchError: several alphas are stated.
        UnsupportedError: alphas or ranks differ by patterns of names.
    """
    config = locate(ref).parent / "adapter_config.json"
    lora = resolve(ref)
    metadata = lora.metadata
    lora.close()
    texts = [metadata.get("lora_adapter_metadata", "")]
    if locate(ref).name.startswith("adapter_model") and config.is_file():
        texts.append(config.read_text("utf-8"))
    for text in texts:
        stated = {k.rpartition(".")[2]: v for k, v in json_object(text).items()}
        values = [v for k, v in json_object(text).items() if k.rpartition(".")[2] == "lora_alpha"]
        alphas = tuple(dict.fromkeys(float(v) for v in values if isinstance(v, (int, float))))
        if len(alphas) > 1:
            raise MismatchError(
                f"{ref}: states several alphas ({', '.join(map(str, alphas))}), one per "
                "component. Convert the file to kohya's form, which keeps alpha with each layer."
            )
        if alphas:
            return _stable(ref, alphas[0], stated)
    return None


def _stable(ref: str | Path, alpha: float, stated: dict[str, Any]) -> float:
    stable, rank = stated.get("use_rslora") is True, stated.get("r")
    ranks = bool(stated.get("rank_pattern"))
    if stated.get("alpha_pattern") or (stable and (ranks or not isinstance(rank, int))):
        raise UnsupportedError(
            f"{ref}: its configuration gives ranks or alphas by patterns of names, which are not "
            "read. Merge the adapter with PEFT, or convert it to kohya's form, which keeps alpha "
            "with each layer."
        )
    return alpha * sqrt(float(rank)) if stable and isinstance(rank, int) else alpha


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object; {} where there is none."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
