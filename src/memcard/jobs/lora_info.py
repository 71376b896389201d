"""Look inside a LoRA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memcard.architectures import identify
from memcard.core.checkpoint import Checkpoint
from memcard.errors import MismatchError
from memcard.jobs._lora_alpha import json_object, stated_alphas
from memcard.jobs._lora_folder import lora_file
from memcard.jobs.resolve import card_of, resolve
from memcard.maths.floats import STORED
from memcard.ops._lora import Factors, factors
from memcard.ops._lora_fit import match
from memcard.ops._lora_names import aliases, component_of


@dataclass(frozen=True, slots=True)
class LoraInfo:
    """What a LoRA file holds.

    Attributes:
        kinds: LoRA, LoHa, DoRA… to number of changes.
        dialect: whose names it has: kohya, peft, diffusers, LyCORIS…; None if they tell nothing.
        family: of the base it is for; None if neither names nor metadata tell.
        ranks: rank to number of layers.
        alphas: alpha to number of layers; None stands for "not stated", which means the rank.
        targets: number of layers it changes.
        components: unet, text_encoder, … to number of layers.
        trigger_words: words that call it up, as the file states them.
        unmatched: what fits no layer of the base, or is of no known kind; one sentence each.
        metadata: what the file says about itself.
    """

    kinds: Mapping[str, int]
    dialect: str | None
    family: str | None
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
            "kinds": dict(self.kinds),
            "dialect": self.dialect,
            "family": self.family,
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


def lora_info(ref: str | Path, *, base: str | Path | None = None) -> LoraInfo:
    """Look inside a LoRA; with ``base``, tell what of it would fit.

    Raises:
        MismatchError: there is nothing of a LoRA in the file.
    """
    ref = lora_file(ref)
    lora = resolve(ref)
    try:
        modules, strays = factors(lora.specs)
        if not modules:
            raise MismatchError(_nothing(ref, strays))
        unmatched = [f"{n!r}: not a part of any kind of LoRA that memcard knows" for n in strays]
        if base is not None:
            model = resolve(base)
            _, unmatched = match(lora.specs, model.specs, aliases(model.specs))
            model.close()
        return _info(lora, modules, unmatched, stated_alphas(ref))
    finally:
        lora.close()


def _nothing(ref: str | Path, strays: Sequence[str]) -> str:
    if not strays:
        return f"{ref}: no tensors in it."
    return (
        f"{ref}: no LoRA factors in it (such as NAME.lora_up.weight); first tensor: {strays[0]!r}."
    )


def _info(
    lora: Checkpoint,
    modules: Sequence[Factors],
    unmatched: Sequence[str],
    said: Mapping[str, float],
) -> LoraInfo:
    found = identify(lora.specs, lora.metadata)
    names = dict.fromkeys(f.module for f in modules)
    ranked = [f for f in modules if f.rank and f.leaf == "weight"]
    return LoraInfo(
        kinds=Counter(_kind(f) for f in modules),
        dialect=found.dialect,
        family=found.architecture,
        ranks=dict(sorted(Counter(f.rank for f in ranked).items())),
        alphas=Counter(_alpha(lora, f, said) for f in ranked),
        targets=len(names),
        components=Counter(component_of(module) for module in names),
        trigger_words=_trigger_words(lora.metadata),
        unmatched=tuple(unmatched),
        metadata=dict(lora.metadata),
    )


def _kind(f: Factors) -> str:
    decomposed = f.get("dora") or f.get("magnitude")
    return f.kind.replace("LoRA", "DoRA") if decomposed and f.kind == "LoRA" else f.kind


def _alpha(lora: Checkpoint, f: Factors, said: Mapping[str, float]) -> float | None:
    name = f.get("alpha")
    if name is None or lora.specs[name].elements != 1:
        return said.get(f.module)
    dtype = STORED.get(lora.specs[name].dtype.name)
    return None if dtype is None else float(np.frombuffer(lora.read(name), dtype)[0])


def _trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Collect trigger words: from the card, ModelSpec, or as kohya's training folders name them."""
    stated = card_of(metadata).get("trigger_words")
    if isinstance(stated, (list, tuple)) and stated:
        return tuple(map(str, stated))
    text = metadata.get("modelspec.trigger_phrase") or metadata.get("modelspec.trigger_word")
    if text:
        return tuple(word.strip() for word in text.split(",") if word.strip())
    # kohya: {"10_name": {...}} means "repeat the images of 'name' 10 times".
    folders = json_object(metadata.get("ss_dataset_dirs", ""))
    return tuple(folder.partition("_")[2] or folder for folder in folders)
