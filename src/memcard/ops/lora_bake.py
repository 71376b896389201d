"""Bake LoRAs into a base: W' = W + strength (alpha / rank) up @ down, for each LoRA in turn.

LoRA and LoCon on linear layers and convolutions, LoHa, LoKr, (IA)3, GLoRA, OFT, BOFT, DoRA, whole
differences, norms and biases. Each LoRA changes what those before it have made. Computed in float64
in a fixed order and rounded once. DoRA at a strength s is W + s (V m / |V| - W), as in ComfyUI.

Source: Hu et al. 2021, "LoRA", arXiv:2106.09685; LyCORIS, arXiv:2309.14859; DoRA, arXiv:2402.09353;
the others: ``maths/adapters.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import ClassVar, cast

import numpy as np

from memcard.core.tensors import Spec, Specs
from memcard.errors import UsageError
from memcard.maths.adapters import NEUMANN_TERMS
from memcard.maths.floats import BLOCK, STORED, decode, encode, stored
from memcard.maths.low_rank import Window, add_low_rank, dense
from memcard.ops._lora_deltas import Change, delta, read, reshaped
from memcard.ops._lora_fit import Fit, match
from memcard.ops._lora_names import aliases, canonical
from memcard.ops._pairs import narrow_faults, refuse
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param


@dataclass(frozen=True, slots=True)
class _Lora:
    """One LoRA of a recipe: its place among the inputs, its header, its settings."""

    index: int
    specs: Specs
    strength: float
    alpha: float | None
    alphas: Mapping[str, float]  # of modules that differ
    terms: int


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
        "blocks": Param(
            "str",
            "",
            "REGEX=NUMBER, one a line: the first that is found in a module's name multiplies the "
            "strength there",
        ),
        "module_alphas": Param(
            "str",
            "",
            "LORA MODULE=ALPHA, one a line: modules whose alpha is not that of ``alphas``",
        ),
        "neumann_terms": Param(
            "floats", (), "terms by which PEFT's OFT turns, one number per LoRA; 0: exact; none: 5"
        ),
        "arithmetic": Param(
            "str",
            "",
            "float32: products as a script with PyTorch computes them; none: float64, rounded once",
        ),
    }
    arity = (2, None)

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Find the tensor each module of each LoRA changes."""
        base, *rest = inputs
        single = _is_single(str(params["arithmetic"]))
        loras, rules = _loras(rest, params), block_rules(str(params["blocks"]))
        names = aliases(base)
        changes: dict[str, list[tuple[_Lora, Fit]]] = {}
        faults: list[str] = []
        for lora in loras:
            matched, unmatched = match(lora.specs, base, names)
            for name, found in matched.items():
                changes.setdefault(name, []).extend((lora, fit) for fit in found)
            faults += [f"input {lora.index + 1}: {fault}" for fault in unmatched]
            if not matched:
                faults.append(f"input {lora.index + 1}: nothing in it fits this base")
        if not params["skip_unmatched"] or not changes:
            refuse(
                "not everything in the LoRA fits this base",
                faults,
                "Is it for another base model? To leave these out: skip_unmatched.",
            )
        faults = [f for name in changes for f in narrow_faults(name, [base[name]])]
        refuse("cannot compute", faults, "Cast the base first.")
        return [_step(n, spec, changes.get(n, ()), rules, single) for n, spec in base.items()]

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Change one chunk, or a whole tensor."""
        weight, rest = stored(parts[0], step.spec.dtype), iter(parts[1:])
        target = np.frombuffer(out, STORED[step.spec.dtype.name])
        columns = prod(step.spec.shape[1:])
        pairs = [(change, read(change, rest, i)) for i, change in enumerate(step.detail)]
        if not step.whole:
            deltas = [
                Window(delta(change, values, change.strength), run.at, run.rows, run.first)
                for change, values in pairs
                for run in [change.run]
            ]
            return add_low_rank(weight, deltas, target, columns, start)
        total = np.empty(weight.size)
        decode(weight, total)
        rows = total.reshape(-1, columns)
        with np.errstate(all="ignore"):
            for change, values in pairs:
                run = change.run
                slab = rows[run.at : run.at + run.rows]
                if change.streams:
                    whole = dense(delta(change, values, change.strength), change.shape[0], columns)
                    slab += whole[run.first : run.first + run.rows]
                else:
                    slab[:] = reshaped(change, values, slab.copy())
            blocks = range(0, total.size, BLOCK)
            return sum(encode(total[at : at + BLOCK], target[at : at + BLOCK]) for at in blocks)


def block_rules(text: str) -> tuple[tuple[re.Pattern[str], float], ...]:
    """Read ``REGEX=NUMBER`` lines.

    Raises:
        UsageError: a line is none; all faults at once.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    rules = [(line, _rule(line)) for line in lines]
    faults = [repr(line) for line, rule in rules if rule is None]
    if faults:
        raise UsageError(
            f"blocks: {', '.join(faults)}: not of the form REGEX=NUMBER. Write for example "
            "'up_blocks_1=0.5'."
        )
    return tuple(rule for _, rule in rules if rule is not None)


def _rule(line: str) -> tuple[re.Pattern[str], float] | None:
    pattern, _, number = line.rpartition("=")
    try:
        rule = re.compile(pattern), float(number)
    except (ValueError, re.error):
        return None
    return rule if pattern and isfinite(rule[1]) else None


def module_alphas(text: str) -> dict[int, dict[str, float]]:
    """Read ``LORA MODULE=ALPHA`` lines; LoRAs count from 1.

    Raises:
        UsageError: a line is none; all faults at once.
    """
    found: dict[int, dict[str, float]] = {}
    faults: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        place, _, rest = line.partition(" ")
        module, _, alpha = rest.rpartition("=")
        try:
            found.setdefault(int(place), {})[module] = float(alpha)
        except ValueError:
            faults.append(repr(line))
    if faults:
        raise UsageError(
            f"module_alphas: {', '.join(faults)}: not of the form LORA MODULE=ALPHA. Write for example "
            "'1 unet.conv_in=8'."
        )
    return found


def _loras(specs: Sequence[Specs], params: Params) -> list[_Lora]:
    strengths = _per_lora("strengths", params, len(specs), 1.0)
    alphas = _per_lora("alphas", params, len(specs), None)
    terms = _per_lora("neumann_terms", params, len(specs), float(NEUMANN_TERMS))
    named = module_alphas(str(params["module_alphas"]))
    return [
        _Lora(index, lora, strength or 0.0, alpha, named.get(index, {}), int(count or 0))
        for index, (lora, strength, alpha, count) in enumerate(
            zip(specs, strengths, alphas, terms, strict=True), 1
        )
    ]


def _step(
    name: str,
    spec: Spec,
    found: Sequence[tuple[_Lora, Fit]],
    rules: Sequence[tuple[re.Pattern[str], float]],
    single: bool,
) -> Step:
    small: list[tuple[int, str]] = []
    changes = []
    for lora, fit in found:
        strength = lora.strength * _factor(fit.factors.module, rules)
        if strength == 0:
            continue
        tensors = [n for _, n in fit.factors.parts]
        small += [(lora.index, n) for n in tensors]
        specs = tuple(lora.specs[n] for n in tensors)
        alpha = lora.alphas.get(fit.factors.module, lora.alpha)
        place = (specs, fit.run, fit.shape)
        changes.append(Change(fit.factors, strength, alpha, *place, lora.terms, single))
    whole = not all(change.streams for change in changes)
    return Step(
        *(name, spec, ((0, name),)),
        small=tuple(small),
        whole=whole,
        copy=not changes,
        detail=tuple(changes),
    )


def _is_single(arithmetic: str) -> bool:
    if arithmetic not in ("", "float32"):
        raise UsageError(f"arithmetic is {arithmetic!r}; it can be float32, or left out.")
    return bool(arithmetic)


def _factor(module: str, rules: Sequence[tuple[re.Pattern[str], float]]) -> float:
    name = canonical(module)
    return next((number for pattern, number in rules if pattern.search(name)), 1.0)


def _per_lora(
    key: str, params: Params, count: int, default: float | None
) -> tuple[float | None, ...]:
    given = cast("tuple[float | None, ...]", params[key]) or (default,) * count
    if len(given) != count:
        raise UsageError(f"{key}: {len(given)} given for {count} LoRAs; give one for each.")
    return given


PLUGIN = LoraBake()
