"""A family of Latent Diffusion single files that memcard can run: UNet, KL autoencoder, CLIP.

Known by signs as every family; on top come the places of its tensors in diffusers' models and the
numbers that no shape tells (heads, norm groups, latent scale).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from memcard.architectures import _clip, _unet, _vae
from memcard.architectures._family import Family
from memcard.architectures._names import EMA_PREFIXES, Names
from memcard.core.architecture import Evidence, Target
from memcard.core.tensors import Specs

_STARTS = {
    "unet": (*_unet.PREFIXES[:-1], "input_blocks.", "middle_block.", "output_blocks.",
             "time_embed.", "out.", "label_emb."),
    "vae": (*_vae.PREFIXES[:-1], "decoder.", "encoder.conv_", "encoder.down.", "encoder.mid.",
            "encoder.norm_out.", "quant_conv.", "post_quant_conv."),
    "text_encoder": ("cond_stage_model.", "text_model.", "embeddings.", "encoder.layers.",
                     "final_layer_norm."),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LatentDiffusion(Family):
    """A family that runs, and its numbers."""

    heads: int  # of the UNet's attentions
    groups: int  # of the UNet's norms
    vae_groups: int
    scaling: float  # latents are multiplied by this before the UNet sees them
    text_head: int  # width of one head of the text encoder

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

    def component(self, name: str) -> str | None:
        """Return ``unet``, ``vae`` or ``text_encoder`` for a tensor name; None if it is none."""
        return next((part for part, starts in _STARTS.items() if name.startswith(starts)), None)

    def targets(self, specs: Specs) -> Mapping[str, Target]:
        """Map tensor names of a file to places in the diffusers components; the rest is left out.

        Takes a whole checkpoint or any one component, with its usual prefix or none.
        """
        unet, vae, text = _unet.outline(specs), _vae.outline(specs), _clip.outline(specs)
        found: dict[str, Target] = {}
        for name, spec in specs.items():
            if unet and (key := unet.key(name)):
                found[name] = Target("unet", key)
            elif vae and (target := vae.target(name, spec.shape)):
                found[name] = target
            elif text and (key := text.key(name)):
                found[name] = Target("text_encoder", key)
        return found

    def configs(self, specs: Specs) -> Mapping[str, Mapping[str, Any]]:
        """Constructor arguments of each component present, widths read off the shapes."""
        unet, vae, text = _unet.outline(specs), _vae.outline(specs), _clip.outline(specs)
        found: dict[str, Mapping[str, Any]] = {}
        factor = 2 ** (len(vae.widths) - 1) if vae else 8
        if unet:
            sample = self.defaults.height // factor
            found["unet"] = unet.config(heads=self.heads, groups=self.groups, sample=sample)
        if vae:
            found["vae"] = vae.config(
                groups=self.vae_groups, sample=self.defaults.height, scaling=self.scaling
            )
        if text:
            found["text_encoder"] = text.config(heads=max(1, text.width // self.text_head))
        return found
