"""From tensors of a checkpoint to modules that run.

Bytes become tensors without a copy; only a change of dtype or device makes one. With
``MEMCARD_IO=mmap`` a module whose weights need neither runs straight from the mapped file. What has to be
decoded or computed first, such as a packed checkpoint or a merge, is made ready by several threads.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch
from torch import Tensor, nn

from memcard.core.architecture import Target
from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import Spec
from memcard.errors import MismatchError, UnsupportedError

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_SHOWN: Final = 4
_THREADS: Final = 4  # at most, that decode


def fill(
    component: str,
    module: nn.Module,
    checkpoint: Checkpoint,
    targets: Mapping[str, Target],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Give an empty ``module`` its weights.

    Args:
        component: which of ``targets`` belong to it.
        module: on the meta device.
        checkpoint: where the bytes are; must stay open as long as the module is used.
        targets: place of each tensor, as the architecture tells it.
        dtype: what to compute in.
        device: where to compute.

    Raises:
        MismatchError: weights are missing or have another shape.
        UnsupportedError: weights are of a dtype that cannot be computed with.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {t.key: n for n, t in targets.items() if t.component == component and t.key in wanted}
    _check(component, wanted, found, checkpoint, targets)
    plain = all(checkpoint.extent(name) is not None for name in found.values())
    read = tensor if plain else _decoded

    def value(key: str) -> Tensor:
        return read(checkpoint, found[key], wanted[key]).to(device=device, dtype=dtype)

    if plain:
        state = {key: value(key) for key in found}
    else:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            state = dict(zip(found, pool.map(value, found), strict=True))
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(requires_grad=False)
    module.to(device)  # buffers


def tensor(checkpoint: Checkpoint, name: str, shape: Sequence[int]) -> Tensor:
    """Return one tensor over the checkpoint's own bytes. Never write to it."""
    spec = checkpoint.specs[name]
    buffer = checkpoint.read(name)
    with warnings.catch_warnings():
        # The bytes may be a read-only map. Nothing here writes to a weight.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return torch.frombuffer(buffer, dtype=DTYPES[spec.dtype.name]).reshape(tuple(shape))


def _decoded(checkpoint: Checkpoint, name: str, shape: Sequence[int]) -> Tensor:
    """Return one tensor in memory of its own; from any thread, as ``tensor`` is not."""
    spec = checkpoint.specs[name]
    whole = torch.empty(spec.nbytes, dtype=torch.uint8)  # not zeroed, as a bytearray would be
    checkpoint.readinto(name, whole.numpy().data)
    return whole.view(DTYPES[spec.dtype.name]).reshape(tuple(shape))


def _check(
    component: str,
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, str],
    checkpoint: Checkpoint,
    targets: Mapping[str, Target],
) -> None:
    missing = [key for key in wanted if key not in found]
    if missing:
        raise MismatchError(
            f"the {component} lacks {len(missing)} of {len(wanted)} weights: {_few(missing)}. "
            "The file is incomplete or of another architecture; `memcard inspect` shows what is in it."
        )
    odd = {
        n: checkpoint.specs[n]
        for n in found.values()
        if checkpoint.specs[n].dtype.name not in DTYPES
    }
    if odd:
        name, spec = next(iter(odd.items()))
        raise UnsupportedError(
            f"{len(odd)} weights of the {component} cannot be computed with, first {name!r}: {spec}. "
            "Convert the file with `memcard convert --dtype F16`."
        )
    wrong = [
        f"{name!r} is {_shape(checkpoint.specs[name], targets[name])}, needed {wanted[key]}"
        for key, name in found.items()
        if _shape(checkpoint.specs[name], targets[name]) != wanted[key]
    ]
    if wrong:
        raise MismatchError(
            f"{len(wrong)} weights of the {component} have another shape: {_few(wrong)}. "
            "The file mixes architectures; choose another file for this part."
        )


def _shape(spec: Spec, target: Target) -> tuple[int, ...]:
    return target.reshape or spec.shape


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
