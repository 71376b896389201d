"""Which tensors of a file belong together: denoiser, autoencoder, text encoders, EMA and the rest.

Told by what stands before the names, as LDM, ComfyUI, diffusers and kohya's trainer write it. What
has no such start belongs to the denoiser if the file has a bare one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from memcard.architectures._names import EMA_PREFIXES, Names
from memcard.architectures._text_encoders import image_encoder, text_encoder
from memcard.architectures._vaes import autoencoder
from memcard.core.architecture import Evidence
from memcard.core.tensors import Spec

Role: TypeAlias = Literal[
    "denoiser", "vae", "text", "image", "controlnet", "ema", "training", "other", "rest"
]

# First level of a name, to what it means and how many levels are the prefix.
_STARTS: Final[Mapping[str, tuple[Role, int]]] = {
    "first_stage_model": ("vae", 1),
    "vae": ("vae", 1),
    "audio_vae": ("other", 1),
    "vocoder": ("other", 1),
    "vqvae": ("vae", 1),
    "movq": ("vae", 1),
    "vqgan": ("vae", 1),
    "cond_stage_model": ("text", 1),
    "conditioner": ("text", 3),  # conditioner.embedders.0
    "text_encoders": ("text", 2),  # text_encoders.clip_l
    "text_encoder": ("text", 1),
    "text_encoder_2": ("text", 1),
    "text_encoder_3": ("text", 1),
    "text_encoder_4": ("text", 1),
    "te": ("text", 1),
    "te1": ("text", 1),
    "te2": ("text", 1),
    "clip_l": ("text", 1),
    "clip_g": ("text", 1),
    "t5xxl": ("text", 1),
    "image_encoder": ("image", 1),
    "clip_vision": ("image", 1),
    "embedder": ("image", 1),  # unCLIP
    "control_model": ("controlnet", 1),
    "controlnet": ("controlnet", 1),
    "safety_checker": ("other", 1),
    "depth_model": ("other", 1),
    "noise_augmentor": ("other", 1),
    "connectors": ("other", 1),
    "model_ema": ("ema", 1),
    "ema": ("ema", 1),
    "ema_model": ("ema", 1),
    "state_dict_ema": ("ema", 1),
    "model_ema_state_dict": ("ema", 1),
    "unet_ema": ("ema", 1),
    "transformer_ema": ("ema", 1),
    "transformer_2": ("denoiser", 1),
    "prior": ("denoiser", 1),
    "decoder": ("rest", 1),  # of an autoencoder, or stage B in a diffusers folder
}
_EMA_FOLDERS: Final = re.compile(r"^\w+_ema\.")
_TRAINING: Final = re.compile(
    r"^(?:optimizers?|optimizer_states|optimizer_state_dict|opt_state|state|lr_schedulers?|schedulers?"
    r"|callbacks|loops|amp_scaler|scaler|grad_scaler|rng_states?|random_states|cuda_rng_state)"
    r"(?:\[|\.(?:state|exp_avg|param_groups|shadow)|$)"
)
_MOMENTS: Final = re.compile(
    r"(?:^|\.)(?:exp_avg|exp_avg_sq|exp_inf|momentum_buffer|max_exp_avg_sq)$"
)
# Counters and noise levels that LDM and sgm keep beside the weights, and markers of fine-tunes.
_LOOSE: Final = re.compile(
    r"^(?:betas|(?:sqrt_)?(?:one_minus_|recip_?m?1?_?|log_one_minus_)?alphas_cumprod(?:_prev)?"
    r"|sqrt_recip(?:m1)?_alphas_cumprod|posterior_\w+|logvar|lvlb_weights|scale_factor"
    r"|(?:denoiser|(?:model\.)?model_sampling)\.\w+|v_pred|ztsnr|edm_\w+(?:\.\w+)?|scaled_fp8|spiece_model|tekken_model"
    r"|cc_projection\.\w+|epoch|global_step)$"
)


@dataclass(slots=True)
class Part:
    """Tensors that belong together."""

    name: str  # of the component: unet, transformer, vae, text_encoder, text_encoder_2, …
    role: Role
    prefix: str
    tensors: dict[str, Spec]
    what: str | None = None  # such as "CLIP-L, 12 layers"
    encoder: str | None = None  # such as "CLIP-L"
    family: str | None = None  # an autoencoder only one family uses


def split(names: Names, evidence: Evidence | None) -> list[Part]:
    """Sort all tensors of a file into parts, the denoiser first, and say what each is."""
    groups: dict[tuple[Role, str], Part] = {}
    for name, spec in names.items():
        role, prefix = _place(name, evidence)
        part = groups.get((role, prefix))
        if part is None:
            part = groups[role, prefix] = Part("", role, prefix, {})
        part.tensors[name] = spec
    parts = list(groups.values())
    for part in parts:
        _recognise(names, part)
    _name(parts, evidence)
    order = {"denoiser": 0, "text": 1, "image": 2, "vae": 3}
    return sorted(
        parts,
        key=lambda p: (order.get(p.role, 4), p.name if p.role in ("denoiser", "text") else ""),
    )


def _place(name: str, evidence: Evidence | None) -> tuple[Role, str]:
    """Return what a name's start makes of it; ``rest`` if it says nothing."""
    root = evidence.root if evidence else ""
    if root and name.startswith(root) and root not in EMA_PREFIXES:
        return "denoiser", root
    first = name.partition(".")[0]
    if first in _STARTS and "." in name:
        role, levels = _STARTS[first]
        if role != "rest":
            return role, ".".join(name.split(".")[:levels]) + "."
    if _TRAINING.match(name) or _MOMENTS.search(name):
        return "training", ""
    if _LOOSE.match(name):
        return "other", ""
    if _EMA_FOLDERS.match(name):
        return "ema", first + "."
    if evidence and not root:
        return "denoiser", ""
    if name.startswith("model.diffusion_model."):
        return "denoiser", "model.diffusion_model."
    return "rest", ""


def _recognise(names: Names, part: Part) -> None:
    """Say what a part is; one that turns out to be of another kind changes its role."""
    if part.role not in ("text", "image", "vae", "rest"):
        return
    prefixes: tuple[str, ...] = (part.prefix,)
    if part.role == "rest":
        names = Names(part.tensors, names.metadata)  # not what other parts have
        prefixes = ("", *names.shared)
    for prefix in prefixes:
        if part.role in ("text", "rest") and (text := text_encoder(names, prefix)):
            part.role, part.what, part.encoder = "text", str(text), text.name
        elif part.role in ("vae", "rest") and (kind := autoencoder(names, prefix)):
            part.role, part.what, part.family = "vae", kind.name, kind.family
        elif part.role != "vae" and (image := image_encoder(names, prefix)):
            part.role, part.what, part.encoder = "image", str(image), image.name
        if part.what:
            return
    if part.role == "text" and part.prefix.startswith("conditioner."):
        part.role = "other"  # SVD's encoder of the first picture is no text encoder


def _name(parts: list[Part], evidence: Evidence | None) -> None:
    """Name the components as diffusers does; text encoders in the order the family reads them."""
    wanted = [n.what for n in evidence.needs if n.role == "text encoder"] if evidence else []
    texts = [part for part in parts if part.role == "text"]
    texts.sort(key=lambda p: wanted.index(p.encoder) if p.encoder in wanted else len(wanted))
    taken: dict[str, int] = {}
    denoiser = evidence.denoiser if evidence else "denoiser"
    stems: dict[Role, str] = {"denoiser": denoiser, "text": "text_encoder",
        "image": "image_encoder", "vae": "vae", "controlnet": "controlnet"}  # fmt: skip
    for part in (*texts, *(p for p in parts if p.role != "text")):
        stem = stems.get(part.role, part.role)
        folder = part.prefix.removesuffix(".")
        if part.role == "other" and folder:
            stem = folder
        elif part.role == "text" and part.encoder in wanted:
            place = wanted.index(part.encoder) + 1
            stem = stem if place == 1 else f"{stem}_{place}"
        elif folder in ("transformer_2", "prior") or re.fullmatch(r"text_encoder(_\d)?", folder):
            stem = folder
        taken[stem] = taken.get(stem, 0) + 1
        part.name = stem if taken[stem] == 1 else f"{stem}_{taken[stem]}"
