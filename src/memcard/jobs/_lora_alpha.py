"""The alpha of a LoRA whose tensors carry none.

PEFT keeps it in ``adapter_config.json`` beside the file, diffusers in the metadata of the file: one for
all modules, and others by patterns of names. Patterns are regular expressions there; only plain names
are read here, because a stranger's expression can keep a computer busy for ever.

Source: PEFT ``tuners/lora/config.py`` and ``utils/other.py`` (``get_pattern_key``); diffusers
``loaders/lora_base.py`` (``lora_adapter_metadata``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Final

from memcard.core.tensors import Specs
from memcard.errors import MismatchError, UnsupportedError
from memcard.jobs._lora_folder import WEIGHTS
from memcard.jobs.resolve import locate, resolve
from memcard.ops._lora import factors

METADATA: Final = "lora_adapter_metadata"
CONFIG: Final = "adapter_config.json"
_PLAIN: Final = re.compile(r"\^?[\w.-]+")
_COMPONENT: Final = re.compile(r"(?:unet|transformer|text_encoder(?:_\d)?)(?=\.)")
_WRAPPER: Final = "base_model.model."


@dataclass(frozen=True, slots=True)
class _Config:
    """One component's configuration."""

    alpha: float
    patterns: Mapping[str, float]
    stable: bool

    def of(self, bare: str, rank: int) -> float:
        """Return the alpha of a module that does the same as this configuration."""
        named = (alpha for pattern, alpha in self.patterns.items() if _means(pattern, bare))
        # Rank-stabilised LoRA divides by the root of the rank.
        return next(named, self.alpha) * (sqrt(rank) if self.stable else 1.0)


@dataclass(frozen=True, slots=True)
class Stated:
    """What a file states about the alphas of its modules, by component; "" is for all others."""

    configs: Mapping[str, _Config]

    def alpha(self, module: str, rank: int) -> float | None:
        """Return the alpha stated for a module; None if none is.

        Raises:
            MismatchError: the module names no component, and the components have different alphas.
        """
        found = _COMPONENT.match(module)
        component = found[0] if found else ""
        bare = module.removeprefix(f"{component}.").removeprefix(_WRAPPER)
        bare = bare.replace(".processor.", ".")
        config = self.configs.get(component, self.configs.get(""))
        if config is not None or component:
            return None if config is None else config.of(bare, rank)
        alphas = tuple(dict.fromkeys(c.of(bare, rank) for c in self.configs.values()))
        if len(alphas) > 1:
            raise MismatchError(
                f"{module!r}: several alphas are stated ({', '.join(map(str, alphas))}), one for each "
                f"of {', '.join(self.configs)}, and the name says none of them. Put one component into "
                "a file."
            )
        return alphas[0] if alphas else None


def stated(ref: str | Path) -> Stated:
    """Return what a file and the configuration beside it state.

    Raises:
        UnsupportedError: a pattern is more than a name.
    """
    entries = _entries(ref)
    parts = dict.fromkeys(key.rpartition(".")[0] for key in entries)
    configs = ((part, _config(ref, part, entries)) for part in parts)
    return Stated({part: config for part, config in configs if config is not None})


def stated_alphas(ref: str | Path) -> dict[str, float]:
    """Return the alpha of each module that has a rank and no alpha of its own, where one is stated."""
    found = stated(ref)
    if not found.configs:
        return {}
    lora = resolve(ref)
    try:
        return dict(_alphas(lora.specs, found))
    finally:
        lora.close()


def oft_terms(ref: str | Path) -> float | None:
    """Return by how many terms of a series PEFT's OFT turns; 0: exactly; None if nothing tells.

    Raises:
        UnsupportedError: it is the constrained variant.
    """
    entries = _entries(ref)
    if entries.get("peft_type") != "OFT":
        return None
    if entries.get("coft") is True:
        raise UnsupportedError(
            f"{ref}: is constrained OFT (coft), which is not read. Merge the adapter with PEFT instead."
        )
    if entries.get("use_cayley_neumann") is False:
        return 0.0
    terms = entries.get("num_cayley_neumann_terms")
    return float(terms) if _is_number(terms) and isinstance(terms, int) else None


def _entries(ref: str | Path) -> dict[str, Any]:
    """Return what the configuration beside a file says, else the one in it."""
    path = locate(ref)
    beside = path.parent / CONFIG
    if path.name.startswith(WEIGHTS) and beside.is_file():
        return json_object(beside.read_text("utf-8"))
    lora = resolve(ref)
    text = lora.metadata.get(METADATA, "")
    lora.close()
    return json_object(text)


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object; {} where there is none."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _alphas(specs: Specs, found: Stated) -> Iterator[tuple[str, float]]:
    for f in factors(specs)[0]:
        alpha = found.alpha(f.module, f.rank) if f.rank and f.get("alpha") is None else None
        if alpha is not None:
            yield f.module, alpha


def _config(ref: str | Path, part: str, entries: Mapping[str, Any]) -> _Config | None:
    start = f"{part}." if part else ""
    alpha = entries.get(f"{start}lora_alpha")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        return None
    stated = entries.get(f"{start}alpha_pattern")
    patterns = stated if isinstance(stated, dict) else {}
    odd = [p for p, v in patterns.items() if not _PLAIN.fullmatch(p) or not _is_number(v)]
    if odd:
        raise UnsupportedError(
            f"{ref}: its configuration gives alphas by patterns that are no plain names: "
            f"{', '.join(map(repr, odd[:5]))}. Merge the adapter with PEFT instead."
        )
    numbers = {str(p): float(v) for p, v in patterns.items()}
    return _Config(float(alpha), numbers, entries.get(f"{start}use_rslora") is True)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _means(pattern: str, bare: str) -> bool:
    name = pattern.removeprefix("^")
    return bare == name or (name == pattern and bare.endswith(f".{name}"))
