"""Bake a LoRA into a checkpoint, or look inside one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, silent
from memcard.errors import MismatchError, UsageError
from memcard.jobs._making import Made, make
from memcard.jobs.resolve import card_of, locate, metadata_of, node_for, open_source, resolve
from memcard.maths.floats import STORED
from memcard.ops import OPS
from memcard.ops._lora import Factors, aliases, canonical, factors
from memcard.ops.lora_bake import match
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params
from memcard.recipes.op import complete


@dataclass(frozen=True, slots=True)
class LoraInfo:
    """What a LoRA file holds.

    Attributes:
        ranks: rank to number of layers.
        alphas: alpha to number of layers; None stands for "not stated", which means the rank.
        targets: number of layers it changes.
        components: unet, text_encoder, … to number of layers.
        trigger_words: words that call it up, as the file states them.
        unmatched: what fits no layer of the base, or is no plain LoRA; one sentence each.
        metadata: what the file says about itself.
    """

    ranks: Mapping[int, int]
    alphas: Mapping[float | None, int]
    targets: int
    components: Mapping[str, int]
    trigger_words: tuple[str, ...]
    unmatched: tuple[str, ...]
    metadata: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values; ``rank`` where alpha is not stated."""
        return {
            "targets": self.targets,
            "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "alphas": {
                "rank" if alpha is None else f"{alpha:g}": count
                for alpha, count in self.alphas.items()
            },
            "components": dict(self.components),
            "trigger_words": list(self.trigger_words),
            "unmatched": list(self.unmatched),
            "metadata": dict(self.metadata),
        }


def lora_bake(
    base: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    out: str | Path,
    *,
    skip_unmatched: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    digests: bool = True,
    threads: int | None = None,
    progress: Listener = silent,
) -> Made:
    """Write the base with LoRAs added: W + strength (alpha / rank) up @ down, one after another.

    Args:
        base: path or name.
        loras: (path or name, strength) in the order they are added.
        out: file to write; the suffix names the format.
        skip_unmatched: leave out what fits no layer instead of refusing.
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
        base,
        loras,
        skip_unmatched=skip_unmatched,
        digests=digests and not dry_run,
        progress=progress,
    )
    return make(node, out, overwrite=overwrite, dry_run=dry_run, threads=threads, progress=progress)


def lora_node(
    base: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    *,
    skip_unmatched: bool = False,
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
    }
    alphas = tuple(_stated_alpha(ref) for ref, _ in loras)
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


def lora_info(ref: str | Path, *, base: str | Path | None = None) -> LoraInfo:
    """Look inside a LoRA; with ``base``, tell what of it would fit.

    Raises:
        MismatchError: there is nothing of a LoRA in the file.
    """
    lora = resolve(ref)
    try:
        modules, strays = factors(lora.specs)
        if not modules and not strays:
            raise MismatchError(f"{ref}: no tensors in it.")
        if not modules:
            raise MismatchError(
                f"{ref}: no LoRA factors in it (such as NAME.lora_up.weight); "
                f"first tensor: {strays[0]!r}."
            )
        unmatched = [f"{name!r}: not a plain LoRA tensor" for name in strays]
        if base is not None:
            model = resolve(base)
            _, unmatched = match(lora.specs, model.specs, aliases(model.specs))
            model.close()
        return LoraInfo(
            ranks=dict(sorted(Counter(f.rank for f in modules.values()).items())),
            alphas=Counter(_alpha(lora, f) for f in modules.values()),
            targets=len(modules),
            components=Counter(_component(f.module) for f in modules.values()),
            trigger_words=_trigger_words(lora.metadata),
            unmatched=tuple(unmatched),
            metadata=dict(lora.metadata),
        )
    finally:
        lora.close()


def _stated_alpha(ref: str | Path) -> float | None:
    """Return the alpha of a LoRA whose tensors carry none, from its metadata; None if not stated.

    PEFT keeps it in ``adapter_config.json`` beside the file, diffusers in the metadata.
    """
    config = locate(ref).parent / "adapter_config.json"
    lora = resolve(ref)
    metadata = lora.metadata
    lora.close()
    texts = [metadata.get("lora_adapter_metadata", "")]
    if locate(ref).name.startswith("adapter_model") and config.is_file():
        texts.append(config.read_text("utf-8"))
    for text in texts:
        stated = _json_object(text)
        values = [v for k, v in stated.items() if k.rpartition(".")[2] == "lora_alpha"]
        alphas = tuple(dict.fromkeys(float(v) for v in values if isinstance(v, (int, float))))
        if len(alphas) > 1:
            raise MismatchError(
                f"{ref}: states several alphas ({', '.join(map(str, alphas))}), one per "
                "component. Convert the file to kohya's form, which keeps alpha with each layer."
            )
        if alphas:
            return alphas[0]
    return None


def _alpha(lora: Checkpoint, f: Factors) -> float | None:
    if f.alpha is None or lora.specs[f.alpha].elements != 1:
        return None
    dtype = STORED.get(lora.specs[f.alpha].dtype.name)
    return None if dtype is None else float(np.frombuffer(lora.read(f.alpha), dtype)[0])


def _component(module: str) -> str:
    name = canonical(module)
    known = ("unet", "text_encoder_2", "text_encoder", "transformer", "vae")
    return next((c for c in known if name.startswith(f"{c}_")), "unknown")


def _trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Collect trigger words: from the card, ModelSpec, or as kohya's training folders name them."""
    stated = card_of(metadata).get("trigger_words")
    if isinstance(stated, (list, tuple)) and stated:
        return tuple(map(str, stated))
    text = metadata.get("modelspec.trigger_phrase") or metadata.get("modelspec.trigger_word")
    if text:
        return tuple(word.strip() for word in text.split(",") if word.strip())
    # kohya: {"10_name": {...}} means "repeat the images of 'name' 10 times".
    folders = _json_object(metadata.get("ss_dataset_dirs", ""))
    return tuple(folder.partition("_")[2] or folder for folder in folders)


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
