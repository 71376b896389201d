"""The tensors of a converted LoRA: bytes of the source under other names, rows of them, or zeros.

No value is computed, with one exception that must be asked for: alpha folded into a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import DTYPES, Spec
from memcard.jobs._lora_book import Name, Target
from memcard.jobs._lora_layout import Layout
from memcard.maths.floats import STORED, Array, encode, stored
from memcard.ops._lora import Factors
from memcard.ops._lora_fit import SCALARS, axis

Bytes: TypeAlias = Callable[[], bytes | memoryview]

# What each dialect calls a part. What is missing here has no name there.
_KOHYA: Final[Mapping[str, str]] = {
    "up": "lora_up.weight", "down": "lora_down.weight", "mid": "lora_mid.weight", "alpha": "alpha",
    "dora": "dora_scale", "magnitude": "dora_scale", "ia3": "weight",
    **{part: f"{part}.weight" for part in ("a1", "a2", "b1", "b2")},
    **{part: part for part in ("on_input", "diff", "diff_b", "w_norm", "b_norm", "oft_blocks", "rescale")},
    **{f"hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{part}": f"lokr_{part}"
       for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}  # fmt: skip
_PEFT: Final[Mapping[str, str]] = {
    "up": "lora_B.weight", "down": "lora_A.weight", "bias": "lora_B.bias",
    "dora": "lora_magnitude_vector", "magnitude": "lora_magnitude_vector",
}  # fmt: skip
NAMES: Final[Mapping[Target, Mapping[str, str]]] = {
    "kohya": _KOHYA,
    "peft": _PEFT,
    "diffusers": _PEFT,
}


@dataclass(frozen=True, slots=True)
class Module:
    """What a file does to one module.

    Attributes:
        name: what it is.
        lora: the file.
        factors: of its weight, of its bias.
        shape: of its weight; None if the factors do not tell.
        alpha: that counts; None if none is stated anywhere.
    """

    name: Name
    lora: Checkpoint
    factors: tuple[Factors, ...]
    shape: tuple[int, ...] | None
    alpha: float | None

    @property
    def main(self) -> Factors:
        """The change of the weight, or the only one there is."""
        return self.factors[0]

    @property
    def parts(self) -> dict[str, str]:
        """Part to the name of its tensor."""
        return {part: name for f in self.factors for part, name in f.parts}

    def spec(self, part: str) -> Spec:
        """Return the spec of a part."""
        return self.lora.specs[self.parts[part]]


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the result, read when it is written."""

    spec: Spec
    read: Bytes


@dataclass(slots=True)
class Made:
    """A module of the result.

    Attributes:
        name: what it is.
        parts: by their names in the source's table.
        rank: 0 where there is none.
        alpha: None if none is stated.
    """

    name: Name
    parts: dict[str, Part] = field(default_factory=dict)
    rank: int = 0
    alpha: float | None = None


def inexpressible(module: Module, target: Target) -> str:
    """Say why a dialect has no words for a module; "" if it has."""
    odd = [part for part in module.parts if part not in NAMES[target] and part != "alpha"]
    kinds = ", ".join(dict.fromkeys(f.kind for f in module.factors))
    if odd:
        return f"{module.main.module!r}: {kinds} ({', '.join(odd)}) has no name in {target}'s files"
    if target != "kohya" and "dora" in module.parts and not _for_outputs(module):
        return (
            f"{module.main.module!r}: DoRA with one magnitude for each input; PEFT and diffusers have "
            "one for each output"
        )
    return ""


def _for_outputs(module: Module) -> bool:
    return module.shape is not None and axis("dora", module.spec("dora").shape, module.shape) == 0


def whole(name: Name, module: Module, target: Target) -> Made:
    """Return a module as it is, under other names."""
    made = Made(name, {}, module.main.rank, module.alpha)
    for part, tensor in module.parts.items():
        if part == "alpha" and target != "kohya":
            continue
        spec = module.spec(part)
        if part in ("dora", "magnitude"):
            spec = Spec(spec.dtype, _magnitudes(module, spec, target))
        made.parts[part] = Part(spec, lambda t=tensor: module.lora.read(t))  # type: ignore[misc]
    return made


def _magnitudes(module: Module, spec: Spec, target: Target) -> tuple[int, ...]:
    shape, count = module.shape or (), spec.elements
    if target == "kohya":  # PEFT's are one for each output
        return spec.shape if "dora" in module.parts else (count, *(1,) * max(1, len(shape) - 1))
    return (count,) if len(shape) == 2 else (1, count, *(1,) * (len(shape) - 2))


def composed(
    layout: Layout, modules: Mapping[Name, Module], target: Target
) -> tuple[Made | None, str]:
    """Return a module made of rows of others, or why there can be none."""
    there = [modules[rows.name] for rows in layout.rows if rows.name is not None]
    fault = _uneven(layout, there)
    if fault:
        return None, f"{layout.name.bare!r}: {fault}"
    shared = len({_down(module) for module in there}) == 1
    made = _stacked(layout, modules, there[0]) if shared else _side_by_side(layout, modules, there)
    part = _magnitude(there[0])
    if part:
        spec = there[0].spec(part)
        rows = _rows(layout, modules, part, Spec(spec.dtype, (spec.elements, 1)))
        count = rows.spec.shape[0]
        shape = (count, 1) if target == "kohya" else (count,)
        made.parts[part] = Part(Spec(spec.dtype, shape), rows.read)
    return made, ""


def _uneven(layout: Layout, there: Sequence[Module]) -> str:
    shown = ", ".join(dict.fromkeys(repr(module.main.module) for module in there))
    plain = all(set(m.parts) <= {"up", "down", "alpha", "dora", "magnitude"} for m in there)
    if not plain or any(len(m.spec("up").shape) != 2 for m in there):
        return f"would be put together of {shown}, which only plain LoRA of linear layers can be"
    if len({m.spec(part).dtype for m in there for part in ("up", "down")}) > 1:
        return f"would be put together of {shown}, which have different dtypes"
    decomposed = [m for m in there if _magnitude(m)]
    if decomposed and len(decomposed) < len(layout.rows):
        return f"would be put together of {shown} and parts without DoRA's magnitudes"
    if any(
        m.spec(p).elements != m.spec("up").shape[0] for m in decomposed for p in [_magnitude(m)]
    ):
        return f"would be put together of {shown}, which have DoRA's magnitudes for their inputs"
    ratios = {1.0 if m.alpha is None else m.alpha / m.main.rank for m in there}
    if len(ratios) > 1:
        return (
            f"would be put together of {shown}, whose alpha / rank differ; fold alpha into the weights "
            "first (--to diffusers --fold-alpha)"
        )
    return ""


def _magnitude(module: Module) -> str:
    return next((part for part in ("dora", "magnitude") if part in module.parts), "")


def _down(module: Module) -> tuple[tuple[int, ...], bytes]:
    return module.spec("down").shape, bytes(module.lora.read(module.parts["down"]))


def _stacked(layout: Layout, modules: Mapping[Name, Module], first: Module) -> Made:
    """Rows of ``up`` of parts that share ``down``."""
    made = Made(layout.name, {}, first.main.rank, first.alpha)
    made.parts["up"] = _rows(layout, modules, "up", first.spec("up"))
    down = first.parts["down"]
    made.parts["down"] = Part(first.spec("down"), lambda: first.lora.read(down))
    if "alpha" in first.parts:
        made.parts["alpha"] = Part(
            first.spec("alpha"), lambda: first.lora.read(first.parts["alpha"])
        )
    return made


def _side_by_side(layout: Layout, modules: Mapping[Name, Module], there: Sequence[Module]) -> Made:
    """Parts with factors of their own: ranks add up, zeros fill the rest of ``up``."""
    first, ranks = there[0], [module.main.rank for module in there]
    total, dtype = sum(ranks), first.spec("up").dtype
    ratio = None if first.alpha is None else first.alpha / first.main.rank
    made = Made(layout.name, {}, total, None if ratio is None else ratio * total)

    def up() -> bytes:
        pieces, at = list[Array](), 0
        for rows in layout.rows:
            piece = np.zeros((rows.rows, total, dtype.block_bytes), np.uint8)
            if rows.name is not None:
                module = modules[rows.name]
                rank = module.main.rank
                values = _matrix(module, "up")[rows.at : rows.at + rows.rows]
                piece[:, at : at + rank] = values.reshape(rows.rows, rank, -1)
                at += rank
            pieces.append(piece)
        return np.concatenate(pieces).tobytes()

    count = sum(rows.rows for rows in layout.rows)
    made.parts["up"] = Part(Spec(dtype, (count, total)), up)
    made.parts["down"] = Part(
        Spec(dtype, (total, *first.spec("down").shape[1:])),
        lambda: b"".join(bytes(m.lora.read(m.parts["down"])) for m in there),
    )
    return made


def _rows(layout: Layout, modules: Mapping[Name, Module], part: str, like: Spec) -> Part:
    """Return rows of one part of several modules, one after another."""
    width = like.nbytes // like.shape[0]

    def read() -> bytes:
        pieces = list[bytes]()
        for rows in layout.rows:
            if rows.name is None:
                pieces.append(bytes(rows.rows * width))
                continue
            values = _matrix(modules[rows.name], part, width)
            pieces.append(values[rows.at : rows.at + rows.rows].tobytes())
        return b"".join(pieces)

    count = sum(rows.rows for rows in layout.rows)
    return Part(Spec(like.dtype, (count, *like.shape[1:])), read)


def _matrix(module: Module, part: str, width: int = 0) -> Array:
    """Return a part as rows of bytes."""
    spec = module.spec(part)
    raw = np.frombuffer(module.lora.read(module.parts[part]), np.uint8)
    return raw.reshape(-1, width or spec.nbytes // spec.shape[0])


def scalar(value: float, dtype: str) -> Part:
    """Return one number in a dtype, or in F32 or F64 if that cannot hold it."""
    names = [name for name in (dtype, "F32") if name in SCALARS and _held(value, name) == value]
    name = names[0] if names else "F64"
    made = np.array([value]).astype(SCALARS[name])
    return Part(Spec(DTYPES[name], ()), made.tobytes)


def _held(value: float, dtype: str) -> float:
    with np.errstate(all="ignore"):
        return float(np.array([value]).astype(SCALARS[dtype]).astype(np.float64)[0])


def folded(factor: Part, ratio: float) -> tuple[Part, int]:
    """Return a factor times ``ratio`` in the same dtype, and how many values had to be rounded."""
    values = stored(memoryview(factor.read()), factor.spec.dtype).astype(np.float64) * ratio
    out = np.empty(values.size, STORED[factor.spec.dtype.name])
    with np.errstate(all="ignore"):
        encode(values.copy(), out)
        odd = int(np.count_nonzero(out.astype(np.float64) != values))
    return Part(factor.spec, out.tobytes), odd


def tensors(made: Made, module: str, target: Target) -> Iterator[tuple[str, Part]]:
    """Yield the names in the file and the tensors of a module."""
    for part, content in made.parts.items():
        yield f"{module}.{NAMES[target][part]}", content
