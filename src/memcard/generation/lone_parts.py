"""Parts that come from another file: text encoders and VAEs, in any of their usual namings.

A lone text encoder does not say whose it is. What kind it is shows in its names, which place it takes in its
width: the denoiser's config says how wide the words must be that it reads. Only headers are read.

Source: the files of comfyanonymous/flux_text_encoders, stabilityai/stable-diffusion-3.5-large,
black-forest-labs/FLUX.1-schnell and of diffusers' folders; ``dialects/_text.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import Specs
from memcard.core.views import Rearranged
from memcard.dialects import _text
from memcard.dialects._configs import _clip, _t5, _umt5
from memcard.dialects._dialect import Dialect, read
from memcard.generation.parts import Assembly, Part, latent_channels, parts_of
from memcard.generation.unpacked import unpacked

Kind = Literal["clip", "t5", "umt5"]
_TITLES: Final[Mapping[Kind, str]] = {"clip": "CLIP", "t5": "T5", "umt5": "UMT5"}
_HEAD: Final = 64  # channels of one head of CLIP, in every size


@dataclass(frozen=True, slots=True)
class Slot:
    """A text encoder that a family has a place for.

    Attributes:
        component: as diffusers calls it.
        kind: CLIP (also OpenCLIP), T5 or UMT5.
        width: key in the denoiser's config of how wide its states are.
        activation: of CLIP.
        partner: the other CLIP where both together are that wide.
    """

    component: str
    kind: Kind
    width: str
    activation: str = "quick_gelu"
    partner: str = ""


def _pair(width: str) -> tuple[Slot, Slot]:
    """CLIP-L, the narrower, and CLIP-G."""
    one, two = "text_encoder", "text_encoder_2"
    return Slot(one, "clip", width, "quick_gelu", two), Slot(two, "clip", width, "gelu", one)


SLOTS: Final[Mapping[str, tuple[Slot, ...]]] = {
    "sd1": (Slot("text_encoder", "clip", "cross_attention_dim"),),
    "sd2": (Slot("text_encoder", "clip", "cross_attention_dim", "gelu"),),
    "sdxl": _pair("cross_attention_dim"),
    "sdxl_refiner": (Slot("text_encoder_2", "clip", "cross_attention_dim", "gelu"),),
    "sd3": (
        *_pair("pooled_projection_dim"),
        Slot("text_encoder_3", "t5", "joint_attention_dim"),
    ),
    "flux": (
        Slot("text_encoder", "clip", "pooled_projection_dim"),
        Slot("text_encoder_2", "t5", "joint_attention_dim"),
    ),
    "ltx_video": (Slot("text_encoder", "t5", "caption_channels"),),
    "wan21": (Slot("text_encoder", "umt5", "text_dim"),),
}
# Latents have as many channels as the denoiser gives; Flux takes 2 x 2 of them at once.
_LATENTS: Final[Mapping[str, tuple[str, int]]] = {
    **dict.fromkeys(("sd1", "sd2", "sdxl", "sdxl_refiner", "sd3"), ("out_channels", 1)),
    "flux": ("out_channels", 4),
    "ltx_video": ("out_channels", 1),
    "wan21": ("out_channels", 1),
}

_READER: Final = Dialect(
    title="text encoders",
    source="https://github.com/huggingface/diffusers (0.42, loaders/single_file_utils.py)",
    components=(
        _text.clip(
            "clip_l",
            (
                "text_encoders.clip_l.transformer.",
                "conditioner.embedders.0.transformer.",
                "cond_stage_model.transformer.",
                "text_encoder.",
            ),
        ),
        _text.clip("clip_g", ("text_encoders.clip_g.transformer.", "text_encoder_2.")),
        _text.open_clip(
            "open_clip", ("conditioner.embedders.1.model.", "cond_stage_model.model.", "model.", "")
        ),
        _text.clip("clip", ("transformer.", "")),
        *_text.umt5("umt5", outside=("text_encoder.", "transformer.")),
        _text.t5(
            "t5",
            (
                "text_encoders.t5xxl.transformer.",
                "text_encoder_2.",
                "text_encoder_3.",
                "text_encoder.",
                "transformer.",
                "",
            ),
        ),
    ),
    configs=lambda parts, facts: {},
)


def lone_parts(checkpoint: Checkpoint, assembly: Assembly, label: str) -> dict[str, Part]:
    """Return the parts of a file that fit into ``assembly``, by component; {} if none does.

    Args:
        checkpoint: a text encoder or several, a VAE, or a whole checkpoint of any family; keep it open.
        assembly: with its denoiser.
        label: what to call the file in errors and reports.

    Raises:
        UnsupportedError: its weights are packed in a way that is not known here.
    """
    view = unpacked(checkpoint, label)
    found: dict[str, Part] = {}
    for kind, renamed, names in _encoders(view):
        specs = {bare: renamed.specs[full] for bare, full in names.items()}
        slot = _slot(kind, _width(kind, specs, assembly.family), assembly, found)
        if slot is not None:
            config = _config(kind, specs, slot)
            found[slot.component] = Part(slot.component, renamed, names, config, label)
    vae = parts_of(view, assembly.family, label).get("vae")
    if vae is not None and fits(vae, assembly):
        found["vae"] = vae
    return found


def encoders(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Say which text encoders a file holds, such as ``CLIP, 768 wide``; () if none."""
    found = []
    for kind, renamed, names in _encoders(checkpoint):
        specs = {bare: renamed.specs[full] for bare, full in names.items()}
        found.append(f"{_TITLES[kind]}, {_width(kind, specs, '')} wide")
    return tuple(found)


def fits(part: Part, assembly: Assembly) -> bool:
    """Whether the denoiser can read what a text encoder says, or the VAE decode what it paints.

    A part of which nothing is known to compare fits.
    """
    config = _denoiser(assembly)
    if part.name == "vae":
        key, patch = _LATENTS.get(assembly.family, ("", 1))
        wanted = config.get(key) or config.get("in_channels") or 0
        return key not in config or latent_channels(part) == wanted // patch
    slot = next((s for s in SLOTS.get(assembly.family, ()) if s.component == part.name), None)
    if slot is None or slot.width not in config:
        return True
    rest = config[slot.width] - _states(part, assembly.family)
    partner = assembly.parts.get(slot.partner)
    if not slot.partner:
        return bool(rest == 0)
    return bool(rest > 0 if partner is None else rest == _states(partner, assembly.family))


def _encoders(checkpoint: Checkpoint) -> Iterator[tuple[Kind, Checkpoint, dict[str, str]]]:
    """Yield kind, view and names of each text encoder of a file."""
    reading = read(_READER, checkpoint.specs, "diffusers")
    renamed = Rearranged(checkpoint, reading.arrangements)
    alone = len(reading.places) == 1 and reading.places[0].prefix == ""
    for place in reading.places:
        name = place.component.name
        start = "" if alone else f"{name}."
        names = {n[len(start) :]: n for n in reading.arrangements if n.startswith(start)}
        kind: Kind = "umt5" if name == "umt5" else "t5" if name == "t5" else "clip"
        yield kind, renamed, names


def _config(kind: Kind, specs: Specs, slot: Slot) -> Mapping[str, Any]:
    if kind == "clip":
        return _clip(specs, slot.activation, _HEAD)
    return _t5(specs) if kind == "t5" else _umt5(specs)


def _width(kind: Kind, specs: Specs, family: str) -> int:
    """Return how wide the states are that a denoiser reads: pooled ones for Stable Diffusion 3."""
    if kind != "clip":
        return specs["encoder.block.0.layer.0.SelfAttention.q.weight"].shape[1]
    projection = specs.get("text_projection.weight")
    if family == "sd3" and projection is not None:
        return projection.shape[0]
    return specs["text_model.embeddings.token_embedding.weight"].shape[1]


def _states(part: Part, family: str) -> int:
    config = part.config
    if "d_model" in config:
        return int(config["d_model"])
    return int(config["projection_dim"] if family == "sd3" else config["hidden_size"])


def _slot(kind: Kind, width: int, assembly: Assembly, found: Mapping[str, Part]) -> Slot | None:
    """Return the place a text encoder takes; None if it fits none."""
    config = _denoiser(assembly)
    slots = [s for s in SLOTS.get(assembly.family, ()) if s.kind == kind and s.width in config]
    for slot in slots:
        if not slot.partner and config[slot.width] == width and slot.component not in found:
            return slot
    pair = [slot for slot in slots if slot.partner]
    if not pair or width >= config[pair[0].width]:
        return None
    rest = config[pair[0].width] - width
    if width != rest:
        return pair[0] if width < rest else pair[1]
    free = [s for s in pair if s.component not in found]  # twins: whichever is missing
    return next((s for s in free if s.component not in assembly.parts), free[0] if free else None)


def _denoiser(assembly: Assembly) -> Mapping[str, Any]:
    name = next((n for n in ("unet", "transformer") if n in assembly.parts), None)
    return {} if name is None else assembly.parts[name].config
