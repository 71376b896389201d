"""What base and LoRA together still miss of a fine-tune: a lossless delta of the two.

Baking the LoRA and applying the delta gives the fine-tune back, bit for bit: baking has the same bits
every time, and the delta refuses any other base.
"""

from __future__ import annotations

from pathlib import Path

from memcard.core.atomic import scratch_folder
from memcard.core.progress import Listener
from memcard.errors import MismatchError, UsageError
from memcard.formats import FORMATS, format_for_suffix
from memcard.jobs._output import refuse_output
from memcard.jobs.delta import Delta, delta_make
from memcard.jobs.lora import lora_bake
from memcard.jobs.resolve import locate, resolve
from memcard.recipes.nodes import Node


def refuse_residual(
    base: str | Path, tuned: str | Path, lora: Path, residual: Path, job: Node, *, overwrite: bool
) -> None:
    """Do nothing if a residual can be written; asked before the work starts.

    Raises:
        MismatchError: the two checkpoints have no name in common: they are of different dialects.
        UsageError: it is there already, is an input or the LoRA, no ``.safetensors``, or ``tuned``
            is no single file.
    """
    refuse_output(residual, job, overwrite=overwrite)
    if residual.resolve() == lora.resolve():
        raise UsageError(f"{residual}: is the name of the LoRA. Choose another for the residual.")
    if format_for_suffix(residual) is not FORMATS["safetensors"]:
        raise UsageError(f"{residual}: a residual is a .safetensors file. Choose such a name.")
    if not locate(tuned).is_file():
        raise UsageError(
            f"{tuned}: a residual is of one file. memcard convert makes one of a folder."
        )
    one, two = resolve(base), resolve(tuned)
    apart = not set(one.specs) & set(two.specs)
    one.close()
    two.close()
    if apart:
        raise MismatchError(
            f"{tuned} and {base} have no tensor name in common: a residual is made name by name. "
            "Bring both to one dialect first: memcard convert --dialect."
        )


def write_residual(
    base: str | Path,
    tuned: str | Path,
    lora: Path,
    residual: Path,
    *,
    overwrite: bool,
    progress: Listener,
) -> Delta:
    """Bake base and LoRA into a file that is removed again, and write what ``tuned`` changes in it."""
    with scratch_folder(residual) as folder:
        # The delta remembers this name as that of its base.
        name = f"{locate(base).stem}+{lora.stem}.safetensors"
        made = lora_bake(base, [(lora, 1.0)], folder / name, digests=False, progress=progress)
        return delta_make(made.out, tuned, out=residual, overwrite=overwrite, progress=progress)
