"""LoRA files and their relatives: which tensors belong together, and what they are.

All of it is data: the ends of names that trainers use, and the kinds that such parts make up.

Sources: kohya sd-scripts networks/lora.py and oft.py, diffusers loaders/lora_conversion_utils.py,
PEFT utils/save_and_load.py, LyCORIS lycoris/modules (all Apache-2.0). ComfyUI's names are facts from
what its files hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from memcard.core.tensors import Specs

# End of a name to the part it is. A longer end is tried before a shorter one.
_ENDS: Final[Mapping[str, str]] = {
    ".lora_up.weight": "up",  # kohya
    ".lora_down.weight": "down",
    ".lora_B.weight": "up",  # PEFT, diffusers since 0.27
    ".lora_A.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora.up.weight": "up",  # diffusers
    ".lora.down.weight": "down",
    "_lora.up.weight": "up",  # diffusers until 0.21, attention processors
    "_lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_B": "up",
    ".lora_A": "down",
    ".lora_mid.weight": "mid",
    ".alpha": "alpha",
    ".lora_B.bias": "bias",
    ".lora_B.default.bias": "bias",
    ".dora_scale": "dora",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    **{f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{part}": f"lokr_{part}"
       for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{f".{part}.weight": part for part in ("a1", "a2", "b1", "b2")},
    ".on_input": "on_input",
    ".ia3_l": "ia3_l",
    ".ia3_l.default": "ia3_l",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    ".oft_blocks": "oft_blocks",
    ".rescale": "rescale",
    ".oft_R.weight": "oft_r",  # PEFT since 0.16
    ".oft_R.default.weight": "oft_r",
    ".set_weight": "set",  # ComfyUI
    ".reshape_weight": "reshape",
}  # fmt: skip
_LONGEST_FIRST: Final = tuple(sorted(_ENDS.items(), key=lambda end: -len(end[0])))


@dataclass(frozen=True, slots=True)
class Kind:
    """One method: the parts it must have, and those it may have."""

    name: str
    needs: tuple[str, ...]
    may: tuple[str, ...] = ()
    leaf: str = "weight"


_MORE: Final = ("alpha", "dora", "magnitude")
KINDS: Final = (
    Kind("LoRA", ("up", "down"), ("mid", *_MORE)),
    Kind("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
         ("hada_t1", "hada_t2", *_MORE)),
    Kind("LoKr", ("lokr_w1", "lokr_w2"), _MORE),
    Kind("LoKr", ("lokr_w1_a", "lokr_w1_b", "lokr_w2"), _MORE),
    Kind("LoKr", ("lokr_w1", "lokr_w2_a", "lokr_w2_b"), ("lokr_t2", *_MORE)),
    Kind("LoKr", ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"), ("lokr_t2", *_MORE)),
    Kind("GLoRA", ("a1", "a2", "b1", "b2"), ("alpha",)),
    Kind("(IA)3", ("ia3", "on_input"), ("alpha",)),
    Kind("(IA)3 of PEFT", ("ia3_l",)),
    Kind("full difference", ("diff",), ("alpha", "dora", "magnitude")),
    Kind("OFT", ("oft_blocks",), ("alpha", "rescale")),
    Kind("OFT of PEFT", ("oft_r",)),
    Kind("replacement", ("set",)),
    Kind("norm", ("w_norm",), ("alpha",)),
)  # fmt: skip
# Parts that change the bias of the same module, whatever happens to its weight.
_BIASES: Final = (
    Kind("bias of LoRA", ("bias",), leaf="bias"),
    Kind("bias", ("diff_b",), leaf="bias"),
    Kind("norm", ("b_norm",), leaf="bias"),
)
# Which part's length is the rank, and along which axis; the first that is there counts.
_RANKS: Final = (("down", 0), ("hada_w1_b", 0), ("lokr_w1_b", 0), ("lokr_w2_b", 0))


@dataclass(frozen=True, slots=True)
class Factors:
    """The tensors of one module of a LoRA file, by name.

    Attributes:
        module: its name in the file.
        kind: name of the method.
        leaf: what of the module is changed, ``weight`` or ``bias``.
        parts: part to the name of its tensor, in the order of the kind.
        rank: 0 where there is none.
    """

    module: str
    kind: str
    leaf: str
    parts: tuple[tuple[str, str], ...]
    rank: int = 0

    def __getitem__(self, part: str) -> str:
        """Return the name of the tensor that is a part.

        Raises:
            KeyError: there is none.
        """
        return dict(self.parts)[part]

    def get(self, part: str) -> str | None:
        """Return the name of the tensor that is a part; None if there is none."""
        return dict(self.parts).get(part)


def factors(specs: Specs) -> tuple[list[Factors], list[str]]:
    """Group a LoRA file into modules.

    Returns:
        The changes of weights and biases, in file order; then the tensors that belong to no kind
        there is. A module with such a tensor is not among the modules.
    """
    modules, strays = _modules(specs)
    found: list[Factors] = []
    for module, parts in modules.items():
        parts.pop("reshape", None)  # says only what the factors' shapes say, too
        made = list(_changes(module, parts, specs))
        used = {part for f in made for part, _ in f.parts}
        if used == set(parts):
            found += made
        else:
            strays += parts.values()
    odd = {stem for name in strays for stem in _stems(name)}
    left = [f for f in found if f.module in odd]
    strays += [name for f in left for _, name in f.parts]
    return [f for f in found if f.module not in odd], list(dict.fromkeys(strays))


def _modules(specs: Specs) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return module to part to name, and the names that end like no part."""
    modules: dict[str, dict[str, str]] = {}
    strays = []
    for name in specs:
        module, part = _split(name, specs)
        if part and part not in modules.setdefault(module, {}):
            modules[module][part] = name
        else:
            strays.append(name)
    return modules, strays


def _split(name: str, specs: Specs) -> tuple[str, str]:
    for end, part in _LONGEST_FIRST:
        if name.endswith(end):
            return name.removesuffix(end), part
    module = name.removesuffix(".weight")
    if module != name and f"{module}.on_input" in specs:
        return module, "ia3"  # LyCORIS gives it no name of its own
    return name, ""


def _changes(module: str, parts: Mapping[str, str], specs: Specs) -> Iterator[Factors]:
    """Yield what the parts of one module make up: at most one change of the weight, one of the bias."""
    biases = {kind.needs[0] for kind in _BIASES} & set(parts)
    rest = {part for part in parts if part not in biases}
    for kind in KINDS:
        if set(kind.needs) <= rest <= {*kind.needs, *kind.may}:
            yield _group(module, kind, parts, specs)
            break
    if len(biases) == 1:
        yield from (_group(module, k, parts, specs) for k in _BIASES if k.needs[0] in biases)


def _group(module: str, kind: Kind, parts: Mapping[str, str], specs: Specs) -> Factors:
    order = [part for part in (*kind.needs, *kind.may) if part in parts]
    if kind.name == "bias of LoRA" and "alpha" in parts:
        order.append("alpha")
    rank = 0
    for part, axis in _RANKS:
        name = parts.get(part)
        if name and len(specs[name].shape) > axis:
            rank = specs[name].shape[axis]
            break
    if kind.name == "GLoRA" and all(len(specs[parts[p]].shape) > 1 for p in ("a1", "a2")):
        rank = min(*specs[parts["a1"]].shape[:2], *specs[parts["a2"]].shape[:2])
    name = "BOFT" if kind.name == "OFT" and len(specs[parts["oft_blocks"]].shape) > 3 else kind.name
    return Factors(module, name, kind.leaf, tuple((p, parts[p]) for p in order), rank)


def _stems(name: str) -> list[str]:
    """List all leading parts of a dotted name, longest first."""
    words = name.split(".")
    return [".".join(words[:n]) for n in range(len(words) - 1, 0, -1)]
