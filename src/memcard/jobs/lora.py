"""Bake LoRAs into a checkpoint, or open it with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, silent
from memcard.errors import UsageError
from memcard.jobs._lora_alpha import stated_alpha
from memcard.jobs._making import Made, make
from memcard.jobs.resolve import metadata_of, node_for, open_source, resolve
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params
from memcard.recipes.op import complete


def lora_bake(
    base: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    out: str | Path,
    *,
    skip_unmatched: bool = False,
    blocks: Sequence[tuple[str, float]] = (),
    overwrite: bool = False,
    dry_run: bool = False,
    digests: bool = True,
    threads: int | None = None,
    progress: Listener = silent,
) -> Made:
    """Write the base with LoRAs added: W + strength (alpha / rank) up @ down, in turn.

    Args:
        base: path or name.
        loras: (path or name, strength) in the order they are added.
        out: file to write; the suffix names the format.
        skip_unmatched: leave out what fits no layer instead of refusing.
        blocks: (pattern, number); the first pattern found in a module's name, words joined by ``_``
            such as ``unet_up_blocks_1_attentions_0_proj_in``, multiplies the strengths there.
        overwrite: replace a file that is there.
        dry_run: return the plan and write nothing.
        digests: record the SHA-256 of the inputs in the recipe.
        threads: None for as many as there are processors, at most 4.
        progress: hears how far it is.

    Raises:
        MismatchError: a LoRA does not fit; lists every layer that does not.
        UsageError: there are no LoRAs, or ``out`` is there already.
    """
    node = lora_node(
        *(base, loras),
        skip_unmatched=skip_unmatched,
        blocks=blocks,
        digests=digests and not dry_run,
        progress=progress,
    )
    return make(node, out, overwrite=overwrite, dry_run=dry_run, threads=threads, progress=progress)


def lora_node(
    base: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    *,
    skip_unmatched: bool = False,
    blocks: Sequence[tuple[str, float]] = (),
    digests: bool = False,
    progress: Listener = silent,
) -> Apply:
    """Return the recipe of a base with LoRAs."""
    if not loras:
        raise UsageError("no LoRA given; name at least one.")
    refs = [base, *(ref for ref, _ in loras)]
    nodes = [node_for(ref, digests=digests, progress=progress) for ref in refs]
    params: dict[str, Any] = {
        "strengths": tuple(float(strength) for _, strength in loras),
        "skip_unmatched": skip_unmatched,
        "blocks": "\n".join(f"{pattern}={float(number)!r}" for pattern, number in blocks),
    }
    alphas = tuple(stated_alpha(ref) for ref, _ in loras)
    if any(alpha is not None for alpha in alphas):
        params["alphas"] = alphas
    return Apply("lora_bake", tuple(nodes), complete("lora_bake", OPS["lora_bake"], Params(params)))


def open_with_loras(
    base: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    *,
    skip_unmatched: bool = False,
) -> Checkpoint:
    """Open a base with LoRAs added, without writing it: computed where it is read.

    The same bits as ``lora_bake`` writes. It says about itself what the base says.

    Raises:
        MismatchError: a LoRA does not fit; lists every layer that does not.
    """
    if not loras:
        return resolve(base)
    node = lora_node(base, loras, skip_unmatched=skip_unmatched)
    return evaluate(node, open_source, OPS, metadata=metadata_of(node.inputs[0]))
