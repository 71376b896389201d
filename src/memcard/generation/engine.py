"""What an engine is: how one kind of model turns words and noise into a picture or a clip.

The loop of ``denoise`` is the same for all; an engine says how words become what the denoiser is told,
which shape its noise has, how one step is asked for, and how latents become pixels. One file in
``generation/engines`` is one engine; the models are diffusers' and transformers' own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from memcard.generation.settings import Settings
from memcard.generation.words import Words

# What the denoiser is told beside latents and time, by the engine's own names; each [1, ...].
Cond: TypeAlias = Mapping[str, Tensor]

FULL_VAE: Final = "vae in float32"  # of ``Pipeline.extras``: what loads the autoencoder so
LOW_MEMORY: Final = "low memory"  # of ``Pipeline.extras``: what lets go of the text encoders
NAMED: Final = "named"  # of ``Pipeline.extras``: what file and metadata call the checkpoint
_SMALL: Final = 100_000_000  # parameters; below, float32 on one thread costs nothing that matters


@runtime_checkable
class Engine(Protocol):
    """How one kind of model generates. The file name in ``generation/engines`` is its public name."""

    title: str
    source: str  # the paper or the code that defines the arithmetic
    families: tuple[str, ...]  # names in ``architectures`` it runs
    components: tuple[str, ...]  # all it needs, as diffusers calls them, in the order of loading
    optional: tuple[str, ...]  # of these, what it can do without
    variants: tuple[str, ...]  # kinds of these families it runs beside the plain one
    vae_encoder: tuple[str, ...]  # layers of the VAE that are loaded only to read pictures

    def empty(self, component: str, config: Mapping[str, Any]) -> nn.Module:
        """Build a component on the meta device; the caller fills it."""
        ...

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return what the denoiser is told about one prompt, or about what not to paint."""
        ...

    def noise(self, pipeline: Pipeline, settings: Settings, source: Generator) -> Tensor:
        """Return unit noise as the denoiser takes it, [1, ...], float32, on the CPU."""
        ...

    def scheduler(self, pipeline: Pipeline, settings: Settings) -> Any:
        """Return a scheduler of diffusers with its time steps set."""
        ...

    def predict(
        self, pipeline: Pipeline, latents: Tensor, moment: Tensor, cond: Cond, settings: Settings
    ) -> Tensor:
        """Ask the denoiser once: ``latents`` and every entry of ``cond`` have the same batch size."""
        ...

    def decode(self, pipeline: Pipeline, latents: Tensor, settings: Settings) -> Tensor:
        """Return pixels in 0..1, float32, on the CPU: [frames, height, width, 3]; a picture has one."""
        ...

    def encode_pixels(
        self, pipeline: Pipeline, pixels: Tensor, settings: Settings, source: Generator
    ) -> Tensor:
        """Return the latents of pixels in 0..1, [height, width, 3], as the denoiser takes them."""
        ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What a picture needs, ready to run.

    Attributes:
        architecture: public name of the family.
        engine: how it generates.
        modules: the components by name, with their weights.
        configs: of each component, and of the ``scheduler``.
        tokenizers: by name of the text encoder they speak to.
        prediction: what the denoiser says: ``epsilon``, ``v_prediction``, ``flow``.
        dtype: what the models compute in.
        device: where.
        extras: what an engine keeps with its models, such as embeddings a prompt can name.
    """

    architecture: str
    engine: Engine
    modules: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    tokenizers: Mapping[str, Any]
    prediction: str
    dtype: torch.dtype
    device: torch.device
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def denoiser(self) -> Any:
        """The UNet or transformer."""
        return self.modules["unet" if "unet" in self.modules else "transformer"]

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.modules["vae"]

    @property
    def factor(self) -> int:
        """Pixels per latent, along one side."""
        return int(2 ** (len(self.configs["vae"]["block_out_channels"]) - 1))

    def with_modules(self, **modules: Any) -> Pipeline:
        """Return the same pipeline with other components."""
        return replace(self, modules={**self.modules, **modules})

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a small model on one thread of the CPU.

        Its layers are too short to share: on a busy machine a second thread cost 13 CPU seconds instead
        of 6 for the starter's first picture, and saved none on a quiet one. The bits are the same.
        """
        before = torch.get_num_threads()
        if self.device.type == "cpu" and self.dtype == torch.float32 and self.small:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @property
    def small(self) -> bool:
        """Whether the denoiser has fewer parameters than any full-size family."""
        return bool(sum(p.numel() for p in self.denoiser.parameters()) < _SMALL)
