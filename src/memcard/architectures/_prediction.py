"""What a denoiser was trained to say: the noise, v, a flow's direction, or EDM's target.

Shapes never tell. Marker tensors do, then metadata, then the scheduler of a diffusers folder, then
the variant and family. Sources that disagree are all reported; the first in that order is believed.

Source: ComfyUI's markers ``v_pred``, ``ztsnr``, ``edm_*``; ModelSpec 1.0.1; kohya's ``ss_*`` entries;
diffusers' ``scheduler_config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from memcard.core.architecture import Evidence
from memcard.core.tensors import Specs

_WORDS: Final[Mapping[str, str]] = {
    "eps": "epsilon",
    "epsilon": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "vpred": "v_prediction",
    "v_pred": "v_prediction",
    "flow": "flow",
    "flow_prediction": "flow",
    "flow_matching": "flow",
    "rectified_flow": "flow",
    "edm": "edm",
    "edm_vpred": "edm",
    "sample": "sample",
}
_SCHEDULERS: Final = (
    "diffusers/scheduler/scheduler_config.json",
    "scheduler/scheduler_config.json",
)
_KEYS: Final = (
    "modelspec.prediction_type",
    "modelspec.predict_key",
    "prediction_type",
    "predict_key",
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was found."""

    kind: str | None
    evidence: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()  # what that makes of the model, beside the family's variants


def prediction(specs: Specs, metadata: Mapping[str, str], evidence: Evidence | None) -> Prediction:
    """Tell the prediction type with everything that speaks for it."""
    found = [*_markers(specs), *_metadata(metadata)]
    usual = evidence.prediction if evidence else None
    kind = found[0][0] if found else usual
    facts = [fact for _, fact in found]
    if not found and usual and evidence:
        model = f"{evidence.title}, {evidence.variant}" if evidence.variant else evidence.title
        facts.append(f"nothing in the file tells; {model} predicts {usual} as published")
    if len({said for said, _ in found}) > 1:
        facts.append(f"these disagree; {found[0][0]} comes from the strongest")
    zero = "ztsnr" in specs or _scheduler(metadata).get("rescale_betas_zero_snr") is True
    if zero or metadata.get("ss_zero_terminal_snr", "").lower() == "true":
        facts.append("zero terminal SNR: ztsnr marker or scheduler setting")
        zero = True
    told = kind if found and kind != usual else None
    variants = [_variant(told, specs)] if told and evidence and usual else []
    return Prediction(kind, tuple(facts), (*variants, *(["zero terminal SNR"] if zero else [])))


def _variant(told: str, specs: Specs) -> str:
    """Return what people call a model that predicts something else than its family."""
    if told == "edm":
        return "EDM as CosXL" if "edm_vpred.sigma_max" in specs else "EDM as Playground 2.5"
    return {"v_prediction": "v-prediction", "flow": "flow matching"}.get(told, told)


def _markers(specs: Specs) -> Iterator[tuple[str, str]]:
    if "edm_vpred.sigma_max" in specs:
        yield "edm", "tensor edm_vpred.sigma_max: EDM schedule with v-prediction"
    elif "edm_mean" in specs and "edm_std" in specs:
        yield "edm", "tensors edm_mean and edm_std: EDM, as Playground 2.5"
    if "v_pred" in specs:
        yield "v_prediction", "tensor v_pred marks v-prediction"


def _metadata(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key in _KEYS:
        if (word := _WORDS.get(metadata.get(key, "").lower())) is not None:
            yield word, f"metadata {key} says {metadata[key]!r}"
    if "768-v" in (text := metadata.get("modelspec.architecture", "")):
        yield "v_prediction", f"metadata modelspec.architecture says {text!r}"
    for key in ("ss_v_parameterization", "ss_v_pred"):
        if metadata.get(key, "").lower() in ("true", "1"):
            yield "v_prediction", f"metadata {key} is true"
    if metadata.get("ss_v_parameterization", "").lower() in ("false", "0"):
        yield "epsilon", "metadata ss_v_parameterization is false"
    config = _scheduler(metadata)
    name = str(config.get("_class_name", ""))
    if name.startswith("EDM"):
        yield "edm", f"the scheduler is {name}"
    elif name.startswith("Flow"):
        yield "flow", f"the scheduler is {name}"
    elif (word := _WORDS.get(str(config.get("prediction_type", "")))) is not None:
        yield word, f"the scheduler's config says {config['prediction_type']}"


def _scheduler(metadata: Mapping[str, str]) -> Mapping[str, object]:
    text = next((metadata[key] for key in _SCHEDULERS if key in metadata), "")
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
