"""Settings of one run: what the user says, else what the checkpoint's card says, else its family.

Where each value came from is remembered, so that it can be shown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias, cast

from memcard.core.architecture import Architecture
from memcard.errors import NotFoundError, UsageError
from memcard.generation.latents import SEEDS
from memcard.generation.samplers import SAMPLERS, find
from memcard.generation.schedule import find as schedule_named

Origin: TypeAlias = Literal["user", "card", "family"]

_CARD_NAMES: Final = {"cfg_scale": "cfg", "scheduler": "schedule", "negative_prompt": "negative"}
# A card may ask for no more than this: a user who wants more says so himself.
_MOST: Final = {"steps": 1000, "width": 4096, "height": 4096}
_MOST_CFG: Final = 1000.0
_MOST_SKIP: Final = 12
_PREDICTIONS: Final = {
    "epsilon": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "flow": "flow",
    "edm": "edm",
    "edm_v_prediction": "edm_v_prediction",
}
# What families seldom say; those that do keep it in ``defaults.extra["settings"]``.
_USUAL: Final[Mapping[str, Any]] = {
    "schedule": "normal",
    "clip_skip": 1,
    "guidance": None,
    "cfg_rescale": 0.0,
    "cfg_low": 0.0,
    "cfg_high": 0.0,
    "threshold": 0.0,
    "frames": 1,
    "fps": 24,
    "edit": False,
    "image_cfg": None,
}
_MOST_FRAMES: Final = 4096


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything but prompt, checkpoint and seed.

    Attributes:
        sampler: a name in ``SAMPLERS``.
        schedule: spacing of the noise levels, a name in ``SCHEDULES``.
        steps: 1 or more.
        cfg: guidance scale; 1 or less is none.
        width: pixels, a multiple of 8.
        height: pixels, a multiple of 8.
        negative: what the picture should not be.
        prediction_type: what the denoiser was trained to say: ``epsilon``, ``v_prediction``, ``flow``, ``edm``,
            ``edm_v_prediction``.
        clip_skip: 1 for the layer of CLIP the family was trained with, n for n - 1 layers before it.
        guidance: distilled guidance (Flux dev): what the model is told; None where it takes none.
        cfg_rescale: 0..1, how far the contrast of the guided guess is pulled back to the unguided one.
        cfg_low: noise level (sigma) up to which there is no guidance; 0 is none.
        cfg_high: noise level (sigma) above which there is no guidance; 0 is none.
        threshold: 0..1, dynamic thresholding: share of the picture's values left as they are, 0 is off.
        frames: 1 for pictures; clips have more.
        fps: frames per second of a clip.
        edit: a picture that is given is what the prompt changes (Kontext), not where painting begins.
        image_cfg: how far a picture is followed by a model that follows instructions, 1 or more; None where
            the model takes none.
        origin: for each of these, ``user``, ``card`` or ``family``.
    """

    sampler: str
    schedule: str
    steps: int
    cfg: float
    width: int
    height: int
    negative: str
    prediction_type: str
    clip_skip: int = 1
    guidance: float | None = None
    cfg_rescale: float = 0.0
    cfg_low: float = 0.0
    cfg_high: float = 0.0
    threshold: float = 0.0
    frames: int = 1
    fps: int = 24
    edit: bool = False
    image_cfg: float | None = None
    origin: Mapping[str, Origin] = field(default_factory=dict, compare=False)


NAMES: Final = tuple(f.name for f in fields(Settings) if f.name != "origin")


def resolve(
    family: Architecture,
    metadata: Mapping[str, str],
    user: Mapping[str, Any],
    usual: Mapping[str, Any] | None = None,
    *,
    clip_skip: Callable[[int], int] = lambda n: n,
) -> Settings:
    """Choose each setting from the nearest place that says it.

    Args:
        family: of the checkpoint.
        metadata: of the checkpoint; read are ``memcard.card`` and ``modelspec.prediction_type``.
        user: by the names of ``Settings``; None means not said.
        usual: what this very model asks for where it differs from its family.
        clip_skip: gives ours for the number that a card has, which counts as other tools do.

    Raises:
        UsageError: a value is out of its range.
        NotFoundError: no sampler has this name.
    """
    defaults = {name: getattr(family.defaults, name) for name in NAMES if name not in _USUAL}
    values: dict[str, Any] = {**defaults, **_USUAL, **family.defaults.extra.get("settings", {})}
    values |= usual or {}
    origin: dict[str, Origin] = dict.fromkeys(NAMES, "family")
    card = from_card(metadata)
    if "clip_skip" in card:
        card["clip_skip"] = clip_skip(card["clip_skip"])
    sources: tuple[tuple[Origin, Mapping[str, Any]], ...] = (
        ("card", _possible(card, family.defaults.multiple)),
        ("user", user),
    )
    for place, said in sources:
        for name, value in _spelled(said).items():
            if name in values and value is not None:
                values[name], origin[name] = value, place
    known = SAMPLERS[values["sampler"]].known(values["prediction_type"])
    if known and values["schedule"] not in known and origin["schedule"] != "user":
        values["schedule"], origin["schedule"] = known[0], "family"  # nobody asked for it here
    _check(values, family.defaults.multiple)
    return Settings(**values, origin=origin)


def from_card(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read the settings a checkpoint recommends for itself; what cannot be read is left out."""
    said: dict[str, Any] = {}
    if (kind := metadata.get("modelspec.prediction_type", "")) in _PREDICTIONS:
        said["prediction_type"] = _PREDICTIONS[kind]
    try:
        card = json.loads(metadata.get("memcard.card", "{}"))
    except (ValueError, RecursionError):
        return said
    settings = card.get("settings") if isinstance(card, dict) else None
    for key, value in settings.items() if isinstance(settings, dict) else ():
        name = _CARD_NAMES.get(key, key)
        if name == "size" and isinstance(value, str):
            said |= _size(value)
        elif name in NAMES and _fits(name, value):
            said[name] = value
    return said


def _size(text: str) -> dict[str, int]:
    match = re.fullmatch(r"([1-9][0-9]{0,4})[xX]([1-9][0-9]{0,4})", text)
    sides = {"width": int(match[1]), "height": int(match[2])} if match else {}
    return sides if all(_fits(name, value) for name, value in sides.items()) else {}


def _possible(said: dict[str, Any], multiple: int) -> dict[str, Any]:
    """Leave out sides a family cannot paint; one alone would be half of what the card meant."""
    sides = {name: said[name] for name in ("width", "height") if name in said}
    odd = any(value % multiple for value in sides.values())
    return {name: value for name, value in said.items() if not (odd and name in sides)}


def _fits(name: str, value: Any) -> bool:
    """Whether a value from a card has the type of its setting; a card is a stranger's text."""
    if name in _MOST:
        return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST[name]
    if name == "edit":
        return isinstance(value, bool)
    if name in ("clip_skip", "frames", "fps"):
        most = _MOST_SKIP if name == "clip_skip" else _MOST_FRAMES
        return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most
    if name in ("cfg", "cfg_rescale", "cfg_low", "cfg_high", "threshold", "guidance", "image_cfg"):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        least, most_of = (-_MOST_CFG, _MOST_CFG) if name == "cfg" else (0.0, _MOST_CFG)
        most_of = 1.0 if name in ("cfg_rescale", "threshold") else most_of
        return number and least <= cast(float, value) <= most_of  # no NaN is between
    if not isinstance(value, str) or not _is_unicode(value):
        return False
    if name == "schedule":
        return value.lower() == "automatic" or _is_schedule(value)
    if name == "prediction_type":
        return value in _PREDICTIONS
    return name != "sampler" or _is_sampler(value)


def _is_unicode(text: str) -> bool:
    """Whether ``text`` can be written to a file; JSON may hold halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_sampler(name: str) -> bool:
    try:
        return bool(find(name))
    except NotFoundError:
        return False


def _is_schedule(name: str) -> bool:
    try:
        return bool(schedule_named(name))
    except NotFoundError:
        return False


def _spelled(said: Mapping[str, Any]) -> dict[str, Any]:
    """Give the sampler our name; a name such as ``DPM++ 2M Karras`` also says the schedule."""
    found = dict(said)
    if found.get("sampler"):
        found["sampler"], schedule = find(str(found["sampler"]))
        if schedule and found.get("schedule") is None:
            found["schedule"] = schedule
    if found.get("schedule"):
        found["schedule"] = _schedule(str(found["schedule"]), found.get("sampler"))
    if kind := found.get("prediction_type"):
        if kind not in _PREDICTIONS:
            raise UsageError(
                f"no prediction type {kind!r}. There are: {', '.join(dict.fromkeys(_PREDICTIONS.values()))}."
            )
        found["prediction_type"] = _PREDICTIONS[kind]
    return found


def _schedule(name: str, sampler: str | None) -> str | None:
    """Return our name of a schedule; Automatic is A1111's choice for a sampler."""
    if name.lower() == "automatic":
        return SAMPLERS[sampler].automatic if sampler else None
    return schedule_named(name) if _is_schedule(name) else name  # refused with what there is


def _check(values: dict[str, Any], multiple: int) -> None:
    for side in ("width", "height"):
        if values[side] < multiple or values[side] % multiple:
            below = max(multiple, values[side] // multiple * multiple)
            raise UsageError(
                f"{side} {values[side]} is not a multiple of {multiple}. "
                f"Use {below} or {below + multiple}."
            )
    if not math.isfinite(values["cfg"]):
        raise UsageError(f"cfg {values['cfg']} is not a number; 1 is no guidance, 7 is strong.")
    _check_more(values)
    if values["steps"] < 1:
        raise UsageError(f"steps {values['steps']}: at least 1 is needed.")
    SAMPLERS[values["sampler"]].check(
        values["schedule"], values["prediction_type"], steps=values["steps"]
    )


def _check_more(values: dict[str, Any]) -> None:
    if not 1 <= values["clip_skip"] <= _MOST_SKIP:
        raise UsageError(
            f"clip skip {values['clip_skip']}: 1 is the usual layer, {_MOST_SKIP} the most."
        )
    if not 0 <= values["cfg_rescale"] <= 1:
        raise UsageError(f"cfg rescale {values['cfg_rescale']:g} is not in 0..1; 0 is off.")
    if not 0 <= values["threshold"] <= 1:
        raise UsageError(
            f"threshold {values['threshold']:g} is not in 0..1; 0 is off, 0.995 is usual."
        )
    _check_interval(values["cfg_low"], values["cfg_high"])
    if not isinstance(values["edit"], bool):
        raise UsageError(f"edit is {values['edit']!r}; it is true or false.")
    for name in ("guidance", "image_cfg"):
        told = values[name]
        if told is not None and not 0 <= told <= _MOST_CFG:
            raise UsageError(f"{name} {told:g} is not in 0..{_MOST_CFG:g}.")
    for name in ("frames", "fps"):
        if not 1 <= values[name] <= _MOST_FRAMES:
            raise UsageError(f"{name} {values[name]} is not in 1..{_MOST_FRAMES}.")


def _check_interval(low: float, high: float) -> None:
    """Refuse an interval of noise levels that holds none."""
    for name, level in (("cfg_low", low), ("cfg_high", high)):
        if not 0 <= level < math.inf:
            raise UsageError(
                f"{name} {level:g} is not a noise level; they begin at 0, which is off."
            )
    if high and low >= high:
        raise UsageError(
            f"cfg_low {low:g} is not below cfg_high {high:g}: no noise level would be guided."
        )


def check_seed(seed: int) -> int:
    """Return ``seed``.

    Raises:
        UsageError: it is not in 0..2**32-1.
    """
    if not 0 <= seed < SEEDS:
        raise UsageError(f"seed {seed} is not in 0..{SEEDS - 1}; -1 draws one.")
    return seed
