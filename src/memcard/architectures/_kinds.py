"""Kinds of files that are no checkpoint: ControlNets, embeddings, image prompts, upscalers.

Source: lllyasviel ControlNet, ``cldm/cldm.py``; diffusers ``models/controlnets``; TencentARC
T2I-Adapter; kohya ``sdxl_control_net_lllite.py``; tencent-ailab IP-Adapter; A1111
``textual_inversion.py``; xinntao Real-ESRGAN.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from memcard.architectures._names import Names, Root
from memcard.architectures._signs import Sign, has, lacks, width
from memcard.core.architecture import Kind
from memcard.core.tensors import Specs

_EMBEDDED: Final[Mapping[int, tuple[str, str]]] = {
    768: ("sd1", "CLIP-L"),
    1024: ("sd2", "OpenCLIP-H"),
    1280: ("sdxl", "CLIP-G"),
    2048: ("sdxl", "CLIP-L and CLIP-G"),
}
_ENCODERS: Final = frozenset({"clip_l", "clip_g", "t5xxl", "t5", "clip_h"})
_TOKEN: Final = re.compile(r"^<[^<>]+>$")


@dataclass(frozen=True, slots=True)
class Found:
    """What kind a file is."""

    kind: Kind
    families: tuple[str, ...]
    variant: str | None
    dialect: str | None
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    kind: Kind
    family: str | None
    variant: str | None
    dialect: str | None
    signs: tuple[Sign, ...]


_TO_K: Final = "transformer_blocks.0.attn2.to_k.weight"
_LDM_K: Final = (f"input_blocks.1.1.{_TO_K}", f"input_blocks.4.1.{_TO_K}")
_DIFFUSERS_K: Final = (f"down_blocks.0.attentions.0.{_TO_K}", f"down_blocks.1.attentions.0.{_TO_K}")
_HINT: Final = has("input_hint_block.0.weight", says="reads a picture to follow")
_COND: Final = has("controlnet_cond_embedding.conv_in.weight", says="reads a picture to follow")
_UNION: Final = ("task_embedding", "control_add_embedding.linear_1.weight")
_UNETS: Final = (("sd1", 768), ("sd2", 1024), ("sdxl", 2048))


def _controlnets() -> tuple[_Known, ...]:
    known = []
    for family, wide in _UNETS:
        ldm = (_HINT, has("zero_convs.0.0.weight"), width(_LDM_K, 1, wide))
        diffusers = (_COND, has("controlnet_down_blocks.0.weight"), width(_DIFFUSERS_K, 1, wide))
        for names, signs in (("ldm", ldm), ("diffusers", diffusers)):
            plain, union = (*signs, lacks(*_UNION)), (*signs, has(*_UNION))
            known.append(_Known("controlnet", family, None, names, plain))
            known.append(_Known("controlnet", family, "union", names, union))
    return tuple(known)


def _t2i_adapters() -> tuple[_Known, ...]:
    """They take the picture folded 8 by 8 (SD 1) or 16 by 16 (SDXL), in colour or grey."""
    first = ("adapter.conv_in.weight", "conv_in.weight")
    known = []
    for family, channels in (("sd1", (64, 192)), ("sdxl", (256, 768))):
        folded = width(first, 1, *channels)
        for names, block in (("diffusers", "resnets.0.block1"), ("original", "block1")):
            body = has(f"adapter.body.0.{block}.weight", f"body.0.{block}.weight")
            known.append(_Known("controlnet", family, "T2I-Adapter", names, (body, folded)))
    return tuple(known)


KINDS: Final = (
    *_controlnets(),
    _Known("controlnet", "flux", None, "diffusers",
           (has("controlnet_blocks.0.weight"), has("controlnet_x_embedder.weight"),
            width("x_embedder.weight", 1, 64), has("time_text_embed.text_embedder.linear_1.weight"))),
    _Known("controlnet", "flux", "XLabs", "original",
           (_HINT, has("double_blocks.0.img_attn.qkv.weight"))),
    _Known("controlnet", "sd3", None, "diffusers",
           (has("controlnet_blocks.0.weight"), has("pos_embed_input.proj.weight"))),
    _Known("controlnet", "qwen_image", None, "diffusers",
           (has("controlnet_blocks.0.weight"), has("controlnet_x_embedder.weight"),
            width("txt_norm.weight", 0, 3584))),
    _Known("controlnet", None, "Control-LoRA", "ldm",
           (has("lora_controlnet"), has("input_hint_block.0.weight"))),
    *_t2i_adapters(),
    _Known("ip_adapter", None, "FaceID", "original",
           (has("ip_adapter."), has("image_proj.proj.0.weight"))),
    _Known("ip_adapter", None, "plus", "original",
           (has("ip_adapter."), has("image_proj.latents"))),
    _Known("ip_adapter", None, None, "original",
           (has("ip_adapter."), has("image_proj.proj.weight"))),
    _Known("ip_adapter", "flux", "Redux", "original",
           (has("redux_up.weight", says="a picture becomes words of T5's width: Redux"),
            has("redux_down.weight"))),
    _Known("upscaler", None, "Real-ESRGAN", "original",
           (has("conv_first.weight"), has("body.0.rdb1.conv1.weight"))),
    _Known("upscaler", None, "ESRGAN", "original",
           (has("model.0.weight", "conv_first.weight"),
            has("model.1.sub.0.RDB1.conv1.0.weight", "RRDB_trunk.0.RDB1.conv1.weight"))),
    _Known("upscaler", None, "SwinIR", "original",
           (has("conv_first.weight"), has("layers.0.residual_group.blocks.0.attn.qkv.weight"))),
)  # fmt: skip

_PREFIXES: Final = ("", "control_model.", "controlnet.", "module.", "params_ema.", "params.")


def special(names: Names) -> Found | None:
    """Recognise a file that is neither checkpoint nor LoRA; None if it is none of these."""
    if (found := _embedding(names)) or (found := _lllite(names)) or (found := _hypernetwork(names)):
        return found
    for prefix in _PREFIXES:
        root = names.root(prefix)
        if not root.specs:
            continue
        for known in KINDS:
            seen = [sign.test(root, names.metadata) for sign in known.signs]
            if None not in seen:
                family = known.family or _by_width(root)
                reasons = tuple(s for s in seen if s)
                return Found(
                    known.kind, (family,) if family else (), known.variant, known.dialect, reasons
                )
    return None


def _by_width(root: Root) -> str | None:
    """Tell the family of an adapter by the width of the text states it reads or makes."""
    for key in (*_LDM_K, *_DIFFUSERS_K, "ip_adapter.1.to_k_ip.weight"):
        if key in root and (shape := root.shape(key)) and len(shape) == 2:
            return {768: "sd1", 1024: "sd2", 2048: "sdxl"}.get(shape[1])
    return None


def _embedding(specs: Specs) -> Found | None:
    """Textual inversion: a handful of vectors as wide as the text encoder's words."""
    words = {n: s for n, s in specs.items() if n in _ENCODERS or n == "emb_params"
             or n.startswith("string_to_param.") or _TOKEN.match(n)}  # fmt: skip
    counters = [n for n in specs if n.startswith("string_to_token") or n in ("step", "name")]
    if not words or len(words) + len(counters) != len(specs):
        return None
    if any(len(spec.shape) not in (1, 2) for spec in words.values()):
        return None
    wide = {name: spec.shape[-1] for name, spec in words.items()}
    vectors = max(s.shape[0] if len(s.shape) == 2 else 1 for s in words.values())
    seen = tuple(f"{name} holds vectors {n} wide" for name, n in wide.items())
    variant = f"{vectors} vector{'s' if vectors > 1 else ''} a word"
    if "t5xxl" in words:
        family = "sd3" if "clip_g" in words else "flux"
    elif {"clip_l", "clip_g"} <= words.keys():
        family = "sdxl"
    else:
        family = _EMBEDDED.get(next(iter(wide.values())), ("", ""))[0]
    return Found("embedding", (family,) if family else (), variant, None, seen)


def _lllite(specs: Specs) -> Found | None:
    own = sum(name.startswith("lllite_unet_") for name in specs)
    if not own or 2 * own < len(specs):
        return None
    seen = (f"{own} tensors are named lllite_unet_*",)
    return Found("controlnet", ("sdxl",), "ControlNet-LLLite", "kohya", seen)


def _hypernetwork(specs: Specs) -> Found | None:
    """A1111's hypernetworks: two small networks for each width of the text states."""
    pattern = re.compile(r"^\[?(320|640|768|1024|1280)\]?\[[01]\]\.linear\.\d+\.weight$")
    own = [name for name in specs if pattern.match(name)]
    if not own:
        return None
    family = ("sd1",) if any("768" in name for name in own) else ()
    return Found("hypernetwork", family, None, "original", (f"has {own[0]}",))
