"""From tensors of a checkpoint to modules that run.

On the CPU, weights of the dtype that is computed in are windows on the file (``maths/torch_bridge``) where they
are aligned as torch's own memory: no byte is read before it is needed. What has to be converted, decoded,
computed or moved is read by several threads into memory of its own, one tensor each at a time, so that no more
than the weights in the dtype they run in and a few tensors are held.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock, local
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from memcard.core.checkpoint import Checkpoint
from memcard.errors import MismatchError, UnsupportedError
from memcard.formats._source import mode_for
from memcard.generation._engine import quiet
from memcard.generation.bulk import Load, Stretch, stretches
from memcard.generation.parts import Part
from memcard.maths.torch_bridge import Bridge

_T = TypeVar("_T")
_P = TypeVar("_P", bound="Place")

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_SHOWN: Final = 4
_THREADS: Final = 4  # at most, that read and decode
_ALIGNED: Final = 64  # bytes, as torch's own memory
_AT_ONCE: Final = 1 << 20  # values read from a plain file before they are converted
# Values of one conversion: from here on torch would wake a team of threads for each of ours.
_ALONE: Final = (1 << 15) - 64
_HALVES: Final = (torch.float16, torch.bfloat16)
_OWN: Final = local()
_LEVEL: Final = "text_model."  # transformers 5.6 dropped this level of CLIP's names
# One tensor under two names in T5: files hold either.
_TWINS: Final = {
    "shared.weight": "encoder.embed_tokens.weight",
    "encoder.embed_tokens.weight": "shared.weight",
}


def fill(
    part: Part, module: nn.Module, *, dtype: torch.dtype, device: torch.device, own: bool = False
) -> None:
    """Give an empty ``module`` its weights.

    Args:
        part: where they are; its file must stay open as long as the module is used.
        module: on the meta device.
        dtype: what to compute in; see ``precisions``.
        device: where to compute.
        own: no weight is a window on a file, so that all may be changed.

    Raises:
        MismatchError: weights are missing or have another shape.
        UnsupportedError: weights are of a dtype that cannot be computed with.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    kinds = precisions(module, dtype)
    state: dict[str, Tensor] = {}
    for kind, found in _by_kind(places(part, wanted), kinds).items():
        state |= read(part.view, found, dtype=kind, device=device, own=own)
    with quiet():
        module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(requires_grad=False)
    count_positions(module, device)
    module.to(device)  # buffers


def precisions(module: nn.Module, dtype: torch.dtype) -> Mapping[str, torch.dtype]:
    """Return the dtype of every weight of a module that computes in ``dtype``.

    Some layers leave the range of a half precision, such as the last of each block of T5 in float16. The
    classes of diffusers and transformers name them; they stay in float32, as ``from_pretrained`` keeps them.
    """
    full = _kept_full(module, dtype)
    return {
        key: dtype if full.isdisjoint(key.split(".")) else torch.float32
        for key in module.state_dict()
    }


def _kept_full(module: Any, dtype: torch.dtype) -> frozenset[str]:
    """Return the levels of names whose weights stay in float32."""
    if dtype not in _HALVES:
        return frozenset()
    always = getattr(module, "_keep_in_fp32_modules_strict", ())  # transformers alone has these
    some = getattr(module, "_keep_in_fp32_modules", None) or ()
    # transformers means float16 by the others, diffusers every half precision.
    narrow = hasattr(module, "_keep_in_fp32_modules_strict") and dtype != torch.float16
    return frozenset((*(always or ()), *(() if narrow else some)))


def _by_kind(
    found: Mapping[str, str], kinds: Mapping[str, torch.dtype]
) -> dict[torch.dtype, dict[str, str]]:
    """Return the tensors of each dtype apart."""
    apart: dict[torch.dtype, dict[str, str]] = {}
    for key, name in found.items():
        apart.setdefault(kinds[key], {})[key] = name
    return apart


def places(part: Part, wanted: Mapping[str, Sequence[int]]) -> Mapping[str, str]:
    """Return the tensor of ``part.view`` for every weight a module wants, all checked.

    Raises:
        MismatchError: weights are missing or have another shape.
        UnsupportedError: weights are of a dtype that cannot be computed with.
    """
    found = {}
    for key in wanted:
        names = (key, _LEVEL + key, _TWINS.get(key, key))
        there = next((name for name in names if name in part.names), None)
        if there is not None:
            found[key] = part.names[there]
    _check(part, wanted, found)
    return found


def read(
    view: Checkpoint,
    found: Mapping[str, str],
    *,
    dtype: torch.dtype,
    device: torch.device,
    own: bool = False,
) -> dict[str, Tensor]:
    """Return tensors by the keys of ``found``, in ``dtype``, on ``device``; ``own`` as of ``fill``."""
    names = dict.fromkeys(found.values())
    values = {} if own else windows(view, names, dtype=dtype, device=device)
    rest = [name for name in names if name not in values]
    for name in rest:
        shape = tuple(view.specs[name].shape)
        values[name] = torch.empty(shape, dtype=dtype, device=device)
    jobs = pour_plain([_Place(view, name, values[name]) for name in rest])
    several(lambda job: pour(*job), jobs)
    return {key: values[name] for key, name in found.items()}


class _Place(NamedTuple):
    view: Checkpoint
    name: str
    out: Tensor


def windows(
    view: Checkpoint, names: Iterable[str], *, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Return those tensors that can be computed with where they lie in their file."""
    if device.type != "cpu":
        return {}
    mapped: dict[Path, bool] = {}
    return Bridge(view).tensors([n for n in names if _as_it_lies(view, n, dtype, mapped)])


def _as_it_lies(view: Checkpoint, name: str, dtype: torch.dtype, mapped: dict[Path, bool]) -> bool:
    """Whether a tensor can be computed with where it lies in its file.

    Products of matrices round differently where a matrix does not begin at a multiple of 64 bytes: the
    same weights would give other pictures out of another container.
    """
    extent = view.extent(name)
    if extent is None or extent.offset % _ALIGNED:
        return False
    if extent.path not in mapped:
        mapped[extent.path] = mode_for(extent.path) == "mmap"
    return mapped[extent.path] and DTYPES[view.specs[name].dtype.name] == dtype


def several(run: Callable[[_T], None], jobs: Sequence[_T]) -> None:
    """Run jobs in a few threads; the first error ends them all."""
    waiting = iter(
        jobs
    )  # a future for each of a thousand small tensors would cost more than reading them
    gate = Lock()

    def work() -> None:
        while True:
            with gate:
                job = next(waiting, None)
            if job is None:
                return
            try:
                run(job)
            except BaseException:
                with gate:
                    deque(waiting, maxlen=0)  # nothing is left for the others
                raise

    count = min(_THREADS, os.cpu_count() or 1, len(jobs))
    if count < 2:
        for job in jobs:
            run(job)
        return
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work) for _ in range(count)]:
            done.result()


class Place(Protocol):
    """A tensor of a checkpoint, and the memory it is for."""

    @property
    def view(self) -> Checkpoint:
        """Where it is read from."""

    @property
    def name(self) -> str:
        """Its name there."""

    @property
    def out(self) -> Tensor | None:
        """The memory."""


def pour_plain(jobs: Sequence[_P]) -> list[_P]:
    """Read what lies in plain files, many tensors at once; return the jobs that are left for ``pour``."""
    loads: dict[int, Load] = {}
    for i, job in enumerate(jobs):
        extent, out = job.view.extent(job.name), job.out
        if extent is not None and out is not None and out.device.type == "cpu" and out.numel():
            loads[i] = Load(extent, DTYPES[job.view.specs[job.name].dtype.name], out)
    whole = stretches(list(loads.values()))
    if whole is None:
        return list(jobs)
    failed: list[Load] = []

    def run(stretch: Stretch) -> None:
        with suppress(OSError):
            if stretch.fill():
                return
        failed.extend(load for load, _, _ in stretch.parts)

    several(run, whole)
    for view in {id(jobs[i].view): jobs[i].view for i in loads}.values():
        check = getattr(view, "check_unchanged", None)
        if check is not None:
            check()
    again = {id(load) for load in failed}
    return [job for i, job in enumerate(jobs) if i not in loads or id(loads[i]) in again]


def pour(view: Checkpoint, name: str, out: Tensor) -> None:
    """Read one tensor into ``out``, in its dtype, on its device; from any thread.

    What lies in a plain file is read into place, or converted piece by piece. What is unpacked or computed
    is so as a whole before any of ``out`` changes, which may hold what it is made of.
    """
    spec = view.specs[name]
    kind, flat = DTYPES[spec.dtype.name], out.reshape(-1)
    plain = view.extent(name) is not None
    if plain and out.dtype == kind and out.device.type == "cpu":
        view.readinto(name, _bytes(flat))
        return
    size = kind.itemsize
    step = _AT_ONCE if plain else max(1, flat.numel())
    for at in range(0, flat.numel(), step):
        count = min(step, flat.numel() - at)
        piece = _scratch("piece", count * size)
        view.readinto(name, piece.numpy().data, at * size)
        _convert(piece.view(kind), flat[at : at + count])


def _convert(values: Tensor, out: Tensor) -> None:
    """Copy values into another dtype or to another device.

    From one half precision to the other by way of float32, which is exact: torch's own way takes three
    times as long.
    """
    if out.device.type != "cpu":
        out.copy_(values)
        return
    if values.dtype == out.dtype:
        copy(values, out)
        return
    across = values.dtype in _HALVES and out.dtype in _HALVES and values.dtype != out.dtype
    wide = _scratch("wide", 4 * _ALONE).view(torch.float32) if across else None
    for at in range(0, len(values), _ALONE):
        part = values[at : at + _ALONE]
        if wide is not None:
            part = wide[: len(part)].copy_(part)
        out[at : at + _ALONE].copy_(part)


def copy(values: Tensor, out: Tensor) -> None:
    """Copy as many bytes, in this thread alone: torch would wake a team of threads for each of ours."""
    np.copyto(out.view(torch.uint8).numpy(), values.view(torch.uint8).numpy())


def _scratch(name: str, size: int) -> Tensor:
    """Return memory of this thread, used again by its next tensor: fresh pages cost more than the work."""
    have: Tensor | None = getattr(_OWN, name, None)
    if have is None or len(have) < size:
        have = torch.empty(size, dtype=torch.uint8)
        setattr(_OWN, name, have)
    return have[:size]


def _bytes(flat: Tensor) -> memoryview:
    """Return the memory of a tensor on the CPU. numpy has no bfloat16, but it has bytes."""
    found: memoryview = flat.view(torch.uint8).numpy().data
    return found


def count_positions(module: nn.Module, device: torch.device) -> None:
    """Give counters, which are no weights and in no file, the values they always have."""
    for owner in module.modules():
        for name, buffer in list(owner._buffers.items()):
            if buffer is not None and buffer.is_meta and name == "position_ids":
                count: Any = torch.arange(buffer.shape[-1], device=device)
                owner._buffers[name] = count.expand(buffer.shape).contiguous()


def _check(part: Part, wanted: Mapping[str, Sequence[int]], found: Mapping[str, str]) -> None:
    specs = part.view.specs
    if missing := [key for key in wanted if key not in found]:
        raise MismatchError(
            f"{part.label}: the {part.name} lacks {len(missing)} of {len(wanted)} weights: "
            f"{_few(missing)}. The file is incomplete or of another architecture; `memcard inspect` "
            "shows what is in it."
        )
    odd = {n: specs[n] for n in found.values() if specs[n].dtype.name not in DTYPES}
    if odd:
        name, spec = next(iter(odd.items()))
        raise UnsupportedError(
            f"{part.label}: {len(odd)} weights of the {part.name} cannot be computed with, first "
            f"{name!r}: {spec}. Convert the file with `memcard convert --dtype F16`."
        )
    wrong = [
        f"{name!r} is {specs[name].shape}, needed {tuple(wanted[key])}"
        for key, name in found.items()
        if tuple(specs[name].shape) != tuple(wanted[key])
    ]
    if wrong:
        raise MismatchError(
            f"{part.label}: {len(wrong)} weights of the {part.name} have another shape: {_few(wrong)}. "
            "The file mixes architectures; choose another file for this part."
        )


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
