"""Keep one of the two sets of weights in a training file: the EMA's or the raw ones.

Latent-diffusion files name the EMA of ``model.diffusion_model.out.2.bias``
``model_ema.diffusion_modelout2bias``. Others put a second state dict beside the first (``ema.out.2.bias``),
or a second folder in diffusers (``unet_ema``).

Source: CompVis latent-diffusion, ldm/modules/ema.py, class LitEma (MIT); diffusers EMAModel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from memcard.core.tensors import Spec, Specs
from memcard.errors import MismatchError
from memcard.ops._pairs import refuse
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param

_LIT, _RAW = "model_ema.", "model."
_BESIDE = ("ema.", "ema_model.", "state_dict_ema.", "ema_state_dict.", "model_ema.")
_TOPS = ("", "model.", "module.", "state_dict.")  # what may stand before the raw names
_FOLDER = "_ema"
_COUNTERS = ("decay", "num_updates", "initted", "step", "optimization_step", "min_decay")


class PickEma:
    """The result has the names of the raw weights and no EMA beside them."""

    title = "EMA or raw weights"
    source = "latent-diffusion ldm/modules/ema.py; diffusers training_utils.py EMAModel"
    params: ClassVar[Mapping[str, Param]] = {
        "which": Param("str", "ema", "weights to keep", choices=("ema", "raw")),
    }
    arity = (1, 1)

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Pair raw weights with their EMA; refuse EMA weights that belong to nothing."""
        specs = inputs[0]
        copies = [name for name in specs if _is_copy(name)]
        average = {n: specs[n] for n in copies if n.rpartition(".")[2] not in _COUNTERS}
        raw = [name for name in specs if name not in frozenset(copies)]
        if params["which"] == "raw":
            return [Step(name, specs[name], ((0, name),), copy=True) for name in raw]
        if not average:
            raise MismatchError(
                "no EMA weights in this checkpoint (no tensor starts with 'model_ema.' or 'ema.'). "
                "It may be an EMA already; use it as it is."
            )
        pairs = {n: copy for n in raw if (copy := _copy_of(n, average)) is not None}
        refuse("EMA and raw weights do not fit", _faults(specs, average, pairs), "Use which=raw.")
        return [_step(name, specs, pairs) for name in raw]

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Hand the one part on."""
        out[:] = parts[0]
        return 0


def _is_copy(name: str) -> bool:
    return name.startswith(_BESIDE) or name.partition(".")[0].endswith(_FOLDER)


def _copy_of(name: str, average: Mapping[str, Spec]) -> str | None:
    return next((copy for copy in _spellings(name) if copy in average), None)


def _spellings(name: str) -> Iterator[str]:
    """Yield the names that the EMA of a raw weight may have."""
    if name.startswith(_RAW):
        yield _LIT + name.removeprefix(_RAW).replace(".", "")
    for top in _TOPS:
        if name.startswith(top):
            yield from (beside + name.removeprefix(top) for beside in _BESIDE)
    component, _, key = name.partition(".")
    yield f"{component}{_FOLDER}.{key}"


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


PLUGIN = PickEma()
