"""How a picture was made, whichever tool made it: one form for all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from memcard.errors import NotFoundError

_HEX: Final = re.compile(r"(?:0x|[a-z0-9_-]+:)?([0-9a-f]{8,64})", re.IGNORECASE)
_WHOLE: Final = frozenset(
    {"steps", "width", "height", "clip_skip", "hires_steps", "frames", "fps", "seed"}
)
_MOST: Final = 1e12  # what a number in a text may be; a seed may have 64 bits
_MOST_SEED: Final = 2**64
# Names of schedules that are none: the tool lets the sampler decide.
_LEFT_TO_SAMPLER: Final = frozenset({"automatic", "default", "none"})


@dataclass(frozen=True, slots=True)
class Used:
    """A file that a picture names: a checkpoint, a VAE, an embedding.

    Attributes:
        name: as the tool writes it, with or without folder and ending.
        hashes: lower-case hex, 8 to 64 digits: digests of the file or the first digits of them.
    """

    name: str
    hashes: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The name without folders and ending."""
        return stem(self.name)


@dataclass(frozen=True, slots=True)
class UsedLora:
    """A LoRA that a picture names.

    Attributes:
        name: as ``Used.name``.
        strength: for the denoiser.
        text_strength: for the text encoders; None if it is not said, and ``strength`` counts.
        hashes: as ``Used.hashes``.
        in_prompt: stands in the prompt as ``<lora:name:strength>``.
    """

    name: str
    strength: float = 1.0
    text_strength: float | None = None
    hashes: tuple[str, ...] = ()
    in_prompt: bool = False

    @property
    def stem(self) -> str:
        """The name without folders and ending."""
        return stem(self.name)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """How a picture was made.

    Attributes:
        tool: ``memcard``, ``A1111``, ``Forge``, ``SD.Next``, ``ComfyUI``, ``SwarmUI``, ``Fooocus``,
            ``InvokeAI``, ``NovelAI``, ``Civitai``, or ``unknown`` for a text in A1111's form that does not say.
        prompt: as typed, with tags such as ``<lora:film:0.8>``.
        negative: as typed.
        settings: ``sampler``, ``schedule`` (in our words where we know them, else in the tool's), ``steps``,
            ``cfg``, ``width``, ``height``, ``clip_skip`` (2 is the layer before the last, as all tools count),
            ``guidance`` (distilled), ``denoise`` (0..1, of img2img or hires fix), ``cfg_rescale``, ``rng``,
            ``prediction_type``, ``hires_scale``, ``hires_steps``, ``hires_upscaler``; only what is said.
        checkpoint, vae: None if nothing is said.
        loras, embeddings: in the order of the text.
        parts: files that gave what the checkpoint lacks.
        seed: 0..2**64-1.
        architecture: the model family, where it is said.
        recipe: id of the recipe that makes the checkpoint; only of pictures made here.
        raw: every text of the file, by its keyword.
        notes: what is ambiguous, missing or odd; one sentence each.
    """

    tool: str
    prompt: str = ""
    negative: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Used | None = None
    vae: Used | None = None
    loras: tuple[UsedLora, ...] = ()
    embeddings: tuple[Used, ...] = ()
    parts: tuple[Used, ...] = ()
    seed: int | None = None
    architecture: str | None = None
    recipe: str | None = None
    raw: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values; what is empty is left out."""
        found = {key: value for key, value in asdict(self).items() if value not in (None, (), {})}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()}


def stem(name: str) -> str:
    """Return a file's name without folders, of any system, and without its ending."""
    last = re.split(r"[/\\]", name)[-1]
    head, dot, end = last.rpartition(".")
    return head if dot and end.lower() in _ENDINGS else last


_ENDINGS: Final = frozenset({"safetensors", "ckpt", "pt", "pth", "bin", "gguf", "sft"})
# Families whose own layer of CLIP is the one before the last, where all tools say 1 for it or 2.
_PENULTIMATE: Final = frozenset({"sd2", "sdxl", "sdxl_refiner", "sd3"})


def usual_clip_skip(ours: int, architecture: str | None) -> int:
    """Return the clip skip that other tools mean by one of our settings, where 1 is the family's layer."""
    return ours + 1 if ours > 1 and architecture in _PENULTIMATE else ours


def own_clip_skip(usual: int, architecture: str | None) -> int:
    """Return our setting for the clip skip of other tools."""
    return max(1, usual - 1) if architecture in _PENULTIMATE else usual


def hashes(*values: object) -> tuple[str, ...]:
    """Return those of ``values`` that are digests or beginnings of one, each once.

    ``0x…`` of SwarmUI and ``blake3:…`` of InvokeAI lose what stands before the digits.
    """
    matches = [_HEX.fullmatch(value.strip()) for value in values if isinstance(value, str)]
    return tuple(dict.fromkeys(match[1].lower() for match in matches if match))


def numbers(said: Mapping[str, object], notes: list[str]) -> dict[str, Any]:
    """Return settings in their own types; what makes no sense is left out and noted.

    Whole numbers for steps, sides, clip skip and seed; other numbers for ``cfg`` and its like.
    """
    found: dict[str, Any] = {}
    for name, value in said.items():
        if value is None or value == "":
            continue
        number = _number(value)
        whole = name in _WHOLE
        if number is None or number < 0 or (whole and not float(number).is_integer()):
            notes.append(
                f"{name} is {str(value)[:40]!r}, which is no such number; it was left out."
            )
        else:
            found[name] = int(number) if whole else float(number)
    return found


def _number(value: object) -> int | float | None:
    """Return a number; whole ones exactly, as seeds of 64 bits need it."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, int):
        return value if abs(value) < _MOST_SEED else None
    try:
        if isinstance(value, str) and re.fullmatch(r"\s*\d{1,20}\s*", value):
            return value_of if (value_of := int(value)) < _MOST_SEED else None
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and abs(number) < _MOST else None


def size(value: object) -> dict[str, int]:
    """Return width and height of a text such as ``512x768`` or ``(512, 768)``; {} if it is none."""
    match = re.fullmatch(r"\D{0,2}([1-9]\d{0,4})\s*[xX,]\s*([1-9]\d{0,4})\D?", str(value).strip())
    return {"width": int(match[1]), "height": int(match[2])} if match else {}


def sampling(sampler: object, schedule: object = None, *, tool: str = "") -> dict[str, str]:
    """Return ``sampler`` and ``schedule`` in our words where we know them, else as they are written.

    Args:
        sampler: by any tool's name, with or without the schedule behind it; no text says nothing.
        schedule: likewise.
        tool: ``a1111`` where its titles count first.
    """
    from memcard.generation import schedule as schedules
    from memcard.generation.samplers import SAMPLERS, find

    found: dict[str, str] = {}
    if isinstance(sampler, str) and (name := sampler.strip()):
        found["sampler"] = name
        with suppress(NotFoundError):
            found["sampler"], said = find(name)
            found |= {"schedule": said} if said else {}
    if isinstance(schedule, str) and (name := schedule.strip()):
        found["schedule"] = name
        if name.lower() in _LEFT_TO_SAMPLER:
            del found["schedule"]
            if found.get("sampler") in tuple(SAMPLERS):
                found["schedule"] = SAMPLERS[found["sampler"]].automatic
        else:
            with suppress(NotFoundError):
                found["schedule"] = schedules.find(name, tool=tool)
    return found
