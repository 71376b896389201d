"""A1111's text as an ``ImageInfo``: also of Forge, SD.Next, Fooocus, Civitai and older pictures of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from memcard.generation import infotext
from memcard.generation.image_info import (
    ImageInfo,
    Used,
    UsedLora,
    hashes,
    numbers,
    sampling,
    size,
)
from memcard.generation.prompt_tags import take_out

# key in the text -> our name
_NUMBERS: Final[Mapping[str, str]] = {
    "Steps": "steps",
    "CFG scale": "cfg",
    "Distilled CFG Scale": "guidance",
    "Image CFG scale": "image_cfg",
    "Clip skip": "clip_skip",
    "Denoising strength": "denoise",
    "CFG Rescale": "cfg_rescale",
    "CFG rescale": "cfg_rescale",
    "Hires upscale": "hires_scale",
    "Hires steps": "hires_steps",
    "Seed": "seed",
}
_RESOURCES: Final = 100
_TEXTS: Final = {"Hires upscaler": "hires_upscaler", "RNG": "rng"}
_TAG: Final = re.compile(r"<(lora|lyco|locon):([^<>:]+)((?::[^<>]*)?)>", re.IGNORECASE)


def understand(text: str) -> ImageInfo:
    """Return what a ``parameters`` text says; any text is one, if only a prompt."""
    info = infotext.read(text)
    said, notes = info.settings, list[str]()
    settings = numbers({own: said.get(key) for key, own in _NUMBERS.items()}, notes)
    seed = settings.pop("seed", None)
    if settings.get("hires_steps") == 0:  # A1111's word for: as many as in the first pass
        del settings["hires_steps"]
    settings |= size(said.get("Size"))
    settings |= sampling(said.get("Sampler"), said.get("Schedule type"), tool="a1111")
    settings |= {own: said[key] for key, own in _TEXTS.items() if said.get(key)}
    known = _known_hashes(said)
    checkpoint, loras = _used(said, "Model", known), tuple(_loras(info, known, notes))
    if "Civitai resources" in said:
        checkpoint, loras = _civitai(said["Civitai resources"], checkpoint, loras)
    return ImageInfo(
        _tool(said),
        *(info.prompt, info.negative, settings),
        checkpoint=checkpoint,
        vae=_used(said, "VAE", known),
        loras=loras,
        embeddings=_embeddings(said, known),
        seed=seed,
        recipe=said.get("Recipe id"),
        notes=tuple(notes),
    )


def tags(prompt: str) -> Iterator[UsedLora]:
    """Yield the LoRAs that a prompt names, such as ``<lora:name:0.8>``."""
    for name, strength, text_strength in take_out(prompt).loras:
        yield UsedLora(name, strength, text_strength, in_prompt=True)


def renamed(prompt: str, name_of: Callable[[str], str]) -> str:
    """Return a prompt with other names in its tags; strengths stay as they are written."""
    return _TAG.sub(lambda m: f"<{m[1]}:{name_of(m[2].strip())}{m[3]}>", prompt)


def _loras(
    info: infotext.Infotext, known: Mapping[str, str], notes: list[str]
) -> Iterator[UsedLora]:
    """Yield the LoRAs of the prompt with their hashes, then those of which only a hash is said."""
    told = infotext.named_hashes(info.settings.get("Lora hashes", ""))
    in_prompt = tuple(tags(info.prompt))
    names = {lora.name for lora in in_prompt}
    for lora in in_prompt:
        digits = hashes(told.get(lora.name), known.get(f"lora:{lora.name}".lower()))
        yield replace(lora, hashes=digits)
    weights = infotext.named_hashes(info.settings.get("Lora weights", ""))
    for name, digest in told.items():
        if name in names:
            continue
        strength = numbers({"strength": weights.get(name)}, notes).get("strength")
        if strength is None:
            notes.append(f"How strong the LoRA {name!r} was is not said; 1 is taken.")
        yield UsedLora(name, 1.0 if strength is None else strength, hashes=hashes(digest))


def _used(said: Mapping[str, str], key: str, known: Mapping[str, str]) -> Used | None:
    name = said.get(key, "").strip()
    digits = hashes(said.get(f"{key} hash"), known.get(key.lower()))
    if not name and not digits:
        return None
    return None if name.lower() in ("none", "automatic") else Used(name, digits)


def _embeddings(said: Mapping[str, str], known: Mapping[str, str]) -> tuple[Used, ...]:
    told = infotext.named_hashes(said.get("TI hashes", ""))
    return tuple(
        Used(name, hashes(digits, known.get(f"embed:{name}".lower())))
        for name, digits in told.items()
    )


def _civitai(
    text: str, checkpoint: Used | None, loras: tuple[UsedLora, ...]
) -> tuple[Used | None, tuple[UsedLora, ...]]:
    """Return checkpoint and LoRAs with the names that Civitai's own generator lists."""
    try:
        listed: Any = json.loads(text)
    except (ValueError, RecursionError):
        return checkpoint, loras
    for entry in listed[:_RESOURCES] if isinstance(listed, list) else ():
        name = entry.get("modelName") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            continue
        if entry.get("type") == "checkpoint" and not (checkpoint and checkpoint.name):
            checkpoint = Used(name, checkpoint.hashes if checkpoint else ())
        elif entry.get("type") == "lora" and all(lora.name != name for lora in loras):
            weight = entry.get("weight")
            strength = float(weight) if isinstance(weight, (int, float)) else 1.0
            loras = (*loras, UsedLora(name, strength))
    return checkpoint, loras


def _known_hashes(said: Mapping[str, str]) -> dict[str, str]:
    """Read Civitai's ``Hashes``: a JSON object such as ``{"model": "…", "lora:film": "…"}``."""
    try:
        found: Any = json.loads(said.get("Hashes", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(key).lower(): value for key, value in found.items() if isinstance(value, str)}


def _tool(said: Mapping[str, str]) -> str:
    version = said.get("Version", "")
    if version.startswith("memcard"):
        return "memcard"
    if "SD.Next" in said.get("App", "") or "SD.Next" in version:
        return "SD.Next"
    if "Civitai resources" in said:
        return "Civitai"
    if version.startswith("Fooocus"):
        return "Fooocus"
    if version.lower() == "comfyui":
        return "ComfyUI"
    if re.match(r"f\d|neo", version) or "Module 1" in said or "Distilled CFG Scale" in said:
        return "Forge"
    return "A1111" if re.match(r"v?\d", version) else "unknown"
