"""Bake LoRAs into a checkpoint, or open it with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, silent
from memcard.errors import UsageError
from memcard.jobs._lora_alpha import oft_terms, stated_alphas
from memcard.jobs._lora_blocks import block_strengths
from memcard.jobs._lora_folder import lora_file
from memcard.jobs._making import Made, make
from memcard.jobs.resolve import metadata_of, node_for, open_source, resolve
from memcard.maths.adapters import NEUMANN_TERMS
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params
from memcard.recipes.op import complete

_TEXT = "^text_encoder"  # modules of text encoders, all of them

__all__ = ["block_strengths", "lora_bake", "lora_node", "open_with_loras"]


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
        loras: (path or name, strength) in the order they are added; also a folder of PEFT's.
        out: file to write; the suffix names the format.
        skip_unmatched: leave out what fits no layer instead of refusing.
        blocks: (pattern, number); the first pattern found in a module's name, words joined by ``_``
            such as ``unet_up_blocks_1_attentions_0_proj_in``, multiplies the strengths there.
            ``block_strengths`` makes such rules of a preset or a list of numbers.
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
    loras = [(lora_file(ref), strength) for ref, strength in loras]
    refs = [base, *(ref for ref, _ in loras)]
    nodes = [node_for(ref, digests=digests, progress=progress) for ref in refs]
    params: dict[str, Any] = {
        "strengths": tuple(float(strength) for _, strength in loras),
        "skip_unmatched": skip_unmatched,
        "blocks": "\n".join(f"{pattern}={float(number)!r}" for pattern, number in blocks),
    }
    stated = [stated_alphas(ref) for ref, _ in loras]
    alphas = tuple(_usual(found) for found in stated)
    if any(alpha is not None for alpha in alphas):
        params["alphas"] = alphas
    full = dict(complete("lora_bake", OPS["lora_bake"], Params(params)))
    # Where they say nothing they are left out: recipes from before them keep their ids.
    late = {
        "module_alphas": _unusual(stated, alphas),
        "neumann_terms": _terms([ref for ref, _ in loras]),
        "arithmetic": "",
    }
    rest = {key: value for key, value in full.items() if key not in late}
    said = {key: value for key, value in late.items() if value}
    return Apply("lora_bake", tuple(nodes), Params(rest | said))


def _terms(refs: Sequence[str | Path]) -> tuple[float, ...]:
    """Return the terms of PEFT's OFT for each LoRA; () if all have PEFT's default."""
    found = tuple(oft_terms(ref) for ref in refs)
    usual = float(NEUMANN_TERMS)
    if all(terms in (None, usual) for terms in found):
        return ()
    return tuple(usual if terms is None else terms for terms in found)


def _usual(alphas: Mapping[str, float]) -> float | None:
    """Return the alpha that most modules have; None if none is stated."""
    return Counter(alphas.values()).most_common(1)[0][0] if alphas else None


def _unusual(stated: Sequence[Mapping[str, float]], usual: Sequence[float | None]) -> str:
    """Return a line for each module that has another."""
    return "\n".join(
        f"{i} {module}={alpha!r}"
        for i, (found, common) in enumerate(zip(stated, usual, strict=True), 1)
        for module, alpha in found.items()
        if alpha != common
    )


def open_with_loras(
    base: str | Path,
    loras: Sequence[tuple[str | Path, float] | tuple[str | Path, float, float | None]],
    *,
    skip_unmatched: bool = False,
    blocks: Sequence[tuple[str, float]] = (),
) -> Checkpoint:
    """Open a base with LoRAs added, without writing it: computed where it is read.

    The same bits as ``lora_bake`` writes. It says about itself what the base says.

    Args:
        base: path or name.
        loras: (path or name, strength), or (path or name, strength, strength in the text encoders); those
            with a strength of their own for the text encoders are added one after another.
        skip_unmatched: as for ``lora_bake``.
        blocks: as for ``lora_bake``.

    Raises:
        MismatchError: a LoRA does not fit; lists every layer that does not.
    """
    if not loras:
        return resolve(base)
    split = [(lora[0], lora[1], lora[2] if len(lora) > 2 else None) for lora in loras]
    if all(text in (None, strength) for _, strength, text in split):
        pairs = [(ref, strength) for ref, strength, _ in split]
        node = lora_node(base, pairs, skip_unmatched=skip_unmatched, blocks=blocks)
        return evaluate(node, open_source, OPS, metadata=metadata_of(node.inputs[0]))
    node = _one_by_one(base, split, skip_unmatched=skip_unmatched, blocks=blocks)
    return evaluate(node, open_source, OPS, metadata=metadata_of(node))


def _one_by_one(
    base: str | Path,
    loras: Sequence[tuple[str | Path, float, float | None]],
    *,
    skip_unmatched: bool,
    blocks: Sequence[tuple[str, float]],
) -> Apply:
    """Return the recipe of a base with LoRAs that are stronger or weaker in the text encoders."""
    whole: Apply | None = None
    for ref, main, text in loras:
        strength, rules = main, list(blocks)
        if text is not None and text != strength:
            # One strength is stated; the other is a share of it.
            if strength:
                rules.insert(0, (_TEXT, text / strength))
            else:
                strength, rules = text, [(_TEXT, 1.0), (".", 0.0)]
        node = lora_node(base, [(ref, strength)], skip_unmatched=skip_unmatched, blocks=rules)
        whole = node if whole is None else Apply(node.op, (whole, *node.inputs[1:]), node.params)
    assert whole is not None, "the caller has at least one"  # noqa: S101
    return whole
