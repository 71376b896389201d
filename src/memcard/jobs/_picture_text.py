"""The A1111 text of a picture, under the keys and in the order that the field has; docs/spec/image-metadata.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memcard._version import __version__
from memcard.generation.image_a1111 import tags
from memcard.generation.image_info import stem, usual_clip_skip
from memcard.generation.infotext import Infotext, hashes, write

if TYPE_CHECKING:
    from memcard.generation.settings import Settings

_DIGITS = 10  # of a model's SHA-256, A1111's short hash
_LORA_DIGITS = 12


@dataclass(frozen=True, slots=True)
class SecondPass:
    """A hires fix: the picture is made again at a larger size.

    Attributes:
        scale: how many times the sides.
        steps: of the second pass.
        upscaler: what enlarged the latents or the picture.
    """

    scale: float
    steps: int
    upscaler: str


@dataclass(frozen=True, slots=True)
class Described:
    """What all pictures of a run say about themselves.

    Attributes:
        settings: as used.
        checkpoint: its name.
        sha256: of its file.
        architecture: its family; tells how others count the layers of CLIP.
        loras: ``name``, ``strength``, ``sha256``, ``autov3`` of each; ``text_strength`` where it differs, and
            ``in_prompt`` true for one that the prompt names.
        vae: ``name`` and ``sha256`` of another VAE.
        embeddings: ``name`` and ``sha256`` of each.
        recipe: id of the recipe that the checkpoint was made by.
        denoise: 0..1, of a picture painted over another, or of the second pass.
        second: the second pass.
    """

    settings: Settings
    checkpoint: str
    sha256: str
    architecture: str = ""
    loras: Sequence[Mapping[str, Any]] = ()
    vae: Mapping[str, str] | None = None
    embeddings: Sequence[Mapping[str, str]] = ()
    recipe: str | None = None
    denoise: float | None = None
    second: SecondPass | None = None

    def text(self, prompt: str, seed: int) -> str:
        """Return the ``parameters`` text of one picture; the prompt stays as typed."""
        return write(Infotext(prompt, self.settings.negative, self._pairs(prompt, seed)))

    def _pairs(self, prompt: str, seed: int) -> dict[str, str]:
        from memcard.generation.samplers import SAMPLERS
        from memcard.generation.schedule import SCHEDULES

        used = self.settings
        found: dict[str, str] = {
            "Steps": str(used.steps),
            "Sampler": SAMPLERS[used.sampler].a1111,
            "Schedule type": SCHEDULES[used.schedule].title,
            "CFG scale": f"{used.cfg:g}",
        }
        if used.image_cfg is not None:
            found["Image CFG scale"] = f"{used.image_cfg:g}"
        if used.guidance is not None:
            found["Distilled CFG Scale"] = f"{used.guidance:g}"
        found |= {
            "Seed": str(seed),
            "Size": f"{used.width}x{used.height}",
            "Model hash": self.sha256[:_DIGITS],
            "Model": stem(self.checkpoint),
        }
        if self.vae is not None:
            found |= {"VAE hash": self.vae["sha256"][:_DIGITS], "VAE": self.vae["name"]}
        return {**found, **self._more(), **self._files(prompt), "Version": f"memcard {__version__}"}

    def _more(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.denoise is not None:
            found["Denoising strength"] = f"{self.denoise:g}"
        skip = usual_clip_skip(self.settings.clip_skip, self.architecture)
        if skip != 1:  # A1111 leaves out what is usual
            found["Clip skip"] = str(skip)
        if self.settings.cfg_rescale:
            found["CFG Rescale"] = f"{self.settings.cfg_rescale:g}"
        found["RNG"] = "CPU"  # noise is drawn there, whatever the device
        if self.second is not None:
            found["Hires upscale"] = f"{self.second.scale:g}"
            found["Hires steps"] = str(self.second.steps)
            found["Hires upscaler"] = self.second.upscaler
        return found

    def _files(self, prompt: str) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.loras:
            named = [
                (name, str(lora.get("autov3", lora["sha256"]))[:_LORA_DIGITS])
                for name, lora in zip(self._names(prompt), self.loras, strict=True)
            ]
            found["Lora hashes"] = hashes(named)
        beside = [x for x in self.loras if not x.get("in_prompt")]
        if beside:  # the others have it in their tags
            found["Lora weights"] = hashes(
                [(stem(x["name"]), f"{x['strength']:g}") for x in beside]
            )
        if self.embeddings:
            found["TI hashes"] = hashes(
                [(stem(x["name"]), x["sha256"][:_LORA_DIGITS]) for x in self.embeddings]
            )
        if self.recipe:
            found["Recipe id"] = self.recipe
        return found

    def _names(self, prompt: str) -> list[str]:
        """Return what the LoRAs are called: by the tag, for those that the prompt names, in its order."""
        in_prompt = [tag.name for tag in tags(prompt)]
        own = iter(in_prompt if len(in_prompt) == sum(_tagged(x) for x in self.loras) else ())
        return [next(own, stem(x["name"])) if _tagged(x) else stem(x["name"]) for x in self.loras]


def _tagged(lora: Mapping[str, Any]) -> bool:
    return lora.get("in_prompt") is True
