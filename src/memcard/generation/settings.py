"""Settings of one run: what the user says, else what the checkpoint's card says, else its family.

Where each value came from is remembered, so that it can be shown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias, cast

from memcard.core.architecture import Architecture
from memcard.errors import NotFoundError, UsageError
from memcard.generation.latents import SEEDS
from memcard.generation.sampler import SCHEDULES
from memcard.generation.samplers import SAMPLERS, find

Origin: TypeAlias = Literal["user", "card", "family"]

_CARD_NAMES: Final = {"cfg_scale": "cfg", "scheduler": "schedule", "negative_prompt": "negative"}
# A card may ask for no more than this: a user who wants more says so himself.
_MOST: Final = {"steps": 1000, "width": 4096, "height": 4096}
_MOST_CFG: Final = 1000.0
_PREDICTIONS: Final = {"v": "v_prediction", "epsilon": "epsilon", "v_prediction": "v_prediction"}


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
        prediction_type: what the UNet was trained to say, ``epsilon`` or ``v_prediction``.
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
    origin: Mapping[str, Origin] = field(default_factory=dict, compare=False)


NAMES: Final = tuple(f.name for f in fields(Settings) if f.name != "origin")


def resolve(family: Architecture, metadata: Mapping[str, str], user: Mapping[str, Any]) -> Settings:
    """Choose each setting from the nearest place that says it.

    Args:
        family: of the checkpoint.
        metadata: of the checkpoint; read are ``memcard.card`` and ``modelspec.prediction_type``.
        user: by the names of ``Settings``; None means not said.

    Raises:
        UsageError: a value is out of its range.
        NotFoundError: no sampler has this name.
    """
    defaults = {name: getattr(family.defaults, name) for name in NAMES if name != "schedule"}
    values: dict[str, Any] = {**defaults, "schedule": "normal"}
    origin: dict[str, Origin] = dict.fromkeys(NAMES, "family")
    sources: tuple[tuple[Origin, Mapping[str, Any]], ...] = (
        ("card", _possible(from_card(metadata), family.defaults.multiple)),
        ("user", user),
    )
    for place, said in sources:
        for name, value in _spelled(said).items():
            if name in values and value is not None:
                values[name], origin[name] = value, place
    known = SAMPLERS[values["sampler"]].schedules
    if values["schedule"] not in known and origin["schedule"] != "user":
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
    if name == "cfg":
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and -_MOST_CFG <= cast(float, value) <= _MOST_CFG  # no NaN is between
    if not isinstance(value, str) or not _is_unicode(value):
        return False
    if name == "schedule":
        return value in SCHEDULES
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


def _spelled(said: Mapping[str, Any]) -> dict[str, Any]:
    """Give the sampler our name; a name such as ``DPM++ 2M Karras`` also says the schedule."""
    found = dict(said)
    if found.get("sampler"):
        found["sampler"], schedule = find(str(found["sampler"]))
        if schedule and found.get("schedule") is None:
            found["schedule"] = schedule
    if kind := found.get("prediction_type"):
        if kind not in _PREDICTIONS:
            raise UsageError(f"no prediction type {kind!r}. There are: epsilon, v_prediction.")
        found["prediction_type"] = _PREDICTIONS[kind]
    return found


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
    if values["steps"] < 1:
        raise UsageError(f"steps {values['steps']}: at least 1 is needed.")
    sampler = SAMPLERS[values["sampler"]]
    if values["schedule"] not in sampler.schedules:
        raise UsageError(
            f"{sampler.a1111} has no schedule {values['schedule']!r}. "
            f"It has: {', '.join(sampler.schedules)}."
        )


def check_seed(seed: int) -> int:
    """Return ``seed``.

    Raises:
        UsageError: it is not in 0..2**32-1.
    """
    if not 0 <= seed < SEEDS:
        raise UsageError(f"seed {seed} is not in 0..{SEEDS - 1}; -1 draws one.")
    return seed
