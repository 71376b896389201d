"""LoRA and its relatives: which kind, whose names, and for which family.

The family is told by the modules a file changes and the widths of what they take; both are in the
header. Flux and Chroma, or Wan 2.1 and 2.2, differ in no width: a file that changes only what both
have fits both, unless its metadata says which.

Source: kohya sd-scripts ``networks/lora.py``; LyCORIS ``lycoris/modules``; PEFT
``utils/save_and_load.py``; diffusers ``loaders/lora_conversion_utils.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from memcard.core.tensors import Spec, Specs

# End of the name of the factor that takes the input, and of the one that makes the output.
_PAIRS: Final = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    (".lora_A", ".lora_B"),
    ("_lora1.down.weight", "_lora1.up.weight"),  # XLabs
    ("_lora2.down.weight", "_lora2.up.weight"),
)
_OTHERS: Final[Mapping[str, str]] = {
    ".hada_w1_b": "LoHa",
    ".lokr_w1": "LoKr",
    ".lokr_w1_a": "LoKr",
    ".oft_blocks": "OFT",
    ".oft_diag": "OFT",
    ".oft_R.weight": "OFT",
    ".a1.weight": "GLoRA",
    ".on_input": "(IA)3",
    ".diff": "full difference",
    ".lora_embedding_A": "LoRA",
}
_MORE: Final = (
    *(".alpha", ".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight"),
    *(".diff_b", ".diff", ".lora_mid.weight", ".w_norm", ".b_norm", ".scalar", ".rescale"),
    *(".hada_w1_a", ".hada_w2_a", ".hada_w2_b", ".hada_t1", ".hada_t2", ".lokr_w2", ".lokr_w1_b"),
    *(
        ".lokr_w2_a",
        ".lokr_w2_b",
        ".lokr_t2",
        ".a2.weight",
        ".b1.weight",
        ".b2.weight",
        ".set_weight",
    ),
    *(".lora_B.bias", ".reshape_weight", ".lora_embedding_B", ".bm.weight"),
)
_DIALECTS: Final = (
    (re.compile(r"^(?:lora_(?:unet|te\d?|transformer|prior)_|lora_(?:unet|te)\.)"), "kohya"),
    (re.compile(r"^lycoris_"), "LyCORIS"),
    (re.compile(r"^(?:unet\.|text_encoder\.|transformer\.)?base_model\.model\."), "peft"),
    (re.compile(r"\.processor\.\w*lora"), "attention processors"),
    (re.compile(r"^(?:unet|transformer(?:_2)?|text_encoder(?:_\d)?|prior)\."), "diffusers"),
    (re.compile(r"^(?:model\.)?diffusion_model\."), "comfyui"),
)
_WRAPPERS: Final = re.compile(
    r"^(?:(?:unet|text_encoder|transformer)\.)?base_model\.model\.|^(?:lora|lycoris)_(?:unet|transformer|prior)_"
    r"|^lycoris_|^(?:model\.)?diffusion_model\.|^(?:unet|transformer(?:_2)?|prior)\."
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A family changes such modules."""

    family: str
    module: re.Pattern[str]
    takes: tuple[int, ...]  # width of the input; none: any
    unless: re.Pattern[str] | None = None


def _rule(family: str, module: str, *takes: int, unless: str | None = None) -> Rule:
    return Rule(family, re.compile(module), takes, re.compile(unless) if unless else None)


_UNET: Final = r"^(?:input_blocks|output_blocks|middle_block|down_blocks|up_blocks|mid_block)_.*"
_KEYS: Final = _UNET + r"(?<!motion_modules)attn2_to_[kv]$"
_DEEP: Final = (
    r"^(?:down_blocks_2|up_blocks_0|mid_block|input_blocks_[78]|output_blocks_[012]|middle_block)"
)
_MOTION: Final = r"motion_modules|temporal_transformer"
_FLUX: Final = r"^double_blocks_\d+_(?:img|txt)_(?:attn|mlp_[02])|^single_blocks_\d+_linear[12]"
_HUNYUAN: Final = r"_(?:img|txt)_mlp_fc\d|_(?:img|txt)_mod_linear|token_refiner"

RULES: Final = (
    _rule("starter", _KEYS, 128),
    _rule("sd1", _KEYS, 768, unless=_MOTION),
    _rule("sd2", _KEYS, 1024, unless=_MOTION),
    _rule("sdxl", _KEYS, 2048, unless=_MOTION),
    _rule("sdxl", _DEEP + r".*_transformer_blocks_9_", unless=_MOTION),
    _rule("sdxl_refiner", _KEYS, 1280, unless=_MOTION),
    _rule("animatediff", r"motion_modules_\d+_"),
    _rule("stable_cascade", r"^(?:down|up)_blocks_\d_\d+_attention_attn_(?:in_proj|out_proj|to_q)", 2048, 1280),
    _rule("sd3", r"^joint_blocks_\d+_(?:x|context)_block"),
    _rule("sd3", r"^transformer_blocks_\d+_attn_(?:add_k_proj|to_q)$", 1536, 2432,
          unless=r"single_transformer"),
    _rule("flux", _FLUX, 3072, 12288, 15360,
          unless=_HUNYUAN + r"|distilled_guidance|double_stream_modulation"),
    _rule("chroma", _FLUX, 3072, 12288, 15360,
          unless=_HUNYUAN + r"|_mod_lin|_modulation_lin|double_stream_modulation"),
    _rule("flux", r"^single_transformer_blocks_\d+_(?:attn_to_[qkv]|proj_mlp)$", 3072),
    _rule("chroma", r"^single_transformer_blocks_\d+_(?:attn_to_[qkv]|proj_mlp)$", 3072,
          unless=r"norm1_linear|norm_linear|norm1_context_linear"),
    _rule("flux2", r"^single_transformer_blocks_\d+_attn_to_qkv_mlp_proj"),
    _rule("flux2", r"^single_blocks_\d+_linear1$", 6144, 4096),
    _rule("hunyuan_video", r"^(?:double_blocks_\d+_(?:img|txt)_mlp_fc\d|single_blocks_\d+_modulation_linear)"),
    _rule("auraflow", r"^double_layers_\d+_attn_w1q"),
    _rule("qwen_image", r"^transformer_blocks_\d+_(?:img|txt)_(?:mlp_net_0_proj|mod_1)", 3072),
    _rule("hidream", r"^(?:double|single)_stream_blocks_\d+_block_"),
    _rule("lumina2", r"^layers_\d+_(?:attention_qkv|attention_to_q|attn_to_q)$", 2304),
    _rule("z_image", r"^layers_\d+_(?:attention_qkv|attention_to_q|attn_to_q)$", 3840),
    _rule("wan21", r"^blocks_\d+_(?:cross_attn_[qk]|attn2_to_[qk])$", 1536, 5120),
    _rule("wan22", r"^blocks_\d+_(?:cross_attn_[qk]|attn2_to_[qk])$", 3072, 5120,
          unless=r"k_img|add_k_proj|img_emb"),
    _rule("ltx_video", r"^transformer_blocks_\d+_attn2_to_[qk]$", 2048, 4096, unless=r"audio_"),
    _rule("ltx2", r"^transformer_blocks_\d+_audio_attn"),
    _rule("mochi", r"^(?:transformer_)?blocks_\d+_(?:attn_qkv_[xy]|attn1_add_k_proj)"),
    _rule("cogvideox", r"^transformer_blocks_\d+_attn1_to_[qk]$", 1920, 3072,
          unless=r"attn2|add_k_proj"),
    _rule("hunyuan_dit", r"^blocks_\d+_(?:attn1_Wqkv|attn2_kv_proj)"),
    _rule("kandinsky5", r"^visual_transformer_blocks_\d+_"),
    _rule("sana", r"^(?:transformer_)?blocks_\d+_(?:attn2_to_[qk]|cross_attn_q_linear)$", 2240, 1152),
    _rule("anima", r"^llm_adapter_"),
    _rule("anima", r"^blocks_\d+_cross_attn_q_proj$", 2048),
    _rule("cosmos_predict2", r"^blocks_\d+_cross_attn_q_proj$", 2048, 5120, unless=r"llm_adapter"),
)  # fmt: skip

# Words in the metadata of trainers, to families; the longest that occurs counts.
_SAID: Final[Mapping[str, str]] = {
    "sd_v1": "sd1", "sd1": "sd1", "stable-diffusion-v1": "sd1", "sd_v2": "sd2",
    "stable-diffusion-v2": "sd2", "sdxl": "sdxl", "stable-diffusion-xl-v1": "sdxl",
    "sd3": "sd3", "stable-diffusion-3": "sd3", "stable-diffusion-v3": "sd3", "flux1": "flux",
    "flux-1": "flux", "flux.1": "flux", "flux2": "flux2", "flux-2": "flux2", "chroma": "chroma",
    "lumina": "lumina2", "z_image": "z_image", "z-image": "z_image", "qwen_image": "qwen_image",
    "qwen-image": "qwen_image", "hunyuan_video": "hunyuan_video", "hunyuan-video": "hunyuan_video",
    "wan2.1": "wan21", "wan21": "wan21", "wan2.2": "wan22", "wan22": "wan22", "ltx": "ltx_video",
    "hidream": "hidream", "kolors": "kolors", "stable-cascade": "stable_cascade", "anima": "anima",
}  # fmt: skip
# Families whose modules are those of another, to the last width.
_TWINS: Final[Mapping[str, str]] = {"kolors": "sdxl"}
_TOLD: Final = ("modelspec.architecture", "ss_base_model_version", "architecture", "base_model")


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a file of small changes is."""

    kind: str  # such as "LoRA, rank 16" or "LoKr"
    dialect: str | None
    families: tuple[str, ...]
    evidence: tuple[str, ...]
    parts: Mapping[str, str]  # tensor to component it changes: unet, transformer, text_encoder…


def adapter(specs: Specs, metadata: Mapping[str, str]) -> Adapter | None:
    """Recognise a LoRA or one of its relatives; None if most tensors are something else."""
    modules, kinds, own = _modules(specs)
    if not modules or 2 * own < len(specs):
        return None
    if any(".base_layer." in name for name in specs):
        return None  # PEFT's factors inside a whole model
    dialect = next(
        (d for pattern, d in _DIALECTS if any(pattern.search(name) for name in specs)), None
    )
    fits, evidence = _families(modules, metadata)
    ranks = sorted(
        {spec.shape[0] for spec in modules.values() if spec.shape} if "LoRA" in kinds else ()
    )
    kind = " and ".join(kinds)
    if any("dora_scale" in name or "magnitude_vector" in name for name in specs):
        kind = kind.replace("LoRA", "DoRA")
    if ranks:
        kind += f", rank {ranks[0]}" if len(ranks) == 1 else f", ranks {ranks[0]} to {ranks[-1]}"
    evidence = (
        f"{own} of {len(specs)} tensors are factors of {len(modules)} modules: {kind}",
        *evidence,
    )
    return Adapter(kind, dialect, fits, evidence, {name: _component(name) for name in specs})


def family_said(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the family that metadata names, and the sentence; None if none does."""
    for key in _TOLD:
        text = metadata.get(key, "").lower()
        words = [word for word in _SAID if word in text]
        if words:
            return _SAID[max(words, key=len)], f"metadata {key} says {metadata[key]!r}"
    return None


def _modules(specs: Specs) -> tuple[dict[str, Spec], list[str], int]:
    """Return module to the factor that takes the input, the kinds, and how many tensors belong."""
    modules: dict[str, Spec] = {}
    kinds: dict[str, None] = {}
    own = 0
    for name, spec in specs.items():
        pair = next((p for p in _PAIRS if name.endswith(p)), None)
        if pair:
            own += 1
            down = next((end for end, _ in _PAIRS if name.endswith(end)), None)
            if down and name.removesuffix(down) + dict(_PAIRS)[down] in specs:
                modules[name.removesuffix(down)] = spec
                kinds["LoRA"] = None
            continue
        end = next((end for end in _OTHERS if name.endswith(end)), None)
        if end:
            modules.setdefault(name.removesuffix(end), spec)
            kinds[_OTHERS[end]] = None
        if end or name.endswith(_MORE):
            own += 1
    return modules, list(kinds), own


def _families(
    modules: Mapping[str, Spec], metadata: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    plain = {
        _WRAPPERS.sub("", m).replace(".processor", "").replace(".", "_"): s
        for m, s in modules.items()
    }
    found: dict[str, str] = {}
    for rule in RULES:
        if rule.family in found:
            continue
        hit = next((m for m, s in plain.items() if rule.module.search(m) and _takes(s, rule)), None)
        if hit and not (rule.unless and any(rule.unless.search(m) for m in plain)):
            width = plain[hit].shape[-1] if len(plain[hit].shape) == 2 else plain[hit].shape[1:2]
            found[rule.family] = f"changes {hit}, which takes {width}: {rule.family}"
    if not found:
        found = _by_text(modules)
    said = family_said(metadata)
    if said and (not found or said[0] in found or _TWINS.get(said[0]) in found):
        return (said[0],), (*found.values(), said[1])
    return tuple(found), tuple(found.values())


def _takes(spec: Spec, rule: Rule) -> bool:
    return not rule.takes or (len(spec.shape) >= 2 and spec.shape[1] in rule.takes)


def _by_text(modules: Mapping[str, Spec]) -> dict[str, str]:
    """A file that changes text encoders only."""
    if any(m.startswith(("lora_te2_", "text_encoder_2.")) for m in modules):
        return {"sdxl": "changes two text encoders"}
    for module, spec in modules.items():
        if module.startswith(("lora_te_", "text_encoder.")) and module.endswith("q_proj"):
            wide = spec.shape[1] if len(spec.shape) == 2 else 0
            name = {768: "sd1", 1024: "sd2"}.get(wide)
            return {name: f"changes a text encoder that is {wide} wide"} if name else {}
    return {}


def _component(name: str) -> str:
    for start, component in (
        ("lora_te1_", "text_encoder"), ("lora_te2_", "text_encoder_2"), ("lora_te3_", "text_encoder_3"),
        ("lora_te_", "text_encoder"), ("text_encoder_2.", "text_encoder_2"),
        ("text_encoder.", "text_encoder"), ("lora_transformer_", "transformer"),
        ("transformer.", "transformer"),
    ):  # fmt: skip
        if name.startswith(start):
            return component
    return "unet" if re.search(r"(?:input|output|down|up|mid|middle)_blocks?", name) else "denoiser"
