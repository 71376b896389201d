"""Bake LoRAs into a base: W' = W + strength (alpha / rank) up @ down, for each LoRA in turn.

Plain LoRA on linear layers and convolutions, and LoCon with a Tucker core (``lora_mid``). Computed
in float64 in a fixed order (see ``maths/low_rank.py``) and rounded once.

Source: Hu et al. 2021, "LoRA", arXiv:2106.09685; LoCon: LyCORIS, arXiv:2309.14859.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, cast

import numpy as np

from memcard.core.tensors import Spec, Specs
from memcard.errors import UsageError
from memcard.maths.floats import STORED, Array, can_compute, stored
from memcard.maths.low_rank import LowRank, add_low_rank, adds_exactly, tucker
from memcard.ops._lora import Factors, aliases, factors, find, shape_fault
from memcard.ops._pairs import narrow_faults, refuse
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param

_SCALARS: Mapping[str, Any] = {**STORED, "I64": np.dtype("<i8"), "I32": np.dtype("<i4")}


@dataclass(frozen=True, slots=True)
class _Change:
    """One LoRA's change of one tensor: specs of its factors in the order they are read."""

    strength: float
    rank: int
    alpha: float | None
    up: Spec
    down: Spec
    mid: Spec | None
    alpha_spec: Spec | None


class LoraBake:
    """Inputs: base, LoRA, LoRA, … Tensors no LoRA touches are copied."""

    title = "Bake LoRAs into a base"
    source = "arXiv:2106.09685"
    params: ClassVar[Mapping[str, Param]] = {
        "strengths": Param("floats", (), "one number per LoRA; none: all 1"),
        "alphas": Param(
            "floats", (), "alpha of each LoRA whose file states none; null or none: its rank"
        ),
        "skip_unmatched": Param("bool", False, "leave out what does not fit instead of refusing"),
    }
    arity = (2, None)

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Find the tensor each module of each LoRA changes."""
        base, *loras = inputs
        strengths = _per_lora("strengths", params, len(loras), 1.0)
        alphas = _per_lora("alphas", params, len(loras), None)
        names = aliases(base)
        changes: dict[str, list[tuple[int, Factors]]] = {}
        faults: list[str] = []
        for index, lora in enumerate(loras, 1):
            matched, unmatched = match(lora, base, names)
            for name, found in matched.items():
                changes.setdefault(name, []).extend((index, f) for f in found)
            faults += [f"input {index + 1}: {fault}" for fault in unmatched]
            if not matched:
                faults.append(f"input {index + 1}: nothing in it fits this base")
        if not params["skip_unmatched"] or not changes:
            refuse(
                "not everything in the LoRA fits this base",
                faults,
                "Is it for another base model? To leave these out: skip_unmatched.",
            )
        faults = [f for name in changes for f in narrow_faults(name, [base[name]])]
        refuse("cannot compute", faults, "Cast the base first.")
        return [
            _step(name, spec, changes.get(name, ()), loras, strengths, alphas)
            for name, spec in base.items()
        ]

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Change one chunk."""
        dtype = step.spec.dtype
        columns = step.spec.elements // step.spec.shape[0]
        rest = iter(parts[1:])
        deltas = [_low_rank(change, rest) for change in step.detail]
        target = np.frombuffer(out, STORED[dtype.name])
        return add_low_rank(stored(parts[0], dtype), deltas, target, columns, start)


def match(
    lora: Specs, base: Specs, names: Mapping[str, str]
) -> tuple[dict[str, list[Factors]], list[str]]:
    """Pair the modules of a LoRA with tensors of a base.

    Args:
        lora: the LoRA file.
        base: the base.
        names: ``aliases(base)``.

    Returns:
        Tensor of the base to the factors that change it; then one sentence for each misfit.
    """
    modules, strays = factors(lora)
    matched: dict[str, list[Factors]] = {}
    faults = [f"{name!r}: not a plain LoRA tensor" for name in strays]
    for f in modules.values():
        name = find(f.module, names)
        if name is None:
            faults.append(f"{f.module!r}: no such layer in the base")
            continue
        fault = shape_fault(f, lora, base[name]) or _dtype_fault(f, lora)
        if fault:
            faults.append(fault)
        else:
            matched.setdefault(name, []).append(f)
    return matched, faults


def _dtype_fault(f: Factors, lora: Specs) -> str:
    """Say which tensor of a module cannot be computed with; "" if none."""
    for name in (f.up, f.down, f.mid):
        if name and not can_compute(lora[name].dtype):
            return f"{name!r}: no arithmetic on {lora[name].dtype}"
    if f.alpha and (lora[f.alpha].elements != 1 or lora[f.alpha].dtype.name not in _SCALARS):
        return f"{f.alpha!r}: {lora[f.alpha]} is not one number"
    return ""


def _step(
    name: str,
    spec: Spec,
    found: Sequence[tuple[int, Factors]],
    loras: Sequence[Specs],
    strengths: Sequence[float | None],
    alphas: Sequence[float | None],
) -> Step:
    small: list[tuple[int, str]] = []
    changes = []
    for index, f in found:
        strength, lora = strengths[index - 1] or 0.0, loras[index - 1]
        if strength == 0:
            continue
        small += [(index, n) for n in (f.up, f.down, f.mid, f.alpha) if n]
        mid, alpha = f.mid and lora[f.mid], f.alpha and lora[f.alpha]
        change = _Change(
            *(strength, f.rank, alphas[index - 1], lora[f.up], lora[f.down]),
            mid=mid or None,
            alpha_spec=alpha or None,
        )
        changes.append(change)
    return Step(
        *(name, spec, ((0, name),)), small=tuple(small), copy=not changes, detail=tuple(changes)
    )


def _low_rank(change: _Change, parts: Any) -> LowRank:
    up = _factor(next(parts), change.up)
    down = _factor(next(parts), change.down)
    if change.mid is not None:
        mid = _factor(next(parts), change.mid)
        mid = mid.reshape(*change.mid.shape[:2], prod(change.mid.shape[2:]))
        down = tucker(mid, down)
    alpha = float(change.rank) if change.alpha is None else change.alpha
    if change.alpha_spec is not None:
        alpha = float(np.frombuffer(next(parts), _SCALARS[change.alpha_spec.dtype.name])[0])
    stored_as = change.up.dtype.name, change.down.dtype.name
    exact = change.mid is None and adds_exactly(up, down, stored_as)
    return LowRank(up, down, change.strength * alpha / change.rank, exact)


def _factor(part: memoryview, spec: Spec) -> Array:
    return stored(part, spec.dtype).astype(np.float64).reshape(spec.shape[0], -1)


def _per_lora(
    key: str, params: Params, count: int, default: float | None
) -> tuple[float | None, ...]:
    given = cast("tuple[float | None, ...]", params[key]) or (default,) * count
    if len(given) != count:
        raise UsageError(f"{key}: {len(given)} given for {count} LoRAs; give one for each.")
    return given


PLUGIN = LoraBake()
