"""Write a checkpoint in another container; bits change only if a dtype is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from memcard.core.checkpoint import Checkpoint, Sink
from memcard.core.progress import Listener, silent
from memcard.core.views import Part
from memcard.errors import MismatchError, UsageError
from memcard.formats import format_for_suffix, sniff_file
from memcard.jobs._output import refuse_output
from memcard.jobs.resolve import locate, node_for, resolve
from memcard.unpickle.nodes import shown

_COMPONENTS = ("unet", "vae", "text_encoder")
_EMA = {"ema": "ema", "no-ema": "raw"}
_DTYPES = {
    "fp16": "F16",
    "float16": "F16",
    "half": "F16",
    "bf16": "BF16",
    "bfloat16": "BF16",
    "fp32": "F32",
    "float32": "F32",
    "float": "F32",
    "fp64": "F64",
    "float64": "F64",
}


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """What was written.

    Attributes:
        path: the new file.
        format: its format.
        tensors: number of tensors in it.
        size: of the file, in bytes.
        copied: tensors that went from file to file as they are.
        left_out: names of tensors of the source that are not in it.
        notes: what was left out or changed, one sentence each.
    """

    path: Path
    format: str
    tensors: int
    size: int
    copied: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        facts = asdict(self)
        return {**facts, "path": str(self.path), "left_out": list(self.left_out)} | {
            "notes": list(self.notes)
        }


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    dtype: str | None = None,
    only: str | None = None,
    overwrite: bool = False,
    progress: Listener = silent,
) -> ConvertResult:
    """Write ``src`` as ``dst``; the suffix of ``dst`` decides the format.

    Every tensor keeps its name and its bytes. Training state (optimizer, schedulers) is left out, and
    the result says so. Tied weights are written out, so that every name is there.

    Args:
        src: a file or a name of the starter; read by content, nothing inside is run.
        dst: ends in .safetensors, .ckpt, .pt or .pth.
        dtype: cast floating-point tensors: fp32, fp16, bf16. Changes bits.
        only: one component (unet, vae, text_encoder), ``ema`` (EMA weights in place of the raw
            ones) or ``no-ema`` (without the EMA weights).
        overwrite: replace ``dst``.
        progress: hears how far it is.

    Raises:
        FormatError: the source cannot be read, or the new format cannot hold a tensor.
        UsageError: ``dst`` exists or is ``src``, or ``only`` is not one of the above.
        MismatchError: the checkpoint has no such part.
        DiskError: the disk is full; nothing is left behind.
    """
    from memcard.recipes.bake import pour

    source, out = locate(src), Path(dst).expanduser()
    form = format_for_suffix(out)
    refuse_output(out, node_for(source, digests=False), overwrite=overwrite)
    opened = resolve(src)
    try:
        whole = _without_training(opened)
        wanted = _cast(_select(whole, only), dtype)
        metadata = _metadata(opened.metadata, changed=bool(only or dtype))
        sink = form.create(out)
        check = getattr(opened, "check_unchanged", _nothing_to_check)
        baked = pour(wanted, _Guarded(sink, check), metadata=metadata, progress=progress)
    finally:
        opened.close()
    kept = wanted.specs
    return ConvertResult(
        path=out,
        format=sniff_file(out) or form.title,
        tensors=baked.tensors,
        size=out.stat().st_size,
        copied=baked.copied,
        left_out=tuple(name for name in opened.specs if name not in kept),
        notes=_notes(opened, whole, wanted, (*baked.notes, *getattr(sink, "notes", ()))),
    )


class _Guarded:
    """A sink that keeps its file only if ``check`` passes after the last byte."""

    def __init__(self, sink: Sink, check: Callable[[], None]) -> None:
        self._sink, self._check = sink, check
        self.begin, self.write, self.copy = sink.begin, sink.write, sink.copy

    def __enter__(self) -> Self:
        self._sink.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            try:
                self._check()
            except BaseException as error:
                self._sink.__exit__(type(error), error, error.__traceback__)
                raise
        self._sink.__exit__(*exc)


def _nothing_to_check() -> None:
    pass


def _without_training(checkpoint: Checkpoint) -> Checkpoint:
    training = frozenset(getattr(checkpoint, "training_state", ()))
    if not training:
        return checkpoint
    return Part(checkpoint, (name for name in checkpoint.specs if name not in training))


def _select(checkpoint: Checkpoint, only: str | None) -> Checkpoint:
    if only is None:
        return checkpoint
    if only in _EMA:
        return _apply("pick_ema", checkpoint, {"which": _EMA[only]})
    if only not in _COMPONENTS:
        raise UsageError(f"only is {only!r}; it can be {', '.join((*_COMPONENTS, *_EMA))}.")
    from memcard.architectures import ARCHITECTURES, candidates

    found = tuple(candidates(checkpoint.specs))
    if len(found) != 1:
        which = f"fits several ({', '.join(found)})" if found else "is of no family known here"
        raise MismatchError(
            f"cannot tell which tensors are the {only}: the checkpoint {which}. "
            "Convert it whole, without --only."
        )
    family = ARCHITECTURES[found[0]]
    names = [name for name in checkpoint.specs if family.component(name) == only]
    if not names:
        raise MismatchError(f"the checkpoint ({family.title}) holds no {only}.")
    return Part(checkpoint, names)


def _cast(checkpoint: Checkpoint, dtype: str | None) -> Checkpoint:
    if dtype is None:
        return checkpoint
    return _apply("cast", checkpoint, {"dtype": _DTYPES.get(dtype.lower(), dtype.upper())})


def _apply(op: str, checkpoint: Checkpoint, params: Mapping[str, Any]) -> Checkpoint:
    from memcard.ops import OPS
    from memcard.recipes.execute import RecipeCheckpoint
    from memcard.recipes.nodes import Params
    from memcard.recipes.op import complete

    operation = OPS[op]
    complete_params = complete(op, operation, Params(params))
    return RecipeCheckpoint(operation, (checkpoint,), complete_params, checkpoint.metadata)


def _metadata(metadata: Mapping[str, str], *, changed: bool) -> dict[str, str]:
    """Keep what the file says about itself, except what is true of the old tensors only."""
    return {
        key: text
        for key, text in metadata.items()
        if not changed or not ("hash" in key or key.startswith("memcard.recipe"))
    }


def _notes(
    source: Checkpoint, whole: Checkpoint, result: Checkpoint, baked: Sequence[str]
) -> tuple[str, ...]:
    notes = list(dict.fromkeys(baked))
    training = [name for name in source.specs if name not in whole.specs]
    if training:
        size = sum(source.specs[name].nbytes for name in training)
        notes.append(f"Left out: {len(training)} tensors of training state ({size} bytes).")
    rest = len(whole.specs) - len(result.specs)
    if rest > 0:
        notes.append(f"Left out, as asked: {rest} tensors.")
    other = getattr(source, "other", ())
    if other:
        notes.append(f"Left out, because it is not tensors: {', '.join(map(shown, other))}.")
    if any("tied weights" in note for note in notes):
        notes.append("Tied weights are written out in full, so that every name is there.")
    return tuple(notes)
