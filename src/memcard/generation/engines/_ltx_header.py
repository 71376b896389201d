"""What a file of LTX-Video says about itself, in its header or by its name.

The tensors of all releases from 0.9.5 on are alike. How they were trained to place frames in time and which
noise levels they walk stands in the ``config`` of the header, which Lightricks writes and many tools drop.

Source: Lightricks LTX-Video, ``schedulers/rf.py``, ``inference.py``, ``configs/*.yaml``; diffusers
``pipeline_ltx_condition.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

# Of every distilled release: eight levels of ``linear_quadratic``, in four digits.
DISTILLED: Final = (1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.4219)
OWN: Final = "ltx"  # what is kept under this name of the scheduler's config is read here alone
_TRAINED: Final = 1000  # time steps
_FIRST: Final = 0.99  # no list begins below: the first step sees nothing but noise
_LINEAR: Final = 0.025  # noise that the first half of the steps takes away


def read(metadata: Mapping[str, str], label: str) -> dict[str, dict[str, Any]]:
    """Return what a file says, by component, to be put into its config.

    A header is a stranger's text: what does not make sense is as good as not said.

    Args:
        metadata: of the file.
        label: its name; ``distilled`` in it counts where the header says nothing.
    """
    config = _mapping(_parsed(metadata.get("config", "")))
    own: dict[str, Any] = {}
    levels = _levels(config.get("allowed_inference_steps"))
    name = label.lower()
    if levels is None and "distilled" in name and "lora" not in name:
        levels = DISTILLED
    if levels is not None:
        own["levels"] = levels
        # Of the first distilled release its authors put fresh noise on after each step.
        own["fresh"] = "0.9.6" in name
    transformer = _mapping(config.get("transformer"))
    if isinstance(causal := transformer.get("causal_temporal_positioning"), bool):
        own["causal"] = causal
    return {"scheduler": {OWN: own, **_schedule(_mapping(config.get("scheduler")), own)}}


def _schedule(said: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return the scheduler's arguments as diffusers has them."""
    sampler, shifting = said.get("sampler", "Uniform"), said.get("shifting")
    if not said or sampler not in ("Uniform", "LinearQuadratic") or shifting not in (None, "SD3"):
        return {}
    own["quadratic"] = sampler == "LinearQuadratic"
    terminal = said.get("target_shift_terminal")
    bounded = isinstance(terminal, float) and 0 < terminal < 1 and shifting is not None
    return {
        "use_dynamic_shifting": shifting is not None,
        "shift_terminal": terminal if bounded else None,
    }


def _levels(said: Any) -> tuple[float, ...] | None:
    if not isinstance(said, list) or not 0 < len(said) <= _TRAINED:
        return None
    if not all(isinstance(level, (int, float)) and 0 < level <= 1 for level in said):
        return None
    levels = tuple(float(level) for level in said)
    falls = sorted(set(levels), reverse=True) == list(levels)
    return levels if falls and levels[0] >= _FIRST else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def causal(configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the first frame, which stands alone in the latents, counts as one frame in time.

    So it is from 0.9.5 on, which the autoencoder tells where the header does not.
    """
    said = configs["scheduler"].get(OWN, {}).get("causal")
    if said is not None:
        return bool(said)
    blocks = configs.get("vae", {}).get("down_block_types", ())
    return any("095" in str(block) for block in blocks)


def levels(configs: Mapping[str, Mapping[str, Any]], steps: int) -> Any:
    """Return the noise levels of a run before any shift, float64, descending from 1.

    Args:
        configs: of the pipeline.
        steps: how many; a distilled model has its own list, which counts for that many steps.
    """
    own = configs["scheduler"].get(OWN, {})
    listed: tuple[float, ...] | None = own.get("levels")
    if listed is None and not own.get("quadratic", causal(configs)):
        return np.linspace(1.0, 1 / steps, steps)
    # Through time steps of 1000 in float32, as diffusers' pipeline goes: the last bit differs.
    if listed is not None and len(listed) == steps:
        moments = np.array([level * _TRAINED for level in listed], dtype=np.float32)
    else:
        moments = np.array(linear_quadratic(steps), dtype=np.float32) * np.float32(_TRAINED)
    return (moments / np.float32(_TRAINED)).astype(np.float64)


def shifted(configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether larger clips get higher levels."""
    config = configs["scheduler"]
    own = config.get(OWN, {})
    if "levels" in own or ("quadratic" not in own and causal(configs)):
        return False
    return bool(config.get("use_dynamic_shifting"))


def linear_quadratic(steps: int) -> tuple[float, ...]:
    """Return levels that fall on a line by 0.025 in all, then on a parabola to 0.

    The parabola goes on with the slope of the line.

    Source: Genmo Mochi; the line and the parabola are those of ``schedulers/rf.py``.
    """
    if steps < 2:  # a line needs two
        return (1.0,)
    line = steps // 2
    left = line - _LINEAR * steps
    curved = steps - line
    square = left / (line * curved**2)
    slope = _LINEAR / line - 2 * left / curved**2
    rest = square * line**2
    taken = [i * _LINEAR / line for i in range(line)]
    taken += [square * i**2 + slope * i + rest for i in range(line, steps)]
    return tuple(1 - share for share in taken)
