"""Model families as data: key patterns, components, configs, default settings.

Every family is asked; none wins by coming first. Two that fit are an ambiguity, and stay one.
"""

from __future__ import annotations

from collections.abc import Mapping

from memcard.core.architecture import Architecture, Evidence
from memcard.core.registry import Registry
from memcard.core.tensors import Specs

__all__ = ["ARCHITECTURES", "candidates", "detect"]

ARCHITECTURES: Registry[Architecture] = Registry("memcard.architectures")


def candidates(specs: Specs) -> Mapping[str, Evidence]:
    """Ask every family and return those that fit, with their evidence; headers only."""
    found = ((name, family.detect(specs)) for name, family in ARCHITECTURES.items())
    return {name: evidence for name, evidence in found if evidence is not None}


def detect(specs: Specs) -> tuple[str, Evidence] | None:
    """Name the one family that fits; None if none does or more than one (see ``candidates``).

    A family is known by its denoiser: a lone VAE, text encoder or LoRA is None. What else the file
    holds is in ``Evidence.components``, so a UNet alone is not taken for a whole checkpoint.
    """
    found = candidates(specs)
    return next(iter(found.items())) if len(found) == 1 else None
