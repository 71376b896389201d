"""Keep one of the two sets of weights in a training file: the EMA's or the raw ones.

Latent-diffusion files name the EMA of ``model.diffusion_model.out.2.bias``
``model_ema.diffusion_modelout2bias``.

Source: CompVis latent-diffusion, ldm/modules/ema.py, class LitEma (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from memcard.core.tensors import Spec, Specs
from memcard.errors import MismatchError
from memcard.ops._pairs import refuse
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param

_EMA, _RAW = "model_ema.", "model."
_COUNTERS = ("model_ema.decay", "model_ema.num_updates")


class PickEma:
    """The result has the names of the raw weights and no EMA beside them."""

    title = "EMA or raw weights"
    source = "latent-diffusion ldm/modules/ema.py"
    params: ClassVar[Mapping[str, Param]] = {
        "which": Param("str", "ema", "weights to keep", choices=("ema", "raw")),
    }
    arity = (1, 1)

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Pair raw weights with their EMA; refuse EMA weights that belong to nothing."""
        specs = inputs[0]
        average = {n: s for n, s in specs.items() if n.startswith(_EMA) and n not in _COUNTERS}
        raw = [name for name in specs if not name.startswith(_EMA)]
        if params["which"] == "raw":
            return [Step(name, specs[name], ((0, name),), copy=True) for name in raw]
        if not average:
            raise MismatchError(
                "no EMA weights in this checkpoint (no tensor starts with 'model_ema.'). "
                "It may be an EMA already; use it as it is."
            )
        pairs = {name: _ema_name(name) for name in raw if _ema_name(name) in average}
        refuse("EMA and raw weights do not fit", _faults(specs, average, pairs), "Use which=raw.")
        return [_step(name, specs, pairs) for name in raw]

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Hand the one part on."""
        out[:] = parts[0]
        return 0


def _step(name: str, specs: Specs, pairs: Mapping[str, str]) -> Step:
    if name in pairs:
        return Step(name, specs[pairs[name]], ((0, pairs[name]),), copy=True)
    note = "has no EMA, the raw tensor is kept" if name.startswith("model.diffusion_model.") else ""
    return Step(name, specs[name], ((0, name),), copy=True, note=note)


def _faults(specs: Specs, average: Mapping[str, Spec], pairs: Mapping[str, str]) -> list[str]:
    used = {ema: raw for raw, ema in pairs.items()}
    faults = [f"{name!r}: no raw weight of this name" for name in average if name not in used]
    return faults + [
        f"{raw!r}: {specs[raw]}, its EMA {specs[ema]}"
        for raw, ema in pairs.items()
        if specs[raw].shape != specs[ema].shape
    ]


def _ema_name(name: str) -> str:
    if not name.startswith(_RAW):
        return ""
    return _EMA + name.removeprefix(_RAW).replace(".", "")


PLUGIN = PickEma()
