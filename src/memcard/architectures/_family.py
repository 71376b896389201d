"""A model family known by signs: data, no code.

A file of the shelf names the signs of the layout its authors published (``original``) and of
diffusers' (``diffusers``), written for the names after any prefix. Every family is asked about every
file, so the signs of a family must shut out all others; order never decides. Example::

    PLUGIN = Family(
        title="Flux.1",
        source="https://github.com/black-forest-labs/flux",
        original=(
            has("double_blocks.0.img_attn.norm.key_norm.scale", "double_blocks.0.img_attn.norm.key_norm.weight"),
            has("single_blocks.0.linear1.weight"),
            has("vector_in.in_layer.weight", says="takes CLIP's pooled text"),
            lacks("distilled_guidance_layer.", "txt_in.individual_token_refiner."),
        ),
        diffusers=(
            has("single_transformer_blocks.0.proj_mlp.weight"),
            has("time_text_embed.text_embedder.linear_1.weight"),
            width("context_embedder.weight", 1, 4096, says="T5-XXL"),
        ),
        variants=(
            Variant("dev", (has("guidance_in.in_layer.weight", "time_text_embed.guidance_embedder.linear_1.weight"),
                            width(("img_in.weight", "x_embedder.weight"), 1, 64))),
            Variant("fill", (width(("img_in.weight", "x_embedder.weight"), 1, 384),)),
        ),
        text_encoders=("CLIP-L", "T5-XXL"),
        vae="Flux, 16 channels",
        tokenizers=("clip", "t5"),
        prediction="flow",
        defaults=Defaults(steps=28, cfg=3.5, sampler="euler", width=1024, height=1024,
                          multiple=16, prediction_type="flow"),
    )

A key in ``has``, ``width``… may be a tuple of alternatives, so a variant's signs serve both layouts.
Text encoders are named as in ``_text_encoders.NAMES``; that is how a file's own are recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from memcard.architectures._names import Names, Root
from memcard.architectures._signs import (
    Sign,
    all_of,
    any_of,
    count,
    has,
    lacks,
    narrow,
    rank,
    said,
    unsaid,
    width,
)
from memcard.core.architecture import Defaults, Evidence, Kind, Modality, Need
from memcard.core.tensors import Specs

__all__ = [  # the two types, then the words to write signs with
    "Family", "Variant",
    "all_of", "any_of", "count", "has", "lacks", "narrow", "rank", "said", "unsaid", "width",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of model within a family. What is None is as in the family.

    Attributes:
        name: as people call it: ``inpainting``, ``schnell``, ``image to video 14B``.
        signs: written for both layouts. All variants are asked; several may fit (``inpainting``
            and ``v-prediction``), and none means the plain model.
        prediction: ``epsilon``, ``v_prediction``, ``flow``, ``edm``.
        text_encoders: all of them, in the model's order.
        vae: what decodes its latents.
        image_encoder: what reads the picture it is given.
        also: anything else it needs, such as the other half of a pair.
        modality: what it makes.
    """

    name: str
    signs: tuple[Sign, ...]
    _: KW_ONLY
    prediction: str | None = None
    text_encoders: tuple[str, ...] | None = None
    vae: str | None = None
    image_encoder: str | None = None
    also: tuple[Need, ...] = ()
    modality: Modality | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is known about one family.

    Attributes:
        title: as people call it.
        source: where its layout is published.
        original: signs of the layout of its authors; all must hold. Empty: there is none.
        diffusers: signs of diffusers' layout.
        denoiser: how diffusers calls it.
        dialect: name of the original layout.
        variants: see ``Variant``.
        text_encoders: those that generating takes, in the model's order.
        vae: what decodes its latents; None if it makes pixels.
        image_encoder: what reads a picture it is given; None if it takes none.
        also: anything else it needs.
        tokenizers: whose words it reads: ``clip``, ``t5``, ``umt5``, ``gemma``, ``qwen``…
        prediction: what it was trained to say; None if its files differ in that.
        modality: what it makes.
        kind: what a file is that holds nothing else.
        defaults: settings that suit it.
    """

    title: str
    source: str
    original: tuple[Sign, ...] = ()
    diffusers: tuple[Sign, ...] = ()
    denoiser: Literal["unet", "transformer"] = "transformer"
    dialect: str = "original"
    variants: tuple[Variant, ...] = ()
    text_encoders: tuple[str, ...] = ()
    vae: str | None = None
    image_encoder: str | None = None
    also: tuple[Need, ...] = ()
    tokenizers: tuple[str, ...] = ()
    prediction: str | None = None
    modality: Modality = "image"
    kind: Kind = "denoiser"
    defaults: Defaults = field(default_factory=Defaults)

    def detect(self, specs: Specs) -> Evidence | None:
        """Tell from names, shapes and metadata whether this family fits; None if not."""
        names = Names.of(specs)
        for root in names.roots:
            for dialect, signs in ((self.dialect, self.original), ("diffusers", self.diffusers)):
                seen = _all(signs, root, names.metadata)
                if seen is not None:
                    return self._evidence(names, root, dialect, seen)
        return None

    def _evidence(self, names: Names, root: Root, dialect: str, seen: tuple[str, ...]) -> Evidence:
        fitting = []
        for variant in self.variants:
            more = _all(variant.signs, root, names.metadata, sure=True)
            if more is not None:
                fitting.append(variant)
                seen += more
        return Evidence(
            reasons=tuple(dict.fromkeys(seen)),
            components=(self.denoiser,),
            variant=", ".join(v.name for v in fitting) or None,
            dialect=dialect,
            root=root.prefix,
            denoiser=self.denoiser,
            prediction=next((v.prediction for v in fitting if v.prediction), self.prediction),
            needs=self._needs(fitting),
            modality=next((v.modality for v in fitting if v.modality), self.modality),
            kind=self.kind,
            title=self.title,
        )

    def _needs(self, fitting: list[Variant]) -> tuple[Need, ...]:
        texts = next(
            (v.text_encoders for v in fitting if v.text_encoders is not None), self.text_encoders
        )
        image = next((v.image_encoder for v in fitting if v.image_encoder), self.image_encoder)
        vae = next((v.vae for v in fitting if v.vae), self.vae)
        needs = [Need("text encoder", text) for text in texts]
        needs += [Need("image encoder", image)] if image else []
        needs += [Need("VAE", vae)] if vae else []
        return (*needs, *self.also, *(need for v in fitting for need in v.also))


def _all(
    signs: tuple[Sign, ...], root: Root, metadata: Mapping[str, str], *, sure: bool = False
) -> tuple[str, ...] | None:
    """Return what was seen if all signs hold and there is one; None if not."""
    if not signs:
        return None
    seen = []
    for sign in signs:
        fact = sign.test(root, metadata, sure=sure)
        if fact is None:
            return None
        seen.append(fact)
    return tuple(fact for fact in seen if fact)
