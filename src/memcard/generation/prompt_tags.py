"""Tags in a prompt, ``<lora:name:0.8>``: what is applied to the model, not read by it.

The first number is of the text encoders, the second of the UNet or transformer; a single number is of
both. ``te=`` and ``unet=`` name them. That is the order of stable-diffusion-webui.

Source: README of a1111-sd-webui-lycoris, "Arguments" (whose rules stable-diffusion-webui took over in
1.5); the wiki of stable-diffusion-webui, "Features", section "Extra networks".
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

# Name, strength, and strength for the text encoders if it differs.
Lora: TypeAlias = tuple[str, float, float | None]

_TAG: Final = re.compile(r"(?<!\\)<(\w+):([^<>]+)>")
_LORAS: Final = ("lora", "lyco", "locon")
_ORDER: Final = ("te", "unet", "dyn")  # what numbers without a name mean


@dataclass(frozen=True, slots=True)
class Tags:
    """What was taken out of a prompt.

    Attributes:
        text: the prompt without them; blanks around them stay.
        loras: in the order of the prompt.
        notes: what could not be followed, one sentence each.
    """

    text: str
    loras: tuple[Lora, ...]
    notes: tuple[str, ...]


def take_out(text: str) -> Tags:
    """Take all tags out of a prompt; one that cannot be followed is noted and left out."""
    loras: list[Lora] = []
    notes: list[str] = []

    def read(tag: re.Match[str]) -> str:
        kind, (name, *said) = tag[1].lower(), [part.strip() for part in tag[2].split(":")]
        if kind not in _LORAS:
            notes.append(f"{tag[0]} is left out: {_why(kind)}")
        elif not name:
            notes.append(f"{tag[0]} is left out: it names no LoRA.")
        else:
            _add(tag[0], name, said, loras, notes)
        return ""

    return Tags(_TAG.sub(read, text), tuple(loras), tuple(notes))


def _why(kind: str) -> str:
    if kind in ("hypernet", "hypernetwork"):
        return "memcard does not run hypernetworks."
    return f"no tag is called {kind!r}. There is <lora:name:strength>."


def _add(tag: str, name: str, said: Sequence[str], loras: list[Lora], notes: list[str]) -> None:
    strengths: dict[str, float] = {}
    unnamed = iter(_ORDER)
    for part in said:
        key, equals, value = part.rpartition("=")
        key = key.strip().lower() if equals else next(unnamed, "")
        if key not in ("te", "unet"):
            notes.append(f"{tag}: {part!r} is not followed; te= and unet= are.")
        elif (strength := _number(value)) is None:
            notes.append(f"{tag} is left out: {value.strip()!r} is no strength. Write 0.8.")
            return
        else:
            strengths[key] = strength
    text = strengths.get("te", 1.0)
    image = strengths.get("unet", text)
    loras.append((name, image, None if text == image else text))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
