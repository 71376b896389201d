"""A family of Latent Diffusion single files: UNet, KL autoencoder, CLIP.

Known by signs as every family; on top come the outlines of its parts, which must fit together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from memcard.architectures import _clip, _unet, _vae
from memcard.architectures._family import Family
from memcard.architectures._names import EMA_PREFIXES, Names
from memcard.core.architecture import Evidence
from memcard.core.tensors import Specs


@dataclass(frozen=True, kw_only=True)
class LatentDiffusion(Family):
    """A family that ``generation`` runs from its single files."""

    def detect(self, specs: Specs) -> Evidence | None:
        """Tell from names and shapes alone whether this family fits; None if not."""
        names = Names.of(specs)
        evidence = super().detect(names)
        if evidence is None or evidence.dialect != self.dialect or evidence.root in EMA_PREFIXES:
            return evidence
        unet = _unet.outline(names.root(evidence.root).specs)
        text = _clip.outline(names)
        if unet is None or (text and text.width != unet.cross):
            return None
        parts = {"unet": unet, "vae": _vae.outline(names), "text_encoder": text}
        there = tuple(name for name, part in parts.items() if part)
        more = [f"{text.prefix}* has {text.layers} layers, {text.width} wide"] if text else []
        return replace(evidence, reasons=(*evidence.reasons, *more), components=there)
