"""From the modules of a LoRA to those of another dialect: all of it from headers, and all faults at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import Specs
from memcard.jobs._lora_alpha import Stated, json_object, stated
from memcard.jobs._lora_book import Name, Target, book_for
from memcard.jobs._lora_layout import Layout, layouts
from memcard.jobs._lora_parts import (
    Made,
    Module,
    composed,
    folded,
    inexpressible,
    scalar,
    whole,
)
from memcard.maths.floats import can_compute
from memcard.ops._lora import Factors, factors
from memcard.ops._lora_fit import SCALARS, dtype_fault, own_shape, shape_fault
from memcard.ops._lora_names import Place, Run
from memcard.ops._pairs import refuse

ALPHA_DTYPE = (
    "memcard.lora_alpha"  # what alpha was stored as in kohya's form, so that it comes back
)
_LEAVES = ("weight", "bias")


class Plan:
    """What becomes of a LoRA.

    Attributes:
        target: the dialect to write.
        book: names of the family.
        made: the modules of the result, in file order.
        joined: how many of them are rows of several modules, or some rows of one.
        notes: what a careful user should know.
    """

    def __init__(
        self,
        loras: Mapping[str, Checkpoint],
        paths: Mapping[str, Path],
        target: Target,
        *,
        family: str | None,
        base: Checkpoint | None,
    ) -> None:
        """Plan.

        Args:
            loras: component to file; a file that names its components itself is under ``""``.
            paths: where they lie.
            target: the dialect to write.
            family: of the base, or None.
            base: a checkpoint to take names from, or None.

        Raises:
            MismatchError: something has no name in the target; lists all of it.
        """
        first = next(iter(loras.values()))
        shapes = [spec.shape for lora in loras.values() for spec in lora.specs.values()]
        self.target, self.notes = target, list[str]()
        self.book = book_for(first, shapes, family=family, base=base)
        self._faults: list[str] = []
        self._modules: dict[Name, Module] = {}
        for part, lora in loras.items():
            self._take(part, lora, stated(paths[part]))
        self.made, self.joined = self._make(first)
        self._refuse()

    def fold(self) -> None:
        """Multiply alpha / rank into one factor of every module that has both, and forget alpha."""
        rounded = touched = 0
        for made in self.made:
            if made.alpha is None or made.alpha == made.rank:
                made.alpha = None
            elif "up" in made.parts:
                # The factor whose values stay farther from the smallest its dtype knows.
                ways = {p: folded(made.parts[p], made.alpha / made.rank) for p in ("down", "up")}
                factor = min(ways, key=lambda p: ways[p][1])
                made.parts[factor], odd = ways[factor]
                made.alpha = None
                rounded, touched = rounded + odd, touched + 1
            if made.alpha is None:
                made.parts.pop("alpha", None)
        if touched:
            lost = f"{rounded} values were rounded" if rounded else "no value was rounded"
            self.notes.append(f"alpha / rank is multiplied into {touched} modules; {lost}.")

    def _take(self, part: str, lora: Checkpoint, stated: Stated) -> None:
        """Read the modules of a file."""
        found, strays = factors(lora.specs)
        if not found and not strays:
            self._faults.append("there is nothing in the file")
        self._faults += [
            f"{n!r}: not a part of any kind of LoRA that memcard knows" for n in strays
        ]
        self._faults += [
            f"{n!r}: makes its layer larger, which no other dialect can say"
            for n in lora.specs
            if n.endswith(".reshape_weight")
        ]
        groups: dict[str, list[Factors]] = {}
        for f in found:
            groups.setdefault(f.module, []).append(f)
        for module, group in groups.items():
            full = f"{part}.{module}" if part and module.startswith("base_model.") else module
            name = self.book.parse(full)
            if name is None:
                self._faults.append(f"{module!r}: no layer of {self.book.family}")
                continue
            order = sorted(group, key=lambda f: _LEAVES.index(f.leaf))
            main = order[0]
            alpha = _number(lora, main)
            if alpha is None and main.rank:
                alpha = stated.alpha(full, main.rank)
            shape = own_shape(main, lora.specs) if main.leaf == "weight" else None
            made = Module(name, lora, tuple(order), shape, alpha)
            fault = dtype_fault(main, lora.specs) or _misshapen(main, lora.specs, shape)
            fault = fault or inexpressible(made, self.target)
            if name in self._modules:
                fault = f"{module!r}: there is {self._modules[name].main.module!r}, too"
            if fault:
                self._faults.append(fault)
            else:
                self._modules[name] = made

    def _make(self, first: Checkpoint) -> tuple[list[Made], int]:
        components = dict.fromkeys(name.component for name in self._modules)
        sides = {c: self.book.side_for(c, self.target) for c in components}
        shapes = {name: _plain(module) for name, module in self._modules.items()}
        plans, faults = layouts(shapes, self.book, sides)
        self._faults += faults  # the ones of single modules and of groups, all at once
        counts = Counter(plan.name for plan in plans)
        self._faults += [
            f"{name.bare!r}: the file has it under the names of both dialects"
            for name, count in counts.items()
            if count > 1
        ]
        self._refuse()
        dtype = str(json_object(first.metadata.get(ALPHA_DTYPE, "")).get("dtype", "F32"))
        return [self._one(plan, dtype) for plan in plans], sum(
            plan.source is None for plan in plans
        )

    def _one(self, plan: Layout, dtype: str) -> Made:
        if plan.source is not None:
            made = whole(plan.name, self._modules[plan.source], self.target)
        else:
            found, fault = composed(plan, self._modules, self.target)
            self._faults += [fault] if fault else []
            made = found or Made(plan.name)
        if self.target != "kohya":
            made.parts.pop("alpha", None)
        elif made.alpha is not None and "alpha" not in made.parts:
            made.parts["alpha"] = scalar(made.alpha, dtype)
        return made

    def _refuse(self) -> None:
        refuse(
            f"this LoRA cannot be written in {self.target}'s names",
            self._faults,
            "Bake it into a checkpoint instead (memcard lora bake), or extract a plain LoRA from that.",
        )

    def alpha_dtype(self) -> str | None:
        """Return the one dtype in which the source stores its alphas; None without alphas."""
        found = {
            module.spec("alpha").dtype.name
            for module in self._modules.values()
            if "alpha" in module.parts
        }
        return found.pop() if len(found) == 1 else None


def _misshapen(f: Factors, specs: Specs, shape: tuple[int, ...] | None) -> str:
    """Say why factors do not make the weight they say; "" if they do, or do not tell."""
    if shape is None:
        return ""
    return shape_fault(f, specs, Place(shape, (Run("", 0, shape[0], 0),)))


def _plain(module: Module) -> tuple[int, ...] | None:
    """Return the shape of a weight whose change can be split by rows; None for others."""
    kinds = [f.kind for f in module.factors]
    computable = all(
        can_compute(module.lora.specs[n].dtype) for p, n in module.parts.items() if p != "alpha"
    )
    return module.shape if kinds == ["LoRA"] and computable else None


def _number(lora: Checkpoint, f: Factors) -> float | None:
    """Return the alpha a module carries."""
    name = f.get("alpha")
    if name is None or lora.specs[name].elements != 1:
        return None
    dtype = SCALARS.get(lora.specs[name].dtype.name)
    return None if dtype is None else float(np.frombuffer(lora.read(name), dtype)[0])
