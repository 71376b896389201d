"""The names of a file, indexed so that fifty families can be asked in a few milliseconds.

One model is stored under many prefixes. All rules are written for the names after the prefix; a
``Root`` is the view of a file under one of them. Packed weights are seen as wide as they unpack.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import cached_property
from typing import Final, TypeAlias

from memcard.core.tensors import Spec, Specs

Shape: TypeAlias = tuple[int, ...]

# ComfyUI, LDM, diffusers and training frameworks, in the order they are tried.
PREFIXES: Final = (
    *(
        "model.diffusion_model.",
        "diffusion_model.",
        "model.model.",
        "net.",
        "transformer.",
        "unet.",
    ),
    *("prior.", "decoder.", "module.", "model.", ""),
)
# Of real models the largest have 20,000. A file may claim millions; those are listed, not judged.
MOST: Final = 50_000
# LDM's EMA has the names of the raw weights with all dots taken out.
EMA_PREFIXES: Final = ("model_ema.diffusion_model",)


class Root:
    """The tensors of a file below one prefix, by the rest of their names."""

    def __init__(self, prefix: str, specs: Specs, *, dotless: bool = False) -> None:
        self.prefix = prefix
        self.specs = specs
        self.dotless = dotless

    def __contains__(self, key: str) -> bool:
        return self._key(key) in self.specs

    def shape(self, key: str) -> Shape | None:
        """Return the shape a tensor has once unpacked; None if its header does not tell."""
        spec = self.specs[self._key(key)]
        if spec.dtype.name not in ("U8", "I8") or not key.endswith("weight"):
            return spec.shape
        return self._unpacked(key, spec)

    def below(self, start: str) -> bool:
        """Whether any name starts with this."""
        start = self._key(start)
        place = bisect_left(self._sorted, start)
        return place < len(self._sorted) and self._sorted[place].startswith(start)

    def _key(self, key: str) -> str:
        return key.replace(".", "") if self.dotless else key

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.specs)

    def _unpacked(self, key: str, spec: Spec) -> Shape | None:
        """See through NVFP4 (two values a byte, scales of 8 bits) and bitsandbytes' NF4 (flat)."""
        scale = self.specs.get(self._key(f"{key}_scale"))
        if scale is not None and scale.dtype.name == "F8_E4M3" and len(spec.shape) == 2:
            return (spec.shape[0], 2 * spec.shape[1])
        if f"{key}.absmax" not in self and not self.below(f"{key}.quant_state"):
            return spec.shape
        bias = self.specs.get(self._key(key.removesuffix("weight") + "bias"))
        if bias is None or len(bias.shape) != 1 or not bias.shape[0]:
            return None
        return (bias.shape[0], 2 * spec.elements // bias.shape[0])


class Names(dict[str, Spec]):
    """All tensors of a file, with its metadata and its roots; what families are asked about."""

    def __init__(self, specs: Specs, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(specs)
        self.metadata: Mapping[str, str] = metadata or {}
        self._roots: dict[str, Root] = {}

    @classmethod
    def of(cls, specs: Specs) -> Names:
        """Index a file, unless that is done."""
        return specs if isinstance(specs, Names) else cls(specs)

    @cached_property
    def roots(self) -> tuple[Root, ...]:
        """Every prefix under which the file has names, and one that all its names share."""
        found = [self.root(prefix) for prefix in (*PREFIXES, *self.shared)]
        found += [Root(p, self._below(p), dotless=True) for p in EMA_PREFIXES]
        return tuple(root for root in found if root.specs)

    def root(self, prefix: str) -> Root:
        """Return the view below one prefix; it may be empty."""
        if prefix not in self._roots:
            self._roots[prefix] = Root(prefix, self._below(prefix) if prefix else self)
        return self._roots[prefix]

    def _below(self, prefix: str) -> Specs:
        order, cut = self._order, len(prefix)
        start = bisect_left(order, prefix)
        end = bisect_left(order, prefix[:-1] + chr(ord(prefix[-1]) + 1), start)
        return {name[cut:]: self[name] for name in order[start:end]}

    @cached_property
    def _order(self) -> list[str]:
        return sorted(self)

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """What a trainer put before every name, such as ``student.``, level by level."""
        if len(self) < 2:
            return ()
        first, last = min(self), max(self)
        same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
        levels = first[:same].split(".")[:-1]
        found = (".".join(levels[:depth]) + "." for depth in range(1, min(len(levels), 4) + 1))
        return tuple(prefix for prefix in found if prefix not in PREFIXES)
