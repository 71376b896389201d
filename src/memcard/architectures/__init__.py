"""Model families as data: key patterns, components, configs, default settings.

Every family is asked; none wins by coming first. Two that fit are an ambiguity, and stay one.
"""

from __future__ import annotations

from collections.abc import Mapping

from memcard.architectures import _identify
from memcard.architectures._names import MOST, Names
from memcard.core.architecture import Architecture, Evidence, Identity
from memcard.core.registry import Registry
from memcard.core.tensors import Specs

__all__ = ["ARCHITECTURES", "candidates", "components", "detect", "identify"]

ARCHITECTURES: Registry[Architecture] = Registry("memcard.architectures")


def candidates(specs: Specs, metadata: Mapping[str, str] | None = None) -> Mapping[str, Evidence]:
    """Ask every family and return those that fit, with their evidence; headers only.

    A file of more tensors than any known model has is nobody's.
    """
    if len(specs) > MOST:
        return {}
    names = specs if isinstance(specs, Names) else Names(specs, metadata)
    found = ((name, family.detect(names)) for name, family in ARCHITECTURES.items())
    return {name: evidence for name, evidence in found if evidence is not None}


def detect(specs: Specs) -> tuple[str, Evidence] | None:
    """Name the one family that fits; None if none does or more than one (see ``candidates``).

    A family is known by its denoiser: a lone VAE, text encoder or LoRA is None. What else the file
    holds is in ``Evidence.components``, so a UNet alone is not taken for a whole checkpoint.
    """
    found = candidates(specs)
    return next(iter(found.items())) if len(found) == 1 else None


def identify(specs: Specs, metadata: Mapping[str, str]) -> Identity:
    """Say what a checkpoint is, on what evidence, from names, shapes and metadata alone.

    About 30 ms for 3,000 tensors. What is of no known family has the architecture None, never a
    guess; what fits several has them all in ``candidates``.
    """
    if len(specs) > MOST:
        fact = f"has {len(specs)} tensors, more than any known model: they were listed, not judged"
        return Identity(evidence=(fact,))
    names = Names(specs, metadata)
    return _identify.identity(names, candidates(names), _title)


def components(specs: Specs, metadata: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Return the component every tensor belongs to, under the names ``identify`` lists.

    ``unet`` or ``transformer``, ``vae``, ``text_encoder``, ``text_encoder_2``…, ``image_encoder``,
    ``controlnet``; ``ema``, ``training``; ``other`` for counters and markers; ``rest`` if unknown. Of a
    training save its sections: ``model``, ``optimizer``, ``ema``, ``random`` and so on.
    """
    if len(specs) > MOST:
        return dict.fromkeys(specs, "rest")
    names = Names(specs, metadata)
    return _identify.components_of(names, candidates(names))


def _title(name: str) -> str | None:
    return ARCHITECTURES[name].title if name in ARCHITECTURES else None
