"""LoRA files: which factors belong together, and which tensor of a base they change.

Names are the only thing the dialects differ in. All of them are brought to one form, words joined
by ``_`` with the component in front: ``unet_down_blocks_0_attentions_0_proj_in``.

Sources: kohya sd-scripts networks/lora.py, diffusers loaders/lora_conversion_utils.py, PEFT
utils/save_and_load.py (all Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memcard.core.architecture import Target
from memcard.core.tensors import Spec, Specs

# Suffix of the factor that makes the output, and of the one that takes the input.
_PAIRS = (
    (".lora_up.weight", ".lora_down.weight"),  # kohya
    (".lora_B.weight", ".lora_A.weight"),  # PEFT, diffusers since 0.27
    (".lora_B.default.weight", ".lora_A.default.weight"),
    (".lora.up.weight", ".lora.down.weight"),  # diffusers
    ("_lora.up.weight", "_lora.down.weight"),  # diffusers until 0.21, attention processors
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B", ".lora_A"),
)
_PREFIXES = (
    ("lora_unet_", "unet_"),
    ("lora_te1_", "text_encoder_"),
    ("lora_te2_", "text_encoder_2_"),
    ("lora_te_", "text_encoder_"),
    ("lycoris_", "unet_"),
    ("diffusion_model.", "unet_"),
    ("model.diffusion_model.", "unet_"),
    ("cond_stage_model.transformer.", "text_encoder_"),
    ("first_stage_model.", "vae_"),
)
_WRAPPERS = ("base_model.model.", "unet.base_model.model.", "text_encoder.base_model.model.")


@dataclass(frozen=True, slots=True)
class Factors:
    """The tensors of one module of a LoRA file, by name."""

    module: str
    up: str
    down: str
    mid: str | None
    alpha: str | None
    rank: int


def factors(specs: Specs) -> tuple[dict[str, Factors], list[str]]:
    """Group a LoRA file into modules.

    Returns:
        Modules by their name in the file; then the tensors that belong to no plain LoRA (LoHa,
        LoKr, DoRA scales, …). A module with such a tensor is not among the modules.
    """
    found: dict[str, Factors] = {}
    for name in specs:
        for up, down in _PAIRS:
            module = name.removesuffix(up)
            if module != name and module not in found and module + down in specs:
                found[module] = _group(module, name, module + down, specs)
                break
    used = {n for f in found.values() for n in (f.up, f.down, f.mid, f.alpha)}
    strays = [name for name in specs if name not in used]
    odd = {stem for name in strays for stem in _stems(name) if stem in found}
    return {m: f for m, f in found.items() if m not in odd}, strays


def _group(module: str, up: str, down: str, specs: Specs) -> Factors:
    mid, alpha = f"{module}.lora_mid.weight", f"{module}.alpha"
    shape = specs[down].shape
    return Factors(
        module,
        up,
        down,
        mid if mid in specs else None,
        alpha if alpha in specs else None,
        shape[0] if shape else 0,
    )


def _stems(name: str) -> list[str]:
    """List all leading parts of a dotted name, longest first."""
    words = name.split(".")
    return [".".join(words[:n]) for n in range(len(words) - 1, 0, -1)]


def aliases(base: Specs) -> dict[str, str]:
    """Map every name a LoRA may use to the tensor of the base it means.

    Names that would mean two tensors are left out: better to refuse than to guess.
    """
    targets = _targets(base)
    exact: dict[str, str] = {}
    loose: dict[str, dict[str, None]] = {}
    for name in base:
        if not name.endswith(".weight") or len(base[name].shape) < 2:
            continue
        keys = [canonical(name.removesuffix(".weight"))]
        if name in targets:
            target = targets[name]
            keys.append(canonical(f"{target.component}.{target.key.removesuffix('.weight')}"))
        exact |= dict.fromkeys(keys, name)
        for key in keys:
            for other in _also(key, whole=not targets):
                loose.setdefault(other, {})[name] = None
    single = {alias: next(iter(names)) for alias, names in loose.items() if len(names) == 1}
    return single | exact


def _also(key: str, *, whole: bool) -> list[str]:
    """List less exact names of a layer: without its component, or with one if it states none."""
    components = ("unet_", "text_encoder_")
    if key.startswith(components):
        return [key.removeprefix(c) for c in components if key.startswith(c)]
    return [component + key for component in components] if whole else []


def _targets(base: Specs) -> Mapping[str, Target]:
    from memcard.architectures import ARCHITECTURES, detect

    found = detect(base)
    return ARCHITECTURES[found[0]].targets(base) if found else {}


def canonical(module: str) -> str:
    """Return the one form of a module's name."""
    for wrapper in _WRAPPERS:
        if module.startswith(wrapper):
            module = wrapper.removesuffix("base_model.model.") + module.removeprefix(wrapper)
            break
    module = module.replace(".processor.", ".")
    for prefix, component in _PREFIXES:
        if module.startswith(prefix):
            return _short(component + _words(module.removeprefix(prefix)))
    return _short(_words(module))


def find(module: str, names: Mapping[str, str]) -> str | None:
    """Return the tensor a module of a LoRA means; None if there is none."""
    key = canonical(module)
    # Old attention processors call the output projection to_out, the model to_out.0.
    return names.get(key) or names.get(f"{key}_0")


def shape_fault(f: Factors, lora: Specs, weight: Spec) -> str:
    """Say why the factors cannot change a weight; "" if they can."""
    up, down = lora[f.up].shape, lora[f.down].shape
    if len(up) < 2 or len(down) < 2 or len(weight.shape) < 2 or 0 in (*up, *down):
        return f"{f.module!r}: up {list(up)}, down {list(down)}, weight {list(weight.shape)}"
    fits = up[0] == weight.shape[0] and _flat(up[2:]) == ()
    if f.mid is None:
        fits = fits and up[1] == down[0] and _flat(down[1:]) == _flat(weight.shape[1:])
        middle = ""
    else:
        mid = lora[f.mid].shape
        fits = fits and len(mid) >= 2 and mid[:2] == (up[1], down[0]) and _flat(down[2:]) == ()
        fits = fits and _flat((down[1], *mid[2:])) == _flat(weight.shape[1:])
        middle = f", mid {list(mid)}"
    if fits:
        return ""
    return (
        f"{f.module!r}: up {list(up)}{middle}, down {list(down)} "
        f"do not make the weight's {list(weight.shape)}"
    )


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop trailing ones: a 1x1 convolution is a linear layer."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _short(key: str) -> str:
    """Drop the level that transformers 5 removed from CLIP's module names."""
    return key.replace("text_encoder_text_model_", "text_encoder_", 1)


def _words(name: str) -> str:
    return name.replace(".", "_")
