"""From the tensors of a module to arithmetic: a change by rows, or a change of the whole weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memcard.core.tensors import Spec
from memcard.maths.adapters import (
    NEUMANN_TERMS,
    Dense,
    Hadamard,
    Kronecker,
    butterflied,
    decomposed,
    generalised,
    rotated,
    rotations,
    scaled,
    turned_inputs,
)
from memcard.maths.floats import Array, decode, scratch, stored
from memcard.maths.low_rank import SPARE, Delta, LowRank, SingleLowRank, dense, tucker
from memcard.ops._lora import Factors
from memcard.ops._lora_fit import ADDITIVE, SCALARS, axis, glora_is_old
from memcard.ops._lora_names import Run

_PLACES, _PARTS = -1000, 10  # scratch arrays from here on downwards, so many for each change
_LARGE = 1 << 21  # values; what is larger is not kept


@dataclass(frozen=True, slots=True)
class Change:
    """One LoRA's change of some rows of one tensor.

    Attributes:
        factors: the module.
        strength: of the LoRA in this module.
        alpha: where the file states none; None for the rank.
        specs: of the parts, in their order.
        run: which rows.
        shape: of the module's weight.
        terms: of the series by which PEFT's OFT turns; 0 for Cayley's transform.
        single: a plain product is computed in float32.
    """

    factors: Factors
    strength: float
    alpha: float | None
    specs: tuple[Spec, ...]
    run: Run
    shape: tuple[int, ...]
    terms: int = NEUMANN_TERMS
    single: bool = False

    @property
    def magnitude(self) -> str | None:
        """The part that holds DoRA's magnitudes; None if it is none."""
        return next((p for p, _ in self.factors.parts if p in ("dora", "magnitude")), None)

    @property
    def streams(self) -> bool:
        """Whether rows can be had a few at a time, without the weight."""
        return self.factors.kind in ADDITIVE and self.magnitude is None


class Values(dict[str, Array]):
    """The parts of a module in float64, in the shapes they are stored in; and their dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[str, str] = {}


def read(change: Change, parts: Iterator[memoryview], place: int | None = None) -> Values:
    """Take the parts of a module from the front of ``parts``.

    Args:
        change: whose parts they are.
        parts: as they are stored.
        place: number of the change, for arrays that are good until this thread reads another change
            of that number; None for arrays of its own.
    """
    values = Values()
    for (part, _), spec in zip(change.factors.parts, change.specs, strict=True):
        raw = next(parts)
        if part in ("alpha", "on_input"):
            values[part] = np.frombuffer(raw, SCALARS[spec.dtype.name]).astype(np.float64)
        else:
            narrow = stored(raw, spec.dtype)
            wide = _room(len(values), place, narrow.size)
            decode(narrow, wide)
            values[part] = wide.reshape(spec.shape)
        values.dtypes[part] = spec.dtype.name
    return values


def _room(part: int, place: int | None, size: int) -> Array:
    """Return an array; where that is allowed, one used before, as fresh memory costs more than reading."""
    if place is None or size > _LARGE:
        return np.empty(size)
    return scratch(_PLACES - _PARTS * place - part, size + SPARE, np.float64)[:size]


def delta(change: Change, values: Values, strength: float) -> Delta:
    """Return a change that streams, times a strength."""
    kind, scale = change.factors.kind, strength * ratio(change, values)
    if kind == "LoRA":
        found = _low_rank(values, ("up", "down", "mid"), scale)
        if change.single and "mid" not in values:
            return SingleLowRank(found.up, found.down, found.scale)
        return found
    if kind == "LoHa":
        one, two = (
            _low_rank(values, (f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}"), 1.0) for n in (1, 2)
        )
        return Hadamard(one, two, scale)
    if kind == "LoKr":
        return _kronecker(values, scale)
    only = values[change.factors.parts[0][0]]
    return Dense(only.reshape(change.shape[0], -1), scale)


def ratio(change: Change, values: Values) -> float:
    """Return alpha / rank: 1 without alpha, and where nothing is decomposed."""
    if change.factors.kind not in ("LoRA", "LoHa", "LoKr", "GLoRA", "bias of LoRA"):
        return 1.0
    rank = change.factors.rank
    if rank == 0:  # LoKr of two whole factors
        return 1.0
    alpha = float(rank) if change.alpha is None else change.alpha
    if "alpha" in values:
        alpha = float(values["alpha"][0])
    return alpha / rank


def _low_rank(values: Values, names: tuple[str, str, str], scale: float) -> LowRank:
    """Return the product of two factors, with a Tucker core between them if there is one."""
    up, down = (values[name].reshape(len(values[name]), -1) for name in names[:2])
    if names[2] in values:
        core = values[names[2]]
        core = core.reshape(*core.shape[:2], -1)
        # LyCORIS lays the first factor of a core on its side, except in LoCon.
        up = up if names[2] == "mid" else np.ascontiguousarray(up.T)
        return LowRank(up, tucker(core, down), scale)
    return LowRank(up, down, scale, (values.dtypes[names[0]], values.dtypes[names[1]]))


def _kronecker(values: Values, scale: float) -> Kronecker:
    if "lokr_w1" in values:
        left = values["lokr_w1"]
    else:
        left = _dense(_low_rank(values, ("lokr_w1_a", "lokr_w1_b", ""), 1.0))
    if "lokr_w2" in values:
        right = values["lokr_w2"]
        right = right.reshape(len(right), -1)
    else:
        right = _dense(_low_rank(values, ("lokr_w2_a", "lokr_w2_b", "lokr_t2"), 1.0))
    return Kronecker(left, right, scale)


def _dense(product: LowRank) -> Array:
    return dense(product, len(product.up), product.down.shape[1])


def reshaped(change: Change, values: Values, weight: Array) -> Array:
    """Return the rows of a module's weight after a change that does not stream.

    Args:
        change: what kind it is.
        values: its parts.
        weight: float64, [rows, columns].
    """
    cube = weight.reshape(*change.shape[:2], -1)
    kind, strength = change.factors.kind, change.strength
    if change.magnitude is not None:
        part = change.magnitude
        moved = dense(delta(change, values, 1.0), len(weight), weight.shape[1])
        on_input = axis(part, values[part].shape, change.shape) == 1
        magnitude = values[part].reshape(-1)
        made = decomposed(cube, moved.reshape(cube.shape), magnitude, strength, on_input=on_input)
    elif kind in ("(IA)3", "(IA)3 of PEFT"):
        made = _ia3(change, values, cube)
    elif kind == "GLoRA":
        made = _glora(change, values, cube)
    elif kind == "OFT of PEFT":
        made = turned_inputs(cube, values["oft_r"], change.terms, strength)
    elif kind == "replacement":  # ComfyUI's strength does nothing here, as long as it is not 0
        made = values["set"]
    else:
        made = _turned(change, values, cube)
    return made.reshape(weight.shape)


def _ia3(change: Change, values: Values, cube: Array) -> Array:
    out, wide = change.shape[:2]
    if "ia3_l" in values:  # PEFT multiplies by it, the others add it to 1
        factors, shape = values["ia3_l"].reshape(-1) - 1.0, values["ia3_l"].shape
        on_input = len(factors) != out or (len(shape) == 2 and shape[0] == 1 != out)
    else:
        factors = values["ia3"].reshape(-1)
        on_input = bool(values["on_input"][0]) if out == wide else len(factors) == wide
    return scaled(cube, factors, change.strength, on_input=on_input)


def _glora(change: Change, values: Values, cube: Array) -> Array:
    a1, a2, b1, b2 = (values[p].reshape(len(values[p]), -1) for p in ("a1", "a2", "b1", "b2"))
    shapes = {part: values[part].shape for part in ("a1", "a2", "b1", "b2")}
    if glora_is_old(shapes, change.shape):
        a1, a2, b1, b2 = a2, a1, b2, b1
    added = _dense(LowRank(b1, b2, 1.0))
    scale = change.strength * ratio(change, values)
    return generalised(cube, added.reshape(cube.shape), a1, a2, scale)


def _turned(change: Change, values: Values, cube: Array) -> Array:
    blocks = values["oft_blocks"]
    # The file's alpha is the longest rotation allowed per output, not a scale.
    limit = float(values["alpha"][0]) * change.shape[0] if "alpha" in values else 0.0
    turns = rotations(blocks, limit)
    rescale = values.get("rescale")
    turn = butterflied if change.factors.kind == "BOFT" else rotated
    return turn(cube, turns, rescale, change.strength)
