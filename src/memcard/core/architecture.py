"""What the house knows about a family of models, as data: the protocol of the shelf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from memcard.core.tensors import Specs


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a checkpoint is taken for a family."""

    reasons: tuple[str, ...]  # one fact each, e.g. "attn2.to_k is 768 wide: CLIP-L"
    components: tuple[str, ...] = ()  # those that are there: unet, vae, text_encoder


@dataclass(frozen=True, slots=True)
class Target:
    """Where a tensor of a file belongs in the diffusers model."""

    component: str  # unet, vae, text_encoder
    key: str  # its name in the state dict of that component
    reshape: tuple[int, ...] | None = None  # same bytes under another shape


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

    def component(self, name: str) -> str | None:
        """Return ``unet``, ``vae`` or ``text_encoder`` for a tensor name; None if it is none."""
        ...

    def targets(self, specs: Specs) -> Mapping[str, Target]:
        """Map tensor names of a file to places in the diffusers components; the rest is left out."""
        ...

    def configs(self, specs: Specs) -> Mapping[str, Mapping[str, Any]]:
        """Constructor arguments of each component present, widths read off the shapes."""
        ...
