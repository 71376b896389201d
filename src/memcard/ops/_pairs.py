"""Matching tensors of several inputs by name, and finding every fault before refusing."""

from __future__ import annotations

from collections.abc import Sequence

from memcard.core.tensors import DTYPES, DType, Spec, Specs
from memcard.errors import MismatchError
from memcard.maths.floats import STORED, can_compute
from memcard.recipes.nodes import Params
from memcard.recipes.op import Param

DTYPE = Param(
    "str",
    "widest",
    "dtype of the result; widest: the narrowest that holds all inputs",
    choices=("widest", *STORED),
)
UNLIKE = (
    "Merge only checkpoints of one architecture with the same parts; a file without its "
    "VAE or text encoder, or with EMA weights beside the raw ones, must be made alike "
    "first (pick_ema drops the extra weights)."
)
_SHOWN = 12
_ORDER = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def refuse(what: str, faults: Sequence[str], remedy: str) -> None:
    """Raise all faults as one error; none, no error.

    Raises:
        MismatchError: there are faults.
    """
    if not faults:
        return
    shown = "\n  ".join(faults[:_SHOWN])
    more = f"\n  … and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    raise MismatchError(f"{what}:\n  {shown}{more}\n{remedy}")


def pair_faults(inputs: Sequence[Specs]) -> list[str]:
    """List tensors that some inputs lack, and shapes that differ; inputs are counted from 1."""
    faults = []
    if not any(all(name in specs for specs in inputs) for name in inputs[0]):
        faults.append("they have no tensor in common")
    for name in dict.fromkeys(name for specs in inputs for name in specs):
        lacking = [i for i, specs in enumerate(inputs, 1) if name not in specs]
        if lacking:
            has = next(i for i, specs in enumerate(inputs, 1) if name in specs)
            faults.append(f"{name!r}: in input {has}, not in input {_list(lacking)}")
            continue
        shapes = [specs[name].shape for specs in inputs]
        faults += [
            f"{name!r}: {list(shapes[0])} in input 1, {list(shape)} in input {i}"
            for i, shape in enumerate(shapes[1:], 2)
            if shape != shapes[0]
        ]
    return faults


def is_weight(name: str, specs: Sequence[Spec]) -> bool:
    """Tell whether arithmetic on this tensor makes sense.

    Counters and masks are not weights, and neither are CLIP's position_ids, which many files
    store as floats: averages such as 75.99 in them are a known way to break a merge.
    """
    return not name.endswith("position_ids") and all(s.dtype.is_float for s in specs)


def widest(specs: Sequence[Spec]) -> DType:
    """Return the narrowest dtype that holds every value of all of them."""
    names = {spec.dtype.name for spec in specs}
    if len(names) == 1:
        return specs[0].dtype
    if "F64" in names:
        return DTYPES["F64"]
    if names <= {"F16", "F8_E4M3", "F8_E5M2"}:
        return DTYPES["F16"]  # 5 exponent and 10 fraction bits hold both kinds of 8-bit float
    return DTYPES["F32"]


def result_dtype(specs: Sequence[Spec], params: Params) -> DType:
    """Return the dtype asked for, or the narrowest that holds all inputs."""
    asked = str(params["dtype"])
    return widest(specs) if asked == "widest" else DTYPES[asked]


def narrow_faults(name: str, specs: Sequence[Spec]) -> list[str]:
    """List dtypes that arithmetic does not know."""
    odd = dict.fromkeys(s.dtype.name for s in specs if not can_compute(s.dtype))
    return [f"{name!r}: no arithmetic on {dtype} (known: {', '.join(_ORDER)})" for dtype in odd]


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
