"""What the house knows about a family of models, as data: the protocol of the shelf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from memcard.core.tensors import Specs

Kind: TypeAlias = Literal[
    "checkpoint",  # a denoiser with more beside it: what one loads to generate
    "denoiser",  # a bare UNet or transformer
    "vae",
    "text_encoder",
    "image_encoder",
    "lora",
    "embedding",
    "controlnet",
    "motion_module",
    "ip_adapter",  # a picture as prompt
    "hypernetwork",
    "upscaler",
    "delta",  # some tensors that stand in for those of a base
    "training",  # mostly optimizer state and counters
    "unknown",
]

Role: TypeAlias = Literal["text encoder", "image encoder", "VAE", "base model", "low-noise half"]
Modality: TypeAlias = Literal["image", "video", "video with sound"]


@dataclass(frozen=True, slots=True)
class Need:
    """One thing a denoiser cannot generate without."""

    role: Role
    what: str  # such as "CLIP-L" or "Flux, 16 channels"

    def __str__(self) -> str:
        return f"{self.role}: {self.what}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a checkpoint is taken for a family, and what the family says about it."""

    reasons: tuple[str, ...]  # one fact each, e.g. "attn2.to_k is 768 wide: CLIP-L"
    components: tuple[str, ...] = ()  # those that are there: unet, vae, text_encoder
    variant: str | None = None  # within the family; None is the plain one
    dialect: str | None = None  # whose names the denoiser's tensors have: ldm, original, diffusers
    root: str = ""  # what stands before the denoiser's names
    denoiser: str = "unet"  # or transformer
    prediction: str | None = None  # of this variant; None if the family does not settle it
    needs: tuple[Need, ...] = ()  # what generating takes beside the denoiser
    modality: Modality = "image"
    kind: Kind = "denoiser"  # what a file is that holds nothing else
    title: str = ""  # of the family


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a checkpoint."""

    parameters: int
    nbytes: int
    dtypes: Mapping[str, int]  # dtype to bytes, the largest share first
    what: str | None = None  # such as "CLIP-L, 12 layers" or "KL autoencoder, 16 channels"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint is, on what evidence; from names, shapes and metadata alone.

    Attributes:
        kind: what sort of file.
        architecture: name of the family; None if unknown or ambiguous. Also set for a LoRA, VAE or
            ControlNet when the family it is made for can be told.
        candidates: every family that fits; more than one is an ambiguity.
        variant: within the family, such as ``inpainting``, ``schnell``, ``image to video 14B``.
        dialect: whose names the tensors have: ``ldm``, ``diffusers``, ``kohya``, ``peft``…
        evidence: one fact each, for family, variant, kind and dialect.
        components: those that are there, the denoiser first.
        missing: what generating needs that is not in the file, such as ``text encoder: T5-XXL``.
        prediction: ``epsilon``, ``v_prediction``, ``flow``, ``edm``; None if nothing tells.
        prediction_evidence: what tells it; also zero-terminal-SNR markers.
        ema: EMA weights lie beside the raw ones.
        quantization: such as ``GGUF Q4_K, Q6_K`` or ``scaled fp8``; None if there is none.
        modality: ``image``, ``video`` or ``video with sound``; None if the family is unknown.
    """

    kind: Kind = "unknown"
    architecture: str | None = None
    candidates: tuple[str, ...] = ()
    variant: str | None = None
    dialect: str | None = None
    evidence: tuple[str, ...] = ()
    components: Mapping[str, Component] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    prediction: str | None = None
    prediction_evidence: tuple[str, ...] = ()
    ema: bool = False
    quantization: str | None = None
    modality: Modality | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """Settings that suit a family, until a card or the user says otherwise."""

    steps: int = 20
    cfg: float = 7.0
    sampler: str = "dpmpp_2m"
    width: int = 512
    height: int = 512
    multiple: int = 8
    negative: str = ""
    prediction_type: str = "epsilon"
    extra: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Architecture(Protocol):
    """A model family. The file name in ``memcard/architectures`` is its public name."""

    title: str
    source: str
    defaults: Defaults

    def detect(self, specs: Specs) -> Evidence | None:
        """Tell from names and shapes alone whether this family fits; None if not."""
        ...
