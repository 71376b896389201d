"""What a file says of continuous noise levels: in tensors of its own, or in a folder's scheduler.

Source: diffusers ``single_file_utils.py`` (``edm_mean``, ``edm_std``); ComfyUI's markers ``edm_vpred.*``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from memcard.core.checkpoint import Checkpoint
from memcard.errors import CorruptError
from memcard.generation.edm import MEAN, SCALE, STD
from memcard.maths.torch_bridge import Bridge

_SCHEDULER: Final = "diffusers/scheduler/scheduler_config.json"
_VAE: Final = "diffusers/vae/config.json"
_NUMBERS: Final = ("sigma_min", "sigma_max", "sigma_data", "rho", "num_train_timesteps")
_HIGH, _LOW = "edm_vpred.sigma_max", "edm_vpred.sigma_min"
_SCALING: Final = 0.5  # of Playground's latents
_MOST: Final = 1024  # values of a tensor that tells a few numbers


def marked(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint says that it is such a model; of names and metadata alone."""
    if _HIGH in checkpoint.specs or {"edm_mean", "edm_std"} <= checkpoint.specs.keys():
        return True
    kind = str(_read(checkpoint.metadata.get(_SCHEDULER, "")).get("_class_name", ""))
    return kind.startswith("EDM")


def schedule(checkpoint: Checkpoint, label: str) -> tuple[str, dict[str, Any]]:
    """Return what such a model says, and what its scheduler and its latents are told.

    Args:
        checkpoint: known to be one.
        label: what to call it in errors.

    Raises:
        CorruptError: its noise levels are no numbers, or not in order.
    """
    specs = checkpoint.specs
    told: dict[str, Any]
    if _HIGH in specs:
        low = _level(checkpoint, _LOW, label) if _LOW in specs else 0.002
        found = {"sigma_min": low, "sigma_max": _level(checkpoint, _HIGH, label)}
        kind, told = "edm_v_prediction", {**found, "sigma_data": 1.0}
    elif "edm_mean" in specs and "edm_std" in specs:
        own = {
            MEAN: _values(checkpoint, "edm_mean", label),
            STD: _values(checkpoint, "edm_std", label),
        }
        levels = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
        kind, told = "edm", {**levels, **own, SCALE: _SCALING}
    else:
        kind, told = _folder(checkpoint.metadata)
    low, high = told.get("sigma_min", 0.002), told.get("sigma_max", 80.0)
    if not 0 < low < high:
        raise CorruptError(
            f"{label}: its noise levels go from {low:g} to {high:g}; they must be above 0 and rise. The file "
            "is damaged."
        )
    return kind, told


def _folder(metadata: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    config, vae = (_read(metadata.get(name, "")) for name in (_SCHEDULER, _VAE))
    kind = "edm_v_prediction" if config.get("prediction_type") == "v_prediction" else "edm"
    told = {k: config[k] for k in _NUMBERS if _is_number(config.get(k))}
    if vae.get(MEAN) and vae.get(STD):
        told |= {MEAN: vae[MEAN], STD: vae[STD], SCALE: vae.get("scaling_factor", _SCALING)}
    return kind, told


def _read(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _level(checkpoint: Checkpoint, name: str, label: str) -> float:
    """Read a noise level as the decimal it was before float32: 0.002, not 0.00200000009."""
    return float(f"{_values(checkpoint, name, label)[0]:.7g}")


def _values(checkpoint: Checkpoint, name: str, label: str) -> list[float]:
    """Read the few numbers of a tensor."""
    spec = checkpoint.specs[name]
    found: list[float] = []
    if 0 < spec.elements <= _MOST:
        found = Bridge(checkpoint).tensor(name).float().flatten().tolist()
    if not found or not all(math.isfinite(value) for value in found):
        raise CorruptError(
            f"{label}: {name!r} ({spec}) should hold a few numbers and does not. The file is damaged."
        )
    return found
