"""Blend checkpoints into one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, silent
from memcard.errors import UsageError
from memcard.jobs._making import Made, make
from memcard.jobs._merge_rules import Rules, Wishes, parts_named, rules_for
from memcard.jobs._methods import method_named, methods
from memcard.jobs.resolve import locate, node_for, resolve
from memcard.ops import OPS
from memcard.recipes.nodes import Apply, Node, Params
from memcard.recipes.op import Op, Surveying, check_arity, complete

_FEWEST = 2  # the operation itself is content with one; as a merge that is a slip of the hand
_TASK_VECTORS = "task_vectors"  # methods that can work on changes, but need not
_DTYPES = {"fp64": "F64", "fp32": "F32", "fp16": "F16", "bf16": "BF16"}

__all__ = ["merge", "methods"]

Nonfinite = Literal["refuse", "allow"]
Missing = Literal["refuse", "keep-first"]
Ref = str | Path


def merge(
    method: str,
    inputs: Sequence[Ref],
    *,
    base: Ref | None = None,
    out: Ref,
    weights: Sequence[float] | None = None,
    blocks: str | None = None,
    only: str | Sequence[str] | None = None,
    keep_vae_of: Ref | None = None,
    keep_text_encoder_of: Ref | None = None,
    dtype: str | None = None,
    missing: Missing = "refuse",
    nonfinite: Nonfinite = "refuse",
    overwrite: bool = False,
    dry_run: bool = False,
    digests: bool = True,
    threads: int | None = None,
    progress: Listener = silent,
    **params: Any,
) -> Made:
    """Merge checkpoints and write the result with its recipe.

    Memory does not grow with the files. The same inputs and parameters give the same bytes.

    Args:
        method: one of ``methods()``.
        inputs: paths or names, in the order of the weights.
        base: the common ancestor, for the methods that work on changes from one.
        out: file to write; the suffix names the format.
        weights: one per input; None for equal shares.
        blocks: weights by block: a preset such as ``GRAD_V``, a list, a gradient, or
            ``IN04=0.3,/attn2/=0.9``; of two checkpoints it is the share of the second.
        only: parts to merge (``unet``, ``vae``, ``text_encoder``); the rest is the first input's.
        keep_vae_of: checkpoint whose VAE the result has, bit for bit; one of the inputs or another.
        keep_text_encoder_of: the same for the text encoders.
        dtype: of the result: fp32, fp16, bf16, fp64; None: the narrowest that holds all inputs.
        missing: ``keep-first``: tensors that some inputs lack are the first's; those that only
            others have are left out.
        nonfinite: ``allow`` writes a result that has NaN or infinite values in it. Computed values are
            counted; what is copied as it is passes through no hands that could count.
        overwrite: replace a file that is there.
        dry_run: return the plan and write nothing.
        digests: record the SHA-256 of the inputs in the recipe; reads each of them once more.
        threads: None for as many as there are processors, at most 4.
        progress: hears how far it is.
        params: parameters of the method.

    Raises:
        MismatchError: the inputs do not fit together; lists every tensor that does not. Or a value
            would be NaN or infinite: nothing is written.
        NotFoundError: no such file or method.
        UsageError: a parameter is out of its range, or ``out`` is there already.
    """
    op = method_named(method)
    if base is not None and _TASK_VECTORS in op.params:
        params.setdefault(_TASK_VECTORS, True)
    checked = complete(method, op, Params(_settings(method, op, weights, dtype, params)))
    files = _files(method, op, inputs, base)
    check_arity(method, op, len(files))
    _one_of("missing", missing, ("refuse", "keep-first"))
    _one_of("nonfinite", nonfinite, ("refuse", "allow"))
    kept, extra = _kept({"vae": keep_vae_of, "text_encoder": keep_text_encoder_of}, files)
    wishes = Wishes(parts_named(only), blocks, kept, missing == "keep-first")
    plan = _Plan(method, op, checked, len(files), 0 if base is None else 1)
    with _opened([*files, *extra]) as checkpoints:
        found = plan.rules(checkpoints, wishes)
    # A dry run reads headers only, so it hashes nothing.
    nodes = [
        node_for(ref, digests=digests and not dry_run, progress=progress)
        for ref in (*files, *extra)
    ]
    made = make(
        *(plan.node(nodes, found), out),
        overwrite=overwrite,
        dry_run=dry_run,
        threads=threads,
        nonfinite=nonfinite,
        progress=progress,
    )
    return replace(made, notes=(*made.notes, *_notes(found, wishes)))


@dataclass(frozen=True, slots=True)
class _Plan:
    """The method with its parameters, and which inputs it takes."""

    method: str
    op: Op
    settings: Params
    merged: int  # inputs of the method
    first: int  # the one that gives the names: the first that is no base

    def rules(self, checkpoints: Sequence[Checkpoint], wishes: Wishes) -> Rules | None:
        """Decide tensor by tensor, if the user wants anything but the plain method."""
        if not wishes:
            return None
        return rules_for(
            *(checkpoints, wishes),
            merged=self.merged,
            first=self.first,
            method=self.method,
            op=self.op,
        )

    def node(self, nodes: Sequence[Node], found: Rules | None) -> Apply:
        """Return the recipe: the plain method, or the method by block."""
        if found is None or not found.rules:
            return Apply(self.method, tuple(nodes[: self.merged]), self.settings)
        given = {
            "method": self.method,
            "settings": self.settings,
            "rules": found.rules,
            "merged": self.merged,
            "names_from": self.first,
        }
        name = "by_block_survey" if isinstance(self.op, Surveying) else "by_block"
        return Apply(name, tuple(nodes), complete(name, OPS[name], Params(given)))


def _settings(
    method: str,
    op: Op,
    weights: Sequence[float] | None,
    dtype: str | None,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    found = dict(params)
    if weights is not None:
        if "weights" not in op.params:
            raise UsageError(f"{method}: takes no weights. It takes: {', '.join(op.params)}.")
        found["weights"] = tuple(float(w) for w in weights)
    if dtype is not None:
        if "dtype" not in op.params:
            raise UsageError(f"{method}: takes no dtype. Convert the result: memcard convert.")
        found["dtype"] = _DTYPES.get(dtype.lower(), dtype.upper())
    return found


def _files(method: str, op: Op, inputs: Sequence[Ref], base: Ref | None) -> list[Ref]:
    """Return what the method takes, the base first."""
    takes_base = bool(getattr(op, "takes_base", False))
    if base is not None and not takes_base and _TASK_VECTORS not in op.params:
        raise UsageError(f"{method}: takes no base; leave it out.")
    if base is None and takes_base:
        raise UsageError(
            f"{method}: works on the changes from a base. Name the common ancestor with --base."
        )
    if base is None and len(inputs) < _FEWEST:
        raise UsageError(f"{method}: a merge takes at least two checkpoints; {len(inputs)} given.")
    return [*inputs] if base is None else [base, *inputs]


def _kept(
    wanted: Mapping[str, Ref | None], files: Sequence[Ref]
) -> tuple[dict[str, int], list[Ref]]:
    """Return which input each part is kept of, and the files that only give parts."""
    paths, extra, kept = [locate(ref) for ref in files], [], {}
    for part, ref in wanted.items():
        if ref is None:
            continue
        path = locate(ref)
        if path not in paths:
            paths.append(path)
            extra.append(ref)
        kept[part] = paths.index(path)
    return kept, extra


@contextmanager
def _opened(refs: Sequence[Ref]) -> Iterator[list[Checkpoint]]:
    with ExitStack() as stack:
        found = []
        for ref in refs:
            found.append(resolve(ref))
            stack.callback(found[-1].close)
        yield found


def _notes(found: Rules | None, wishes: Wishes) -> tuple[str, ...]:
    if found is None or not wishes.keep_first:
        return ()
    said = (
        (found.missing, "tensors of the first checkpoint are kept, as another lacks them"),
        (found.extra, "tensors are left out, as the first checkpoint lacks them"),
    )
    return tuple(
        f"{len(names)} {text}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for names, text in said
        if names
    )


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{what} is {value!r}; it takes {' or '.join(allowed)}.")
