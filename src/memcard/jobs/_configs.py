"""What a file says about itself, after parts of it went or its dtype changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

FOLDER = "diffusers/"  # metadata that is a file of a diffusers folder
_INDEX = f"{FOLDER}model_index.json"
# What transformers calls a dtype in a model's config, under its old key and its new one.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
           "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}  # fmt: skip
_KEYS = ("torch_dtype", "dtype")


def still_true(
    metadata: Mapping[str, str], gone: Collection[str], dtype: str | None
) -> dict[str, str]:
    """Return metadata without what is true of the old tensors only.

    Args:
        metadata: of the source; configs of a diffusers folder among it.
        gone: components that are not in the result any more.
        dtype: what floating-point tensors were cast to; None if they were not.
    """
    kept = {}
    for key, text in metadata.items():
        if "hash" in key or key.startswith("memcard.recipe"):
            continue
        folder = key.removeprefix(FOLDER).partition("/")[0] if key.startswith(FOLDER) else ""
        if folder in gone:
            continue
        kept[key] = text
        if key == _INDEX:
            kept[key] = _without(text, gone)
        elif dtype is not None and folder and key.endswith("/config.json"):
            kept[key] = _of_dtype(text, dtype)
    return kept


def _without(text: str, gone: Collection[str]) -> str:
    """Say in model_index.json that parts are not there, in diffusers' way."""
    index = _read(text)
    there = [name for name in gone if isinstance(index.get(name), list)]
    if not there:
        return text
    return json.dumps({**index, **{name: [None, None] for name in there}}, indent=2) + "\n"


def _of_dtype(text: str, dtype: str) -> str:
    config = _read(text)
    stale = [key for key in _KEYS if isinstance(config.get(key), str)]
    if not stale:
        return text
    return json.dumps({**config, **dict.fromkeys(stale, _DTYPES[dtype])}, indent=2) + "\n"


def _read(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
