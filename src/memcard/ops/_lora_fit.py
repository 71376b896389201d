"""Pairing the modules of a LoRA with rows of a base, and saying why where they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np

from memcard.core.tensors import Specs
from memcard.maths.adapters import triangle
from memcard.maths.floats import STORED, can_compute
from memcard.ops._lora import Factors, factors
from memcard.ops._lora_names import Place, Run, find

# What one number such as alpha may be stored as.
SCALARS: Final[Mapping[str, Any]] = {
    **STORED,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
}
# Kinds whose rows are a sum of the weight's and something that does not depend on it.
ADDITIVE: Final = ("LoRA", "LoHa", "LoKr", "full difference", "norm", "bias", "bias of LoRA")
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
_SCALAR_PARTS: Final = ("alpha", "on_input")


@dataclass(frozen=True, slots=True)
class Fit:
    """A module of a LoRA, and one run of rows of the base it changes."""

    factors: Factors
    run: Run
    shape: tuple[int, ...]  # of the module's weight


def match(
    lora: Specs, base: Specs, names: Mapping[str, Place]
) -> tuple[dict[str, list[Fit]], list[str]]:
    """Pair the modules of a LoRA with tensors of a base.

    Args:
        lora: the LoRA file.
        base: the base.
        names: ``aliases(base)``.

    Returns:
        Tensor of the base to the modules that change it; then one sentence for each misfit.
    """
    modules, strays = factors(lora)
    matched: dict[str, list[Fit]] = {}
    faults = [f"{name!r}: not a part of any kind of LoRA that memcard knows" for name in strays]
    for f in modules:
        place = find(f.module, f.leaf, names)
        if place is None:
            what = "layer" if f.leaf == "weight" else "bias"
            faults.append(f"{f.module!r}: no such {what} in the base")
            continue
        fault = shape_fault(f, lora, place) or dtype_fault(f, lora) or _whole_fault(f, place)
        if fault:
            faults.append(fault)
            continue
        for run in place.runs:
            matched.setdefault(run.tensor, []).append(Fit(f, run, place.shape))
    return matched, faults


def shape_fault(f: Factors, lora: Specs, place: Place) -> str:
    """Say why the factors cannot change a weight; "" if they can."""
    shapes = {part: lora[name].shape for part, name in f.parts if part not in _SCALAR_PARTS}
    shown = ", ".join(f"{part} {list(shape)}" for part, shape in shapes.items())
    weight = place.shape
    fits = _CHECKS[f.kind]
    if any(0 in shape for shape in shapes.values()) or 0 in weight or not fits(shapes, weight):
        return f"{f.module!r}: {shown} do not make the {f.leaf}'s {list(weight)}"
    odd = next(
        (p for p in ("dora", "magnitude") if p in shapes and axis(p, shapes[p], weight) < 0), ""
    )
    if odd:
        return (
            f"{f.module!r}: {odd} {list(shapes[odd])} is neither one number per output nor one per "
            f"input of the weight's {list(weight)}"
        )
    return ""


def axis(part: str, shape: tuple[int, ...], weight: tuple[int, ...]) -> int:
    """Tell whether DoRA's magnitudes belong to the outputs (0) or the inputs (1); -1 for neither.

    PEFT's are one per output, in any shape; ``dora_scale`` says it by its shape: [out, 1] or [1, in].
    """
    count = prod(shape)
    if part == "magnitude" or len(shape) == 1:
        return 0 if count == weight[0] else -1
    if len(shape) < 2 or len(weight) < 2:
        return -1
    if shape[0] == weight[0] == count:
        return 0
    return 1 if shape[1] == weight[1] == count else -1


def dtype_fault(f: Factors, lora: Specs) -> str:
    """Say which tensor of a module cannot be computed with; "" if none."""
    for part, name in f.parts:
        spec = lora[name]
        if part in _SCALAR_PARTS:
            if spec.elements != 1 or spec.dtype.name not in SCALARS:
                return f"{name!r}: {spec} is not one number"
        elif not can_compute(spec.dtype):
            return f"{name!r}: no arithmetic on {spec.dtype}"
    return ""


def _whole_fault(f: Factors, place: Place) -> str:
    plain = f.kind in ADDITIVE and not f.get("dora") and not f.get("magnitude")
    if plain or len(place.runs) == 1:
        return ""
    tensors = ", ".join(dict.fromkeys(repr(run.tensor) for run in place.runs))
    kind = f.kind if f.kind not in ADDITIVE else "DoRA"
    return (
        f"{f.module!r}: {kind} works on the weight as a whole, and in this base it is split: "
        f"{tensors}. Convert the base to the other dialect (memcard convert --dialect)"
    )


def own_shape(f: Factors, lora: Specs) -> tuple[int, ...] | None:
    """Return the shape of the weight a module is for, from its factors alone.

    None where they do not tell, or do not say what they change without the weight. Kernels of LoHa
    and LoKr whose factors are matrices count as wide inputs.
    """
    shapes = {part: lora[name].shape for part, name in f.parts}
    first = shapes[f.parts[0][0]]
    if f.kind not in ADDITIVE or any(not s for p, s in shapes.items() if p not in _SCALAR_PARTS):
        return None
    if f.kind == "LoRA" and len(shapes["down"]) > 1:
        down, mid = shapes["down"], shapes.get("mid")
        return (first[0], *down[1:]) if mid is None else (first[0], down[1], *mid[2:])
    if f.kind == "LoHa" and len(first) == len(shapes["hada_w1_b"]) == 2:
        core = shapes.get("hada_t1")
        rows = first[0] if core is None else first[1]
        return rows, shapes["hada_w1_b"][1], *(core or ())[2:]
    if f.kind == "LoKr":
        return _lokr_shape(shapes)
    return first if f.kind not in ("LoRA", "LoHa") else None


def _lokr_shape(s: Shapes) -> tuple[int, ...] | None:
    if any(len(shape) < 2 for part, shape in s.items() if part not in _SCALAR_PARTS):
        return None
    left = s.get("lokr_w1") or (s["lokr_w1_a"][0], s["lokr_w1_b"][1])
    if "lokr_w2" in s:
        right = s["lokr_w2"]
    elif "lokr_t2" in s:
        right = (s["lokr_w2_a"][1], s["lokr_w2_b"][1], *s["lokr_t2"][2:])
    else:
        right = (s["lokr_w2_a"][0], *s["lokr_w2_b"][1:])
    return (left[0] * right[0], left[1] * right[1], *right[2:])


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop trailing ones: a 1x1 convolution is a linear layer."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _lora(s: Shapes, weight: tuple[int, ...]) -> bool:
    return _product(s["up"], s.get("mid"), s["down"], weight)


def _product(
    up: tuple[int, ...], mid: tuple[int, ...] | None, down: tuple[int, ...], made: tuple[int, ...]
) -> bool:
    """Tell whether up, perhaps a Tucker core, and down make a tensor of a shape."""
    if len(up) < 2 or len(down) < 2 or len(made) < 2 or up[0] != made[0] or _flat(up[2:]):
        return False
    if mid is None:
        spread = up[1] == down[0] and _flat(down[1:]) == _flat(made[1:])
        # LyCORIS stores a convolution's factor as a matrix, [rank, in * kernel].
        return spread or (up[1] == down[0] and len(down) == 2 and down[1] == prod(made[1:]))
    core = len(mid) >= 2 and mid[:2] == (up[1], down[0]) and not _flat(down[2:])
    return core and _flat((down[1], *mid[2:])) == _flat(made[1:])


def _pair(s: Shapes, names: tuple[str, str, str], made: tuple[int, ...]) -> bool:
    """Check factors of LoHa or LoKr: with a core, the first one lies on its side."""
    a, b, core = s[names[0]], s[names[1]], s.get(names[2])
    return _product(a if core is None else a[1::-1], core, b, made)


def _loha(s: Shapes, weight: tuple[int, ...]) -> bool:
    sides = (f"hada_w{n}_a" for n in (1, 2))
    if ("hada_t1" in s) != ("hada_t2" in s) or any(len(s[a]) != 2 for a in sides):
        return False
    return all(_pair(s, (f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}"), weight) for n in (1, 2))


def _lokr(s: Shapes, weight: tuple[int, ...]) -> bool:
    if any(len(shape) < 2 for shape in s.values()) or len(weight) < 2:
        return False
    left = s.get("lokr_w1") or (s["lokr_w1_a"][0], s["lokr_w1_b"][1])
    if len(left) != 2 or weight[0] % left[0] or weight[1] % left[1]:
        return False
    if "lokr_w1_a" in s and not _product(s["lokr_w1_a"], None, s["lokr_w1_b"], left):
        return False
    right = weight[0] // left[0], weight[1] // left[1], *weight[2:]
    if "lokr_w2" in s:
        return _flat(s["lokr_w2"]) == _flat(right)
    return _pair(s, ("lokr_w2_a", "lokr_w2_b", "lokr_t2"), right)


def _glora(s: Shapes, weight: tuple[int, ...]) -> bool:
    if any(len(shape) < 2 for shape in s.values()) or len(weight) < 2:
        return False
    if glora_is_old(s, weight):
        flat = len(weight) == 2 or prod(weight[2:]) == 1
        inward = s["a1"][0] == s["a2"][1] and s["a1"][1] == s["a2"][0] == weight[1]
        return flat and inward and _product(s["b2"], None, s["b1"], weight)
    inward = s["a1"][1] == s["a2"][0] and s["a1"][0] == s["a2"][1] == weight[1]
    return inward and _product(s["b1"], None, s["b2"], weight)


def glora_is_old(s: Shapes, weight: tuple[int, ...]) -> bool:
    """Tell LyCORIS' first order of GLoRA's factors, W a2 a1 + b2 b1, from today's W a1 a2 + b1 b2."""
    rank = min(s["a1"][:2])
    new = s["a1"][0] == weight[1] and s["b1"][0] == weight[0] and s["b1"][1] == rank
    return not new and s["b2"][0] == weight[0]


def _ia3(s: Shapes, weight: tuple[int, ...]) -> bool:
    return prod(next(iter(s.values()))) in weight[:2] and len(weight) >= 2


def _same(part: str) -> Callable[[Shapes, tuple[int, ...]], bool]:
    return lambda s, weight: _flat(s[part]) == _flat(weight)


def _oft(s: Shapes, weight: tuple[int, ...]) -> bool:
    blocks = s["oft_blocks"]
    if len(weight) < 2 or len(blocks) not in (3, 4) or blocks[-1] != blocks[-2]:
        return False
    stages = blocks[0] if len(blocks) == 4 else 0
    spread = stages == 0 or (
        blocks[-1] % 2 == 0 and weight[0] % (2 ** (stages - 1) * blocks[-1]) == 0
    )
    whole = "rescale" not in s or prod(s["rescale"]) == weight[0]
    return blocks[-3] * blocks[-1] == weight[0] and spread and whole


def _oft_of_peft(s: Shapes, weight: tuple[int, ...]) -> bool:
    """Check rotations of the inputs: [blocks, n (n - 1) / 2], or one for all blocks."""
    turns = s["oft_r"]
    if len(turns) != 2 or len(weight) < 2:
        return False
    columns, size = prod(weight[1:]), triangle(turns[1])
    return size > 0 and (turns[0] * size == columns or (turns[0] == 1 and columns % size == 0))


_CHECKS: Final[Mapping[str, Callable[[Shapes, tuple[int, ...]], bool]]] = {
    "LoRA": _lora,
    "LoHa": _loha,
    "LoKr": _lokr,
    "GLoRA": _glora,
    "(IA)3": _ia3,
    "(IA)3 of PEFT": _ia3,
    "full difference": _same("diff"),
    "OFT": _oft,
    "BOFT": _oft,
    "OFT of PEFT": _oft_of_peft,
    "replacement": _same("set"),
    "norm": lambda s, weight: _flat(next(iter(s.values()))) == _flat(weight),
    "bias of LoRA": _same("bias"),
    "bias": _same("diff_b"),
}
