"""Make a LoRA of what a fine-tune changed in its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, Progress, silent
from memcard.errors import MismatchError, UsageError
from memcard.jobs._lora_file import check_dtype, network, rounded, write_lora
from memcard.jobs._lora_residual import refuse_residual, write_residual
from memcard.jobs._output import refuse_output
from memcard.jobs._pairs import Pairing, pair
from memcard.jobs.delta import Delta
from memcard.jobs.resolve import node_for, resolve
from memcard.maths.floats import Array, can_compute, stored
from memcard.maths.svd import approximate, relative_error
from memcard.ops._lora_names import Layer, layers
from memcard.recipes.nodes import Apply, Params

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class LayerReport:
    """How well one layer was caught.

    Attributes:
        name: of the module in the LoRA.
        shape: of the layer's weight.
        rank: of its factors.
        error: |change - factors| / |change|, after rounding to the file's dtype; 0 is perfect.
    """

    name: str
    shape: tuple[int, ...]
    rank: int
    error: float


@dataclass(frozen=True, slots=True)
class Extracted:
    """A LoRA that was extracted.

    Attributes:
        out: the file.
        layers: those it changes, in file order.
        unchanged: number of layers that are equal in both checkpoints.
        left_out: what else differs and no LoRA can hold, one sentence each.
        nbytes: of all tensors.
        error: |all changes - all factors| / |all changes| over the layers.
        residual: the delta that base and LoRA together need to become the fine-tune; None without.
    """

    out: Path
    layers: tuple[LayerReport, ...]
    unchanged: int
    left_out: tuple[str, ...]
    nbytes: int
    error: float
    residual: Delta | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        residual = None if self.residual is None else self.residual.to_dict()
        return asdict(self) | {"out": str(self.out), "residual": residual}


def lora_extract(
    base: str | Path,
    tuned: str | Path,
    out: str | Path,
    *,
    rank: int = 32,
    energy: float | None = None,
    dtype: str = "F16",
    seed: int = 0,
    residual: str | Path | None = None,
    overwrite: bool = False,
    digests: bool = True,
    progress: Listener = silent,
) -> Extracted:
    """Write a LoRA in kohya's form whose factors are nearly the best for every layer's change.

    One layer is in memory at a time, beside the factors. The same inputs give the same bytes.

    Args:
        base: path or name.
        tuned: path or name; in either dialect.
        out: file to write; the suffix names the format.
        rank: of every layer, smaller where a layer is smaller; with ``energy`` the highest allowed.
        energy: share of each layer's squared change to keep, 0..1; picks the rank layer by layer.
        dtype: F16, BF16 or F32.
        seed: of the randomised SVD.
        residual: file for what the LoRA misses, a lossless delta: ``delta_apply`` on the base with
            the LoRA baked in gives ``tuned`` back, bit for bit. Needs room for a checkpoint on disk.
        overwrite: replace a file that is there.
        digests: record the SHA-256 of the inputs.
        progress: hears how far it is.

    Raises:
        MismatchError: the two have no layer in common, do not differ, or hold values not finite; or
            a residual is asked for and the two are in different dialects.
        UsageError: an argument is out of its range, or ``out`` is there already.
    """
    _check(rank, energy, dtype)
    nodes = [node_for(ref, digests=digests, progress=progress) for ref in (base, tuned)]
    params = Params({"rank": rank, "energy": energy, "dtype": dtype, "seed": seed})
    job = Apply("lora_extract", tuple(nodes), params)
    path, beside = Path(out).expanduser(), None if residual is None else Path(residual).expanduser()
    if beside is not None:
        refuse_residual(base, tuned, path, beside, job, overwrite=overwrite)
    made = _extract(job, (base, tuned), path, overwrite, progress)
    if beside is None:
        return made
    rest = write_residual(base, tuned, path, beside, overwrite=overwrite, progress=progress)
    return replace(made, residual=rest)


def _extract(
    job: Apply, refs: tuple[str | Path, str | Path], path: Path, overwrite: bool, progress: Listener
) -> Extracted:
    refuse_output(path, job, overwrite=overwrite)
    one, two = (resolve(ref) for ref in refs)
    try:
        found = _Extraction(pair(one, two), job.params)
        found.run(progress)
        metadata = network([r.rank for r in found.reports], one)
        left_out = tuple(found.left_out())
    finally:
        one.close()
        two.close()
    dtype = str(job.params["dtype"])
    nbytes = write_lora(job, path, found.tensors, metadata, dtype=dtype, overwrite=overwrite)
    return Extracted(
        *(path, tuple(found.reports), found.unchanged, left_out, nbytes), error=found.error
    )


def _check(rank: int, energy: float | None, dtype: str) -> None:
    check_dtype(dtype)
    if rank < 1:
        raise UsageError(f"rank: {rank}; it is at least 1.")
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"energy: {energy:g}; it is a share, above 0 and at most 1.")


class _Extraction:
    """The layers of a pair, one after another."""

    def __init__(self, pairing: Pairing, params: Params) -> None:
        self._pairing, self._params = pairing, params
        self._layers = [x for x in layers(pairing.a.specs) if _shared(x, pairing)]
        if not self._layers:
            raise MismatchError(
                "the two checkpoints have no matrix or convolution in common. "
                "Are they of one architecture? memcard inspect tells."
            )
        self.tensors: dict[str, Array] = {}
        self.reports: list[LayerReport] = []
        self.unchanged, self._whole, self._missed = 0, 0.0, 0.0

    @property
    def error(self) -> float:
        """The relative error over all layers."""
        return float((self._missed / self._whole) ** 0.5) if self._whole else 0.0

    def run(self, progress: Listener) -> None:
        """Factor every layer.

        Raises:
            MismatchError: a change is not finite, or there is none at all.
        """
        wild: list[str] = []
        for done, layer in enumerate(self._layers):
            progress(Progress("extract", done, len(self._layers), "steps"))
            change = _change(layer, self._pairing)
            if not np.isfinite(change).all():
                wild.append(layer.name)
            elif change.any():
                self._factor(layer, change)
            else:
                self.unchanged += 1
        if wild:
            raise MismatchError(
                f"not finite in one of the checkpoints: {', '.join(wild[:_SHOWN])}."
            )
        if not self.reports:
            raise MismatchError("no layer differs between the two checkpoints; there is no LoRA.")

    def _factor(self, layer: Layer, change: Array) -> None:
        rank, energy = int(str(self._params["rank"])), self._params["energy"]
        made = approximate(
            change,
            rank,
            energy=float(energy) if isinstance(energy, (int, float)) else None,
            seed=int(str(self._params["seed"])),
            name=layer.name,
        )
        dtype, count = str(self._params["dtype"]), made.up.shape[1]
        up, down = rounded(made.up, dtype), rounded(made.down, dtype)
        error = relative_error(change, up, down)
        length = float(np.sum(np.square(change, dtype=np.float64)))
        self._whole += length
        self._missed += length * error * error
        shape = layer.place.shape
        ones = (1,) * (len(shape) - 2)
        self.tensors[f"{layer.name}.lora_down.weight"] = down.reshape(count, *shape[1:])
        self.tensors[f"{layer.name}.lora_up.weight"] = up.reshape(shape[0], count, *ones)
        self.tensors[f"{layer.name}.alpha"] = np.array(float(count))
        self.reports.append(LayerReport(layer.name, shape, count, error))

    def left_out(self) -> Iterator[str]:
        """Name what differs and is no layer of a LoRA."""
        a, b, names = self._pairing.a, self._pairing.b, self._pairing.names
        held = {run.tensor for x in self._layers for run in x.place.runs}
        rest = [n for n in names if n not in held]
        changed = [n for n in rest if a.specs[n] != b.specs[names[n]] or not _equal(a, b, n, names)]
        if changed:
            yield f"{len(changed)} tensors differ and are no layer of a LoRA: {_few(changed)}"
        for only, what in ((self._pairing.only_a, "the base"), (self._pairing.only_b, "the tune")):
            if only:
                yield f"{len(only)} tensors are only in {what}: {_few(only)}"


def _shared(layer: Layer, pairing: Pairing) -> bool:
    a, b = pairing.a.specs, pairing.b.specs
    return all(
        run.tensor in pairing.names
        and a[run.tensor].shape == b[pairing.names[run.tensor]].shape
        and can_compute(a[run.tensor].dtype)
        and can_compute(b[pairing.names[run.tensor]].dtype)
        for run in layer.place.runs
    )


def _change(layer: Layer, pairing: Pairing) -> Array:
    """Return tuned - base of one layer as a float32 matrix."""
    shape = layer.place.shape
    change = np.empty((shape[0], prod(shape[1:])), np.float32)
    with np.errstate(all="ignore"):
        for run in layer.place.runs:
            part = change[run.first : run.first + run.rows]
            tuned = _rows(pairing.b, pairing.names[run.tensor], run.at, run.rows)
            np.subtract(tuned, _rows(pairing.a, run.tensor, run.at, run.rows), out=part)
    return change


def _rows(checkpoint: Checkpoint, name: str, at: int, rows: int) -> Array:
    spec = checkpoint.specs[name]
    width = spec.nbytes // spec.shape[0]
    raw = memoryview(bytearray(rows * width))
    checkpoint.readinto(name, raw, at * width)
    return stored(raw, spec.dtype).astype(np.float32).reshape(rows, -1)


def _equal(a: Checkpoint, b: Checkpoint, name: str, names: Mapping[str, str]) -> bool:
    return bytes(a.read(name)) == bytes(b.read(names[name]))


def _few(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
