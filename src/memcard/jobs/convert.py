"""Write a checkpoint in another container, dialect or dtype; bits change only if a dtype is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from memcard.core.checkpoint import Checkpoint, FileSink
from memcard.core.progress import Listener, silent
from memcard.core.sizes import byte_size
from memcard.errors import NotFoundError, UsageError
from memcard.formats import create, format_for_suffix, names_folder, sniff_file
from memcard.jobs._components import parts_of
from memcard.jobs._convert_plan import Plan, plan_of, wishes_of
from memcard.jobs._output import refuse_output
from memcard.jobs.resolve import locate, node_for, resolve
from memcard.recipes.nodes import Source
from memcard.unpickle.nodes import shown


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """What was written, or would be.

    Attributes:
        path: the new file or folder.
        format: its format.
        tensors: number of tensors in it.
        size: of everything written, in bytes; of the tensors alone in a dry run.
        written: False for a dry run.
        copied: tensors whose bytes go from file to file as they are.
        renamed: tensors that have another name than in the source.
        rearranged: tensors put together from parts of others, or transposed.
        cast: ``F32 to F16`` and the like: number of tensors.
        overflow: tensor to number of finite values that became infinite.
        components: those of the result, by their names; bytes of each. Empty where neither parts nor
            a dialect nor a dry run was asked for: looking would take longer than starting.
        left_out: names of tensors of the source that are not in it.
        notes: what was left out or changed, one sentence each.
    """

    path: Path
    format: str
    tensors: int
    size: int
    written: bool
    copied: int
    renamed: int
    rearranged: int
    cast: Mapping[str, int]
    overflow: Mapping[str, int]
    components: Mapping[str, int]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return found


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    dtype: str | None = None,
    only: str | Iterable[str] | None = None,
    without: str | Iterable[str] | None = None,
    dialect: str | None = None,
    allow_overflow: bool = False,
    max_shard: int | str | None = None,
    salvage: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Listener = silent,
) -> ConvertResult:
    """Write ``src`` as ``dst``; the name of ``dst`` decides the format.

    Every tensor keeps its bytes, and its name unless ``dialect`` is given. Training state (optimizer,
    schedulers) is left out, and the result says so. Tied weights are written out, so that every name
    is there. Everything that can be refused from headers is refused before the first byte.

    Args:
        src: a file, a folder or a name of the starter; read by content, nothing inside is run.
        dst: ends in .safetensors, .safetensors.index.json, .ckpt, .pt or .pth; or in ``/`` for a
            diffusers folder, which has diffusers' names, configs and tokenizers.
        dtype: cast floating-point tensors: fp64, fp32, fp16, bf16, fp8_e4m3, fp8_e5m2; also unpacks
            GGUF blocks. Changes bits.
        only: keep these components (unet, transformer, vae, text_encoder, text_encoder_2,
            text_encoders…); ``ema`` puts the EMA weights in place of the raw ones, ``no-ema`` drops
            them. Several in one text with commas, or as a list.
        without: leave these out, in the same words.
        dialect: ``ldm`` or ``diffusers`` names, for SD 1, 2, XL, 3 and Flux. No bit changes.
        allow_overflow: let values too large for ``dtype`` become infinite; otherwise they are
            counted and nothing is written.
        max_shard: most bytes of tensors in one file: a number, or text such as ``5GB``.
        salvage: take the tensors out of a file that asks to run code; nothing is run.
        dry_run: plan and write nothing. Overflow is not known then.
        overwrite: replace ``dst``.
        progress: hears how far it is.

    Raises:
        FormatError: the source cannot be read, or the new format cannot hold a tensor.
        UsageError: ``dst`` exists or is ``src``, or an option is not one of the above.
        MismatchError: the checkpoint has no such part, no dictionary knows its names, or values
            would overflow.
        DiskError: the disk is full; nothing is left behind.
    """
    wishes = wishes_of(dtype, only, without, dialect, folder=names_folder(dst))
    shard = None if max_shard is None else byte_size(max_shard)
    source, out = locate(src), Path(dst).expanduser()
    form = format_for_suffix(_as_given(dst))
    opened = resolve(src, salvage=salvage)
    try:
        _refuse_target(source, out, opened, overwrite=overwrite, salvage=salvage)
        plan = plan_of(opened, wishes, allow_overflow=allow_overflow)
        if dry_run:
            return _planned(plan, out, form.title)
        sink = create(_as_given(dst), max_shard=shard, overwrite=overwrite)
        return _write(plan, sink, progress)
    finally:
        opened.close()


def _refuse_target(
    source: Path, out: Path, opened: Checkpoint, *, overwrite: bool, salvage: bool
) -> None:
    """Refuse a target that is an input, holds one, or is there and not to be replaced."""
    inputs = [source, *getattr(opened, "parts", ())]
    if out.is_dir():
        inside = [path for path in inputs if path.resolve().is_relative_to(out.resolve())]
        if inside:
            raise UsageError(
                f"{out}: holds {inside[0]}, an input of this very job. Choose another name."
            )
        return  # whether it may be replaced is the folder's own question
    if any(out.exists() and path.exists() and out.samefile(path) for path in inputs):
        raise UsageError(f"{out}: is an input of this very job. Choose another name.")
    node = Source(str(source)) if salvage else node_for(source, digests=False)
    refuse_output(out, node, overwrite=overwrite)


def _write(plan: Plan, sink: FileSink, progress: Listener) -> ConvertResult:
    from memcard.recipes.bake import pour

    for path, content in plan.files.items():
        attach = getattr(sink, "attach", None)
        if attach is not None:
            attach(path, content)
    if plan.lossy is not None:
        plan.lossy.announce()
    guarded = _Guarded(sink, lambda: _check(plan))
    baked = pour(plan.result, guarded, metadata=plan.metadata, progress=progress)
    form = sniff_file(sink.result) or "unknown"
    notes = (*baked.notes, *sink.notes, *(plan.lossy.notes() if plan.lossy else ()))
    return _result(plan, sink.result, form, sink.size, baked.copied, notes, written=True)


def _planned(plan: Plan, out: Path, form: str) -> ConvertResult:
    size = sum(spec.nbytes for spec in plan.result.specs.values())
    copied = sum(plan.result.extent(name) is not None for name in plan.result.specs)
    return _result(plan, out, form, size, copied, tuple(plan.result.notes), written=False)


def _result(
    plan: Plan,
    path: Path,
    form: str,
    size: int,
    copied: int,
    notes: Iterable[str],
    *,
    written: bool,
) -> ConvertResult:
    used = {name for names in plan.sources.values() for name in names}
    return ConvertResult(
        path=path,
        format=form,
        tensors=len(plan.result.specs),
        size=size,
        written=written,
        copied=copied,
        renamed=sum(names != (name,) for name, names in plan.sources.items()),
        rearranged=plan.rearranged,
        cast=dict(plan.lossy.changed) if plan.lossy else {},
        overflow=plan.lossy.overflow() if plan.lossy else {},
        components=_sizes(plan.result) if plan.wishes.about_parts or not written else {},
        left_out=tuple(name for name in plan.opened.specs if name not in used),
        notes=_notes(plan, len(used), notes),
    )


def _check(plan: Plan) -> None:
    """Raise after the last byte if the source changed meanwhile, or values overflowed."""
    check: Callable[[], None] = getattr(plan.opened, "check_unchanged", lambda: None)
    check()
    if plan.lossy is not None:
        plan.lossy.check()


class _Guarded:
    """A sink that keeps its file only if ``check`` passes after the last byte."""

    def __init__(self, sink: FileSink, check: Callable[[], None]) -> None:
        self._sink, self._check = sink, check
        self.begin, self.write, self.copy = sink.begin, sink.write, sink.copy

    def __enter__(self) -> Self:
        self._sink.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self._check()
            except BaseException as wrong:
                self._sink.__exit__(type(wrong), wrong, wrong.__traceback__)
                raise
        self._sink.__exit__(kind, error, trace)


def _as_given(dst: str | Path) -> str:
    """Return the target as text: a ``Path`` has lost the ``/`` that says folder."""
    text = os.path.expanduser(os.fspath(dst))  # noqa: PTH111  # Path.expanduser drops the slash
    if not Path(text).parent.is_dir():
        raise NotFoundError(f"{Path(text).parent}: no such folder. Make it first.")
    return text


def _sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the bytes of each component."""
    part_of = parts_of(checkpoint)
    sizes: dict[str, int] = {}
    for name, spec in checkpoint.specs.items():
        sizes[part_of[name]] = sizes.get(part_of[name], 0) + spec.nbytes
    return sizes


def _notes(plan: Plan, used: int, more: Iterable[str]) -> tuple[str, ...]:
    notes = list(dict.fromkeys((*more, *plan.notes)))
    training = [name for name in plan.opened.specs if name not in plan.trained.specs]
    if training:
        size = sum(plan.opened.specs[name].nbytes for name in training)
        notes.append(f"Left out: {len(training)} tensors of training state ({size} bytes).")
    rest = len(plan.trained.specs) - used
    if rest > 0:
        notes.append(f"Left out, as asked or as no weights: {rest} tensors.")
    averages = sum(n.startswith("model_ema.") for n in plan.trained.specs)
    if rest > 0 and averages and plan.wishes.dialect and not plan.wishes.parts.weights:
        notes.append(f"Of them {averages} are EMA weights; --only ema takes these instead.")
    other = getattr(plan.opened, "other", ())
    if other:
        notes.append(f"Left out, because it is not tensors: {', '.join(map(shown, other))}.")
    if any("tied weights" in note for note in notes):
        notes.append("Tied weights are written out in full, so that every name is there.")
    return tuple(notes)
