"""Pictures while a base learns: the same prompts with the same seeds, painted by the weights of the moment.

The painter of ``memcard generate`` does it, so what the sheet shows is what the result will paint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from memcard.architectures import ARCHITECTURES
from memcard.core.atomic import replacing
from memcard.generation.denoise import Conditions, decode, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.engines import ENGINES
from memcard.generation.grid import Row, sheet
from memcard.generation.picture import picture
from memcard.generation.settings import Settings, resolve
from memcard.jobs._finetune_models import Base
from memcard.training.finetune.loop import autocast, running
from memcard.training.finetune.model import Model, Words

if TYPE_CHECKING:
    from PIL.Image import Image

_CELL: Final = 128
_PROMPTS: Final = "memcard.prompts"  # name of a text in the PNG: a JSON array
_USUAL: Final = {"clip_sample": False, "set_alpha_to_one": False}
_NOT_SCHEDULE: Final = ("_class_name", "prediction_type", "interpolation_type", "use_karras_sigmas",
                        "skip_prk_steps", "sigma_min", "sigma_max")  # fmt: skip


class Painter:
    """Paints prompts with the weights of the moment."""

    def __init__(self, base: Base, model: Model, size: tuple[int, int], precision: str) -> None:
        """Prepare.

        Args:
            base: says the schedule and, in its card, how it likes to be used.
            model: what learns.
            size: of the pictures, in pixels.
            precision: the one it learns in.
        """
        self._model, self._precision = model, precision
        family: Any = ARCHITECTURES[base.family]
        schedule = family.defaults.extra.get("scheduler") or _USUAL | {
            k: v for k, v in base.configs["scheduler"].items() if k not in _NOT_SCHEDULE
        }
        self._configs = {"vae": base.configs["vae"], "scheduler": schedule}
        user = {"width": size[0], "height": size[1], "prediction_type": base.prediction}
        self.settings: Settings = resolve(family, base.source.metadata, user)

    def paint(self, prompts: Sequence[str], seed: int) -> list[Image]:
        """Return one picture of each prompt; number n has the seed ``seed + n``.

        The weights, and every stream of random numbers but its own, stay as they are.
        """
        modules = [m for m in self._model.modules().values() if m.training]
        for module in modules:
            module.eval()
        try:
            with running(self._model), autocast(self._model.device, self._precision):
                return [self._one(prompt, seed + n) for n, prompt in enumerate(prompts)]
        finally:
            for module in modules:
                module.train()

    def _one(self, prompt: str, seed: int) -> Image:
        with torch.no_grad():
            words = self._model.words((self.settings.negative, prompt))
        if self._model.sizes and not self.settings.negative and words.pooled is not None:
            words.states[0], words.pooled[0] = (
                0,
                0,
            )  # SDXL's own pipeline: nothing is no words at all
        unet = _Told(self._model, words, self.settings)
        # SDXL's sizes and pooled words are told by ``_Told``, so one engine paints all.
        pipeline = Pipeline(
            self._model.family,
            ENGINES["stable_diffusion"],
            {"unet": unet, "vae": self._model.vae},
            self._configs,
            {},
            self.settings.prediction_type,
            torch.float32,
            self._model.device,
        )
        states = words.states.float()
        told = Conditions(((self.settings.steps, {"states": states[1:]}, {"states": states[:1]}),))
        if self.settings.cfg <= 1:
            told = Conditions(((self.settings.steps, {"states": states[1:]}, None),))
        latents = denoise(pipeline, told, self.settings, seed)
        return picture(decode(pipeline, latents, self.settings)[0])


class _Told:
    """A UNet that also knows what SDXL's must be told beside the words."""

    def __init__(self, model: Model, words: Words, settings: Settings) -> None:
        self._model, self._words = model, words
        self._sizes = (settings.height, settings.width, 0, 0, settings.height, settings.width)
        self.config = model.unet.config

    def __call__(
        self, noisy: Tensor, moment: Tensor, *, encoder_hidden_states: Tensor, **_: Any
    ) -> tuple[Tensor]:
        pooled = self._words.pooled
        if pooled is not None and len(noisy) < len(pooled):
            pooled = pooled[-len(noisy) :]  # without guidance: the prompt alone
        words = Words(encoder_hidden_states, pooled)
        said = self._model.predict(noisy, moment, words, [self._sizes] * len(noisy))
        return (said.float(),)


class Sheets:
    """The sheets of a run: a strip of pictures per step in a folder, and one page of all strips."""

    def __init__(self, folder: Path, prompts: Sequence[str]) -> None:
        """Use ``folder``, made on first need."""
        self.folder, self.prompts = folder, tuple(prompts)

    def keep(self, step: int, images: Sequence[Image]) -> Path:
        """Write the strip of a step; return its file."""
        from PIL import Image as Images
        from PIL.PngImagePlugin import PngInfo

        width, height = images[0].size
        strip = Images.new("RGB", (width * len(images), height))
        for n, image in enumerate(images):
            strip.paste(image.convert("RGB"), (n * width, 0))
        self.folder.mkdir(parents=True, exist_ok=True)
        path, said = self.folder / f"step-{step:09d}.png", PngInfo()
        said.add_itxt(_PROMPTS, json.dumps(self.prompts, ensure_ascii=False))
        with replacing(path) as file:
            strip.save(file, "PNG", optimize=True, pnginfo=said)
        return path

    def steps(self) -> list[int]:
        """Return the steps there are strips of."""
        found = self.folder.glob("step-*.png") if self.folder.is_dir() else ()
        return sorted(int(path.stem.removeprefix("step-")) for path in found)

    def has(self, step: int) -> bool:
        """Tell whether there is a strip of a step."""
        return (self.folder / f"step-{step:09d}.png").is_file()

    def forget_after(self, step: int) -> None:
        """Remove strips of steps that a resume took back."""
        for later in [s for s in self.steps() if s > step]:
            (self.folder / f"step-{later:09d}.png").unlink()

    def lay_beside(self, step: int, checkpoint: Path) -> None:
        """Put the strip of a step where programs look for the preview of a checkpoint.

        A picture of that name that is no strip is somebody's own, and stays.
        """
        from PIL import Image as Images

        place = checkpoint.with_name(f"{checkpoint.stem}.preview.png")
        if place.exists():
            with Images.open(place) as there:
                if _PROMPTS not in there.info:
                    return
        with replacing(place) as file:
            file.write((self.folder / f"step-{step:09d}.png").read_bytes())

    def page(self, path: Path, *, cell: int = _CELL, labels: dict[int, str] | None = None) -> Path:
        """Write all strips of these very prompts on one page."""
        from PIL import Image as Images

        rows = []
        for step in self.steps():
            with Images.open(self.folder / f"step-{step:09d}.png") as opened:
                strip, said = opened.convert("RGB"), str(opened.info.get(_PROMPTS))
            if said != json.dumps(self.prompts, ensure_ascii=False):
                continue  # the run was told other prompts then
            count = len(self.prompts)
            side = strip.width // count
            parts = [strip.crop((n * side, 0, (n + 1) * side, strip.height)) for n in range(count)]
            name = "base" if step == 0 else f"step {step}"
            rows.append(Row((labels or {}).get(step, name), "", parts))
        with replacing(path) as file:
            sheet(rows, self.prompts, cell=cell).save(file, "PNG", optimize=True)
        return path
