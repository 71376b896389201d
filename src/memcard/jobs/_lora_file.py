"""Writing a LoRA: factors in kohya's form, and what the file says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memcard._version import __version__
from memcard.architectures import identify
from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import MismatchError, UsageError
from memcard.formats import format_for_suffix
from memcard.jobs._lineage import Parent, card, published
from memcard.jobs._output import refuse_output
from memcard.jobs.resolve import label, open_source
from memcard.maths.floats import STORED, Array, encode
from memcard.recipes.nodes import Apply, Node, Params, Source, sources

DTYPES_OF_LORAS = ("F16", "BF16", "F32")

# What kohya's trainers write for the base: ss_base_model_version, modelspec.architecture, ss_v2.
_BASES: Mapping[str, tuple[str, str]] = {
    "sd1": ("sd_v1", "stable-diffusion-v1/lora"),
    "sd2": ("sd_v2", "stable-diffusion-v2-768-v/lora"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    "sd3": ("sd3m", "stable-diffusion-3-medium/lora"),
    "flux": ("flux1", "flux-1-dev/lora"),
}


def write_lora(
    job: Apply,
    out: Path,
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str],
    *,
    dtype: str,
    overwrite: bool,
) -> int:
    """Write float64 arrays as a LoRA file in one dtype; alphas are always float32.

    Args:
        job: what was done to which inputs; written into the file, without folders of this machine.
        out: the file; the suffix names the format.
        tensors: by name.
        metadata: what else the file shall say.
        dtype: of the factors.
        overwrite: replace a file that is there.

    Returns:
        Bytes of all tensors.

    Raises:
        MismatchError: a value is not finite in ``dtype``.
        UsageError: the file is there already, or is an input.
    """
    refuse_output(out, job, overwrite=overwrite)
    made = {name: _rounded(name, array, dtype) for name, array in tensors.items()}
    specs = {
        name: Spec(DTYPES[_dtype(name, dtype)], tensors[name].shape) for name, array in made.items()
    }
    with format_for_suffix(out).create(out) as sink:
        sink.begin(specs, {**said(job), **metadata})
        for name, array in made.items():
            sink.write(name, memoryview(array.tobytes()))
    return sum(spec.nbytes for spec in specs.values())


def check_dtype(dtype: str) -> None:
    """Refuse a dtype no program expects in a LoRA.

    Raises:
        UsageError: it is not one of them.
    """
    if dtype not in DTYPES_OF_LORAS:
        raise UsageError(f"dtype: {dtype!r}; a LoRA is written as {', '.join(DTYPES_OF_LORAS)}.")


def rounded(array: Array, dtype: str) -> Array:
    """Return a float64 array as it reads once it was stored in ``dtype``."""
    stored = np.empty(array.size, STORED[dtype])
    encode(array.reshape(-1).copy(), stored)
    found: Array = stored.astype(np.float64).reshape(array.shape)
    return found


def said(job: Apply) -> dict[str, str]:
    """Return what the file says about where it comes from; the same for the same job."""
    parents = [_parent(source) for source in sources(job)]
    shown = published(job)
    inputs = [{"name": p.name, "sha256": p.sha256} for p in parents]
    made = {"job": job.op, "inputs": inputs, "params": _plain(shown), "memcard": __version__}
    return {
        "memcard.made": json.dumps(made, sort_keys=True, ensure_ascii=False),
        "memcard.card": json.dumps(
            card(job, parents, kind="lora"), sort_keys=True, ensure_ascii=False
        ),
        "modelspec.merged_from": ", ".join(p.name for p in parents),
    }


def network(ranks: Sequence[int], base: Checkpoint | None = None) -> dict[str, str]:
    """Return the keys by which kohya's and A1111's tools know a LoRA."""
    several = len(set(ranks)) > 1
    found = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "Dynamic" if several else str(ranks[0]),
        "ss_network_alpha": "Dynamic" if several else str(float(ranks[0])),
    }
    family = identify(base.specs, base.metadata).architecture if base else None
    if family is not None and family in _BASES:
        version, architecture = _BASES[family]
        found |= {"ss_base_model_version": version, "modelspec.architecture": architecture}
        found["ss_v2"] = str(family == "sd2")
    return found


def _dtype(name: str, dtype: str) -> str:
    return "F32" if name.endswith(".alpha") else dtype


def _rounded(name: str, array: Array, dtype: str) -> Array:
    stored = np.empty(array.size, STORED[_dtype(name, dtype)])
    with np.errstate(all="ignore"):
        bad = encode(array.reshape(-1).astype(np.float64), stored)
    if bad:
        raise MismatchError(
            f"{name!r}: {bad} values are not finite in {dtype}. Write it with --dtype F32."
        )
    return stored


def _plain(node: Node) -> Any:
    params = node.params if isinstance(node, Apply) else Params()
    return {key: list(v) if isinstance(v, tuple) else v for key, v in params.items()}


def _parent(source: Source) -> Parent:
    checkpoint = open_source(source)
    metadata = dict(checkpoint.metadata)
    checkpoint.close()
    return Parent(label(source.ref), source.sha256, metadata)
