"""The links of a Latent Diffusion UNet, from its outline on either side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memcard.architectures import _unet
from memcard.architectures._unet import UNet
from memcard.core.tensors import Specs
from memcard.dialects._dialect import Linker
from memcard.dialects._link import Link, Side, same

LDM = _unet.PREFIXES
DIFFUSERS = _unet.DIFFUSERS_PREFIXES


def outline(specs: Specs, side: Side) -> UNet | None:
    """Read the outline from bare names of one side."""
    read = _unet.outline if side == "ldm" else _unet.outline_diffusers
    found = read(specs)
    return found if found and found.prefix == "" else None


def linker(accepts: Callable[[UNet], bool], *, labels: str = "class_embedding") -> Linker:
    """Return the links of every UNet that ``accepts`` likes.

    Args:
        accepts: what the family's UNets have in common.
        labels: diffusers' name of ``label_emb``.
    """

    def links(specs: Specs, side: Side) -> Sequence[Link] | None:
        found = outline(specs, side)
        if found is None or not accepts(found):
            return None
        table = _unet.modules(found.layers, found.attention, labels=labels)
        single = same("label_emb.weight", "class_embedding.weight")  # the x4 upscaler's levels
        return (*(same(f"{a}.{{rest}}", f"{b}.{{rest}}") for a, b in table.items()), single)

    return links
