"""Which tool made a picture, and what its texts say.

Each reader knows one tool's JSON; what has no place in ``ImageInfo`` stays in ``raw``.

Sources: docs/spec/image-metadata.md (ours); the metadata that SwarmUI ("Image Metadata Format"), Fooocus
(``modules/meta_parser``), InvokeAI ("Using the Gallery: metadata") and NovelAI write into their pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from memcard.generation import image_a1111
from memcard.generation.comfy_graph import understand as understand_graph
from memcard.generation.image_info import (
    ImageInfo,
    Used,
    UsedLora,
    hashes,
    numbers,
    sampling,
    size,
    stem,
    usual_clip_skip,
)
from memcard.generation.image_text import ImageText

_LORAS: Final = 1000  # of one picture


def understand(found: ImageText) -> ImageInfo:
    """Return how a picture was made; the tool is ``unknown`` and all else empty if no text says it."""
    info = _read(found.texts)
    notes = dict.fromkeys((*found.notes, *info.notes))
    return replace(info, raw=dict(found.texts), notes=tuple(notes))


def _read(texts: Mapping[str, str]) -> ImageInfo:
    for keyword, read in _READERS:
        if keyword in texts:
            info = read(texts)
            if info is not None:
                return info
    return ImageInfo("unknown", notes=("Nothing in the file says how it was made.",))


def _ours(texts: Mapping[str, str]) -> ImageInfo | None:
    said = _object(texts["memcard"])
    if said is None or not isinstance(said.get("memcard"), str):
        return None
    notes: list[str] = []
    settings = dict(_section(said.get("settings")))
    negative = settings.pop("negative", "")
    sampler = sampling(settings.pop("sampler", None), settings.pop("schedule", None))
    texts_of = {
        key: value
        for key in ("prediction_type", "rng", "hires_upscaler")
        if isinstance(value := settings.pop(key, None), str)
    }
    plain = {key: value for key, value in settings.items() if not isinstance(value, (dict, list))}
    flags = _flags(plain, said)
    plain = {key: value for key, value in plain.items() if not isinstance(value, bool)}
    architecture = _text(said.get("architecture")) or None
    tagged = _tagged(_text(said.get("prompt")))
    values = numbers({**plain, "denoise": said.get("denoise")}, notes)
    second = _section(said.get("second_pass"))
    names = {"scale": "hires_scale", "steps": "hires_steps", "strength": "denoise"}
    values |= numbers({own: second.get(name) for name, own in names.items()}, notes)
    if isinstance(upscaler := second.get("upscaler"), str):
        texts_of["hires_upscaler"] = upscaler
    texts_of |= _beside(said)
    if "clip_skip" in values:
        values["clip_skip"] = usual_clip_skip(values["clip_skip"], architecture)
    info = ImageInfo(
        "memcard",
        *(_text(said.get("prompt")), _text(negative), {**values, **sampler, **texts_of, **flags}),
        checkpoint=_file(said.get("checkpoint")),
        vae=_file(said.get("vae")),
        loras=tuple(_our_lora(entry, tagged) for entry in _sections(said.get("loras"))),
        embeddings=tuple(filter(None, map(_file, _sections(said.get("embeddings"))))),
        parts=tuple(filter(None, map(_file, _sections(said.get("parts"))))),
        seed=numbers({"seed": said.get("seed")}, notes).get("seed"),
        architecture=architecture,
        recipe=_text(said.get("recipe")) or None,
        notes=tuple(notes),
    )
    return _against(info, texts.get("parameters"))


def _flags(settings: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, bool]:
    """Return the settings that are on, and a T5 that was done without."""
    found = {key: True for key, value in settings.items() if value is True}
    return found | ({"t5": False} if said.get("t5") is False else {})


def _beside(said: Mapping[str, Any]) -> dict[str, str]:
    """Return what steered and finished a picture of ours, by name."""
    nets = [_text(entry.get("name")) for entry in _sections(said.get("controls"))]
    found = {"controls": ", ".join(filter(None, nets))}
    found["refiner"] = _text(_section(said.get("refiner")).get("name"))
    return {key: value for key, value in found.items() if value}


def _against(info: ImageInfo, parameters: str | None) -> ImageInfo:
    """Note if the other text, which any tool may have changed, tells another story."""
    if parameters is None:
        return info
    other = image_a1111.understand(parameters)
    if other.seed in (None, info.seed) and other.prompt.strip() == info.prompt.strip():
        return info
    note = "The text 'parameters' names another prompt or seed than 'memcard', which is believed."
    # a prompt that looks like A1111's own marks cannot be told apart in that text
    return info if info.prompt in parameters else replace(info, notes=(*info.notes, note))


def _our_lora(entry: Mapping[str, Any], tagged: frozenset[str]) -> UsedLora:
    text, name = entry.get("text_strength"), _text(entry.get("name"))
    return UsedLora(
        name,
        _strength(entry.get("strength")),
        None if text is None else _strength(text),
        hashes(entry.get("sha256"), entry.get("autov3")),
        in_prompt=entry.get("in_prompt") is True or stem(name).casefold() in tagged,
    )


def _tagged(prompt: str) -> frozenset[str]:
    """Return the LoRAs that a prompt names in tags, in lower case."""
    return frozenset(lora.stem.casefold() for lora in image_a1111.tags(prompt))


def _parameters(texts: Mapping[str, str]) -> ImageInfo | None:
    """Read ``parameters``: A1111's text, or the JSON of SwarmUI or Fooocus."""
    text = texts["parameters"]
    said = _object(text) if text.lstrip().startswith("{") else None
    if said is None:
        info = image_a1111.understand(text)
        return replace(info, tool="Fooocus") if "fooocus_scheme" in texts else info
    if isinstance(said.get("sui_image_params"), dict):
        return _swarm(said)
    if "fooocus_scheme" in texts or "base_model" in said or "Base Model" in said:
        return _fooocus(said)
    return image_a1111.understand(text)


def _swarm(said: Mapping[str, Any]) -> ImageInfo:
    params, notes = _section(said.get("sui_image_params")), list[str]()
    files = _sections(said.get("sui_models"))
    digests = {stem(_text(entry.get("name"))): _text(entry.get("hash")) for entry in files}
    stop = params.get("clipstopatlayer")
    settings = numbers(
        {
            "steps": params.get("steps"),
            "cfg": params.get("cfgscale"),
            "width": params.get("width"),
            "height": params.get("height"),
            "guidance": params.get("fluxguidancescale"),
            "denoise": params.get("initimagecreativity"),
            "clip_skip": -stop if isinstance(stop, int) and stop < 0 else None,
            "hires_scale": params.get("refinerupscale"),
        },
        notes,
    )
    names, weights = _list(params.get("loras")), _list(params.get("loraweights"))
    strengths = [_strength(weights[i]) if i < len(weights) else 1.0 for i in range(len(names))]
    prompt = _text(params.get("prompt"))
    tagged = _tagged(prompt)
    return ImageInfo(
        "SwarmUI",
        *(prompt, _text(params.get("negativeprompt"))),
        settings | sampling(params.get("sampler"), params.get("scheduler")),
        checkpoint=_named(params.get("model"), digests.get(stem(_text(params.get("model"))))),
        vae=_named(params.get("vae"), digests.get(stem(_text(params.get("vae"))))),
        loras=tuple(
            UsedLora(
                *(name, weight),
                hashes=hashes(digests.get(stem(name))),
                in_prompt=stem(name).casefold() in tagged,
            )
            for name, weight in zip(map(_text, names), strengths, strict=True)
        ),
        seed=numbers({"seed": params.get("seed")}, notes).get("seed"),
        notes=tuple(notes),
    )


def _fooocus(said: Mapping[str, Any]) -> ImageInfo:
    notes = list[str]()
    if said.get("styles") not in (None, "", [], "[]"):
        notes.append("Fooocus adds its styles to the prompt; they are in raw['parameters'].")
    settings = numbers(
        {
            "steps": said.get("steps"),
            "cfg": said.get("guidance_scale"),
            "clip_skip": said.get("clip_skip"),
        },
        notes,
    )
    loras = [entry for entry in _list(said.get("loras")) if isinstance(entry, list) and entry]
    return ImageInfo(
        "Fooocus",
        *(_text(said.get("prompt")), _text(said.get("negative_prompt"))),
        settings
        | size(said.get("resolution"))
        | sampling(said.get("sampler"), said.get("scheduler")),
        checkpoint=_named(said.get("base_model"), said.get("base_model_hash")),
        vae=None if "default" in _text(said.get("vae")).lower() else _named(said.get("vae"), None),
        loras=tuple(
            UsedLora(
                _text(entry[0]),
                _strength(entry[1]) if len(entry) > 1 else 1.0,
                hashes=hashes(*entry[2:3]),
            )
            for entry in loras
        ),
        seed=numbers({"seed": said.get("seed")}, notes).get("seed"),
        notes=tuple(notes),
    )


def _invoke(texts: Mapping[str, str]) -> ImageInfo | None:
    said = _object(texts["invokeai_metadata"])
    if said is None:
        return None
    notes = list[str]()
    skip = said.get("clip_skip")
    settings = numbers(
        {
            **{name: said.get(name) for name in ("steps", "width", "height", "guidance")},
            "cfg": said.get("cfg_scale"),
            "cfg_rescale": said.get("cfg_rescale_multiplier") or None,
            "denoise": said.get("strength"),
            # InvokeAI counts the layers that are left out
            "clip_skip": skip + 1 if isinstance(skip, int) and skip > 0 else None,
        },
        notes,
    )
    rng = {"rng": said["rand_device"].upper()} if isinstance(said.get("rand_device"), str) else {}
    return ImageInfo(
        "InvokeAI",
        *(_text(said.get("positive_prompt")), _text(said.get("negative_prompt"))),
        settings | sampling(said.get("scheduler")) | rng,
        checkpoint=_invoke_file(said.get("model")),
        vae=_invoke_file(said.get("vae")),
        loras=tuple(_invoke_lora(entry) for entry in _sections(said.get("loras"))),
        seed=numbers({"seed": said.get("seed")}, notes).get("seed"),
        notes=tuple(notes),
    )


def _invoke_file(value: object) -> Used | None:
    said = _section(value)
    name = _text(said.get("name") or said.get("model_name"))
    return Used(name, hashes(said.get("hash"))) if name else None


def _invoke_lora(entry: Mapping[str, Any]) -> UsedLora:
    used = _invoke_file(entry.get("model") or entry.get("lora")) or Used("")
    return UsedLora(used.name, _strength(entry.get("weight")), hashes=used.hashes)


def _novelai(texts: Mapping[str, str]) -> ImageInfo | None:
    said = _object(texts["Comment"])
    if said is None or not {"uc", "steps", "seed"} <= set(said):
        return None
    notes = ["The model runs only at NovelAI; it is no file."]
    settings = numbers(
        {
            **{name: said.get(name) for name in ("steps", "width", "height")},
            "cfg": said.get("scale"),
            "cfg_rescale": said.get("cfg_rescale") or None,
        },
        notes,
    )
    return ImageInfo(
        "NovelAI",
        *(_text(said.get("prompt") or texts.get("Description")), _text(said.get("uc"))),
        settings | sampling(said.get("sampler"), said.get("noise_schedule")),
        checkpoint=_named(texts.get("Source"), None),
        seed=numbers({"seed": said.get("seed")}, notes).get("seed"),
        notes=tuple(notes),
    )


# The keyword a tool is known by, the surest first: SwarmUI's pictures may hold a graph too.
_READERS: Final[tuple[tuple[str, Callable[[Mapping[str, str]], ImageInfo | None]], ...]] = (
    ("memcard", _ours),
    ("invokeai_metadata", _invoke),
    ("parameters", _parameters),
    ("prompt", lambda texts: understand_graph(texts["prompt"])),
    ("Comment", _novelai),
)


def _object(text: str) -> dict[str, Any] | None:
    """Return a JSON object; None if the text is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value[:_LORAS] if isinstance(value, list) else []


def _section(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sections(value: object) -> Sequence[Mapping[str, Any]]:
    return [entry for entry in _list(value) if isinstance(entry, dict)]


def _named(name: object, digest: object) -> Used | None:
    return Used(name, hashes(digest)) if isinstance(name, str) and name else None


def _file(value: object) -> Used | None:
    said = _section(value)
    return _named(said.get("name"), said.get("sha256"))


def _strength(value: object) -> float:
    """Return a LoRA's strength, which may be below 0; 1 if it is no number."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) else 1.0
    except (ValueError, OverflowError):
        return 1.0
    return number if abs(number) <= 100 else 1.0
