"""One value of a mergekit configuration for one tensor: filters by name, gradients over the depth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from memcard.errors import CorruptError
from memcard.jobs._blocks import Place, order, places
from memcard.jobs.importers._mix import exact

# Layers that take the input in; language models keep them and the last norm in one block.
_ENTRY: Final = re.compile(r"embed|patch|(^|\.)(conv|img|txt|x|time|vector|guidance)_in\b")


def pick(settings: Mapping[str, Any], key: str, tensor: str, depth: float) -> Any:
    """Return the value for one tensor: of the first filter that fits, between the values of a gradient."""
    if key not in settings:
        return None
    value = settings[key]
    if isinstance(value, Mapping):
        value = [value]
    while isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = _filtered(value, key, tensor)
    if isinstance(value, list):
        return _between([_number(item, key) for item in value], depth) if value else None
    return value if isinstance(value, bool) or value is None else _number(value, key)


def _filtered(conditions: list[Any], key: str, tensor: str) -> Any:
    for item in conditions:
        if not isinstance(item, Mapping) or "value" not in item:
            raise CorruptError(f'recipe: {key}: a list of filters holds objects with "value".')
        text = item.get("filter")
        if text is None or text == "*" or str(text) in tensor:
            return item["value"]
    return None


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CorruptError(f"recipe: {key}: {value!r} is not a number.")
    exact(value, f"recipe: {key}")
    return value


def _between(values: Sequence[float], depth: float) -> float:
    """Interpolate over the depth, 0..1."""
    place = depth * (len(values) - 1)
    low = int(place)
    high, part = min(low + 1, len(values) - 1), place - low
    return (1 - part) * values[low] + part * values[high]


def depths_of(tensors: Sequence[str]) -> dict[str, float]:
    """Return how deep in its component each tensor lies, 0..1."""
    seats = {name: Place(p.component, p.block, "") for name, p in places(tensors).items()}
    depth: dict[Place, float] = {}
    for component in dict.fromkeys(place.component for place in seats.values()):
        blocks = sorted({p for p in seats.values() if p.component == component}, key=order)
        stacked = [block for block in blocks if _is_stacked(block)]
        for block in blocks:
            before = sum(order(other) < order(block) for other in stacked)
            steps = max(len(stacked) - 1, 1)
            depth[block] = min(before, steps) / steps
    return {
        name: 0.0 if not _is_stacked(place) and _ENTRY.search(name) else depth[place]
        for name, place in seats.items()
    }


def _is_stacked(block: Place) -> bool:
    """Tell whether a block is one of a row: numbered, or the middle of a UNet."""
    return block.block.rpartition(".")[2].isdigit() or block.block.startswith("mid")
