"""Pictures with what they say about themselves, and how they become files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard._version import __version__
from memcard.core.atomic import replacing
from memcard.errors import NotFoundError, UsageError
from memcard.generation.infotext import save_png

if TYPE_CHECKING:
    from PIL.Image import Image

    from memcard.generation.settings import Settings

_STEM = 40  # characters of the prompt in a file name


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture with what it says about itself."""

    image: Image
    prompt: str
    seed: int
    infotext: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a run made.

    Attributes:
        pictures: in the order of prompts, then seeds.
        checkpoint: name of the checkpoint.
        sha256: of its file.
        architecture: its model family.
        loras: name, strength and sha256 of each LoRA.
        vae: name and sha256 of another VAE; None for the checkpoint's own.
        settings: as used, with their origin.
        load_seconds: wall time until the models were ready.
        seconds: wall time of the whole run.
    """

    pictures: tuple[Picture, ...]
    checkpoint: str
    sha256: str
    architecture: str
    loras: tuple[Mapping[str, Any], ...]
    vae: Mapping[str, str] | None
    settings: Settings
    load_seconds: float
    seconds: float

    def facts(self) -> dict[str, Any]:
        """Return what goes into every picture: the same for the same inputs."""
        settings = asdict(self.settings)
        settings.pop("origin")
        return {
            "memcard": __version__,
            "checkpoint": {"name": self.checkpoint, "sha256": self.sha256},
            "architecture": self.architecture,
            "loras": [dict(lora) for lora in self.loras],
            "vae": dict(self.vae) if self.vae else None,
            "settings": settings,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            **self.facts(),
            "origin": dict(self.settings.origin),
            "pictures": [{"prompt": p.prompt, "seed": p.seed} for p in self.pictures],
            "load_seconds": round(self.load_seconds, 2),
            "seconds": round(self.seconds, 2),
        }

    def summary(self) -> str:
        """Return one line for people: what was used, and where each value came from."""
        used = self.settings
        shown = {"steps": used.steps, "cfg": used.cfg, "sampler": used.sampler}
        parts = [f"{key} {value} ({used.origin[key]})" for key, value in shown.items()]
        seeds = ", ".join(dict.fromkeys(str(p.seed) for p in self.pictures))
        return (
            f"{self.checkpoint} [{self.sha256[:10]}], seed {seeds}, {', '.join(parts)}; "
            f"{self.seconds:.1f} s, {self.load_seconds:.1f} of them loading"
        )


def save(result: Result, out: str | Path | None = None) -> list[Path]:
    """Write the pictures as PNG with their texts.

    Args:
        result: of ``run``.
        out: a file ending in .png (with several pictures it gets numbers), or a folder, made if it
            is not there. None: this folder. Without a file name the prompt and the seed make one; no file is replaced then.

    Raises:
        NotFoundError: the folder above is not there.
        UsageError: the file name ends in something else.
    """
    paths = []
    for i, picture in enumerate(result.pictures):
        path = _path(out, picture, i if len(result.pictures) > 1 else None)
        facts = {**result.facts(), "prompt": picture.prompt, "seed": picture.seed}
        with replacing(path) as file:
            save_png(picture.image, file, picture.infotext, facts)
        paths.append(path)
    return paths


def _path(out: str | Path | None, picture: Picture, number: int | None) -> Path:
    place = Path(out or ".").expanduser()
    if place.suffix and not place.is_dir():
        if place.suffix.lower() != ".png":
            raise UsageError(f"{place}: pictures are written as .png; end the name in .png.")
        return place if number is None else place.with_stem(f"{place.stem}-{number + 1}")
    if not place.is_dir():
        if not place.parent.is_dir():
            raise NotFoundError(f"{place.parent}: no such folder. Make it first.")
        place.mkdir()
    words = re.sub(r"[^a-z0-9]+", "-", picture.prompt.lower()).strip("-")[:_STEM].strip("-")
    stem = f"{words or 'picture'}-{picture.seed}"
    names = (stem, *(f"{stem}-{i}" for i in range(2, 10**6)))
    return next(p for name in names if not (p := place / f"{name}.png").exists())
