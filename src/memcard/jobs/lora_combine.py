"""Make one LoRA of several: exactly, or of a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, Progress, silent
from memcard.errors import UsageError
from memcard.jobs._lora_alpha import Stated, stated
from memcard.jobs._lora_file import check_dtype, network, write_lora
from memcard.jobs._lora_folder import lora_file
from memcard.jobs._output import refuse_output
from memcard.jobs.resolve import node_for, resolve
from memcard.maths.floats import Array
from memcard.maths.low_rank import LowRank, dense
from memcard.maths.svd import approximate, recompress
from memcard.ops._lora import Factors, factors
from memcard.ops._lora_deltas import Change, delta, read
from memcard.ops._lora_fit import dtype_fault, own_shape, shape_fault
from memcard.ops._lora_names import Place, Run, canonical, component_of
from memcard.ops._pairs import refuse
from memcard.recipes.nodes import Apply, Params

_ENDS = {"full difference": "diff", "bias": "diff_b", "bias of LoRA": "diff_b"}


@dataclass(frozen=True, slots=True)
class Combined:
    """A LoRA that was made of others.

    Attributes:
        out: the file.
        layers: number of modules it changes.
        ranks: rank to number of modules.
        exact: nothing was left out; False after a recompression that lost something.
        error: largest |sum - factors| / |sum| of a module; 0 if nothing was compressed.
        nbytes: of all tensors.
    """

    out: Path
    layers: int
    ranks: Mapping[int, int]
    exact: bool
    error: float
    nbytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self) | {
            "out": str(self.out),
            "ranks": {str(k): v for k, v in self.ranks.items()},
        }


@dataclass(slots=True)
class _Sum:
    """All that several LoRAs do to one weight or bias: factors side by side, and what has none."""

    name: str
    leaf: str
    shape: tuple[int, ...]
    end: str = ""  # of the name, for a difference
    ups: list[Array] = field(default_factory=list)
    downs: list[Array] = field(default_factory=list)
    whole: Array | None = None


def lora_combine(
    loras: Sequence[tuple[str | Path, float]],
    out: str | Path,
    *,
    rank: int | None = None,
    dtype: str = "F32",
    overwrite: bool = False,
    digests: bool = True,
    progress: Listener = silent,
) -> Combined:
    """Write one LoRA that does what several do together, each at its strength.

    Factors are laid side by side, so that the ranks add up and the sum is exact; adding them up
    instead, as some tools do, is another LoRA altogether. With ``rank`` the sum is compressed to it.

    Args:
        loras: (path or name, strength).
        out: file to write; the suffix names the format.
        rank: highest rank of the result; None for an exact one.
        dtype: F16, BF16 or F32, which keeps every factor's bits at strength 1.
        overwrite: replace a file that is there.
        digests: record the SHA-256 of the inputs.
        progress: hears how far it is.

    Raises:
        MismatchError: something in the files is no sum (DoRA, OFT, (IA)3, GLoRA), or needs a rank.
        UsageError: an argument is out of its range, or ``out`` is there already.
    """
    check_dtype(dtype)
    if not loras:
        raise UsageError("no LoRA given; name at least one.")
    if rank is not None and rank < 1:
        raise UsageError(f"rank: {rank}; it is at least 1.")
    loras = [(lora_file(ref), strength) for ref, strength in loras]
    nodes = [node_for(ref, digests=digests, progress=progress) for ref, _ in loras]
    strengths = tuple(float(s) for _, s in loras)
    params = Params({"strengths": strengths, "rank": rank, "dtype": dtype})
    job, path = Apply("lora_combine", tuple(nodes), params), Path(out).expanduser()
    refuse_output(path, job, overwrite=overwrite)
    return _combine(job, _gather(loras, rank), path, rank, overwrite, progress)


def _combine(
    job: Apply,
    sums: Sequence[_Sum],
    path: Path,
    rank: int | None,
    overwrite: bool,
    progress: Listener,
) -> Combined:
    tensors: dict[str, Array] = {}
    ranks, error = list[int](), 0.0
    for done, item in enumerate(sums):
        progress(Progress("combine", done, len(sums), "steps"))
        made, count, lost = _made(item, rank)
        tensors |= made
        error = max(error, lost)
        ranks += [count] if count else []
    metadata, dtype = network(ranks) if ranks else {}, str(job.params["dtype"])
    nbytes = write_lora(job, path, tensors, metadata, dtype=dtype, overwrite=overwrite)
    counts = {r: ranks.count(r) for r in sorted(set(ranks))}
    return Combined(path, len(sums), counts, error < _NOISE, error, nbytes)


_NOISE = 1e-7  # of float64 arithmetic, far below what any dtype of a file holds


def _gather(loras: Sequence[tuple[str | Path, float]], rank: int | None) -> list[_Sum]:
    """Collect what all LoRAs do, module by module.

    Raises:
        MismatchError: something cannot be added up; all faults at once.
    """
    sums: dict[tuple[str, str], _Sum] = {}
    faults: list[str] = []
    for ref, strength in loras:
        said = stated(ref)
        lora = resolve(ref)
        try:
            modules, strays = factors(lora.specs)
            faults += [f"{ref}: {name!r}: not a part of any kind of LoRA" for name in strays]
            for f in modules:
                fault = _add(sums, f, lora, strength, said, rank)
                faults += [f"{ref}: {fault}"] if fault else []
        finally:
            lora.close()
    refuse(
        "these cannot become one LoRA",
        faults,
        "Bake them into a checkpoint instead: memcard lora bake.",
    )
    found = list(sums.values())
    _name(found)
    return found


def _add(
    sums: dict[tuple[str, str], _Sum],
    f: Factors,
    lora: Checkpoint,
    strength: float,
    said: Stated,
    rank: int | None,
) -> str:
    """Add one module to the sums; return why not."""
    shape = own_shape(f, lora.specs)
    if shape is None:
        return f"{f.module!r}: {f.kind} depends on the weight it changes and is no sum"
    run = Run("", 0, shape[0], 0)
    fault = shape_fault(f, lora.specs, Place(shape, (run,))) or dtype_fault(f, lora.specs)
    if fault:
        return fault
    specs = tuple(lora.specs[name] for _, name in f.parts)
    alpha = said.alpha(f.module, f.rank) if f.rank and f.get("alpha") is None else None
    change = Change(f, strength, alpha, specs, run, shape)
    if not change.streams:
        return f"{f.module!r}: DoRA depends on the weight it changes and is no sum"
    values = read(change, iter([lora.read(name) for _, name in f.parts]))
    made = delta(change, values, strength)
    key = _key(f.module), f.leaf
    item = sums.setdefault(key, _Sum(f.module, f.leaf, shape))
    if (item.shape[0], np.prod(item.shape)) != (shape[0], np.prod(shape)):
        return (
            f"{f.module!r}: its weight is {list(shape)}, in another of the files {list(item.shape)}"
        )
    if len(shape) > len(item.shape):
        item.shape = shape  # a kind that forgets the kernel's sides
    return _put(item, f, made, rank)


def _put(item: _Sum, f: Factors, made: Any, rank: int | None) -> str:
    if isinstance(made, LowRank):
        item.ups.append(made.up * made.scale)
        item.downs.append(made.down)
    else:
        columns = int(np.prod(item.shape[1:]))
        whole = dense(made, item.shape[0], columns)
        item.whole = whole if item.whole is None else item.whole + whole
        item.end = item.end or _end(f)
    mixed = item.whole is not None and (bool(item.ups) or f.kind in ("LoHa", "LoKr"))
    if mixed and rank is None:
        return f"{f.module!r}: {f.kind} has no factors to lay side by side; give a --rank"
    return ""


def _end(f: Factors) -> str:
    if f.kind == "norm":
        return "w_norm" if f.leaf == "weight" else "b_norm"
    return _ENDS.get(f.kind, "")


def _made(item: _Sum, rank: int | None) -> tuple[dict[str, Array], int, float]:
    """Return the tensors of one module, its rank (0 for a difference) and its relative error."""
    if item.whole is not None and item.end and not item.ups:
        return {f"{item.name}.{item.end}": item.whole.reshape(item.shape)}, 0, 0.0
    if item.whole is not None:
        whole = item.whole + sum(u @ d for u, d in zip(item.ups, item.downs, strict=True))
        single = whole.astype(np.float32)
        found = approximate(single, rank or 1, name=item.name)
        up, down, lost = found.up, found.down, sqrt(max(0.0, 1 - found.kept))
    else:
        up, down, lost = np.concatenate(item.ups, axis=1), np.concatenate(item.downs), 0.0
        if rank is not None and rank < up.shape[1]:
            found = recompress(up, down, rank)
            up, down, lost = found.up, found.down, sqrt(max(0.0, 1 - found.kept))
    count, ones = up.shape[1], (1,) * (len(item.shape) - 2)
    return (
        {
            f"{item.name}.lora_down.weight": down.reshape(count, *item.shape[1:]),
            f"{item.name}.lora_up.weight": up.reshape(item.shape[0], count, *ones),
            f"{item.name}.alpha": np.array(float(count)),
        },
        count,
        lost,
    )


def _key(module: str) -> str:
    """Return what a module is known by: one that states no component is the denoiser's."""
    name = canonical(module)
    return name if component_of(module) != "unknown" else f"unet_{name}"


def _name(sums: Sequence[_Sum]) -> None:
    """Give every module kohya's name."""
    several = any(component_of(s.name) in ("text_encoder_2", "text_encoder_3") for s in sums)
    for item in sums:
        if item.name.startswith(("lora_unet_", "lora_te")):
            continue
        key = _key(item.name)
        for start, prefix in (
            ("text_encoder_3_", "lora_te3_"),
            ("text_encoder_2_", "lora_te2_"),
            ("text_encoder_", "lora_te1_" if several else "lora_te_"),
            ("unet_", "lora_unet_"),
        ):
            if key.startswith(start):
                body = key.removeprefix(start)
                clip = start != "unet_" and body.startswith("encoder_layers_")
                item.name = prefix + ("text_model_" if clip else "") + body
                break
