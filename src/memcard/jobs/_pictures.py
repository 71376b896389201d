"""Pictures with what they say about themselves, and how they become files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard._version import __version__
from memcard.core.atomic import replacing
from memcard.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from memcard.generation.settings import Settings

_STEM = 40  # characters of the prompt in a file name
# endings of pictures; the first is the usual one
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_CLIPS = (".mp4", ".gif")  # further ones, of clips


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, or one clip, with what it says about itself.

    Attributes:
        image: the picture; of a clip its first frame.
        prompt: as it was typed.
        seed: of its noise.
        infotext: A1111's text.
        frames: of a clip, [frames, height, width, 3] in 0..1, float32; None for a picture.
        loras: what it says of its LoRAs, if the prompts of the run name different ones; None: as the result.
    """

    image: Image
    prompt: str
    seed: int
    infotext: str
    frames: Tensor | None = field(default=None, compare=False, repr=False)
    loras: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a run made.

    Attributes:
        pictures: in the order of prompts, then seeds.
        checkpoint: name of the checkpoint.
        sha256: of its file.
        architecture: its model family.
        loras: name, strength and sha256 of each LoRA; ``text_strength`` where it differs, and ``in_prompt``
            true for one that the prompt names.
        vae: name and sha256 of another VAE; None for the checkpoint's own.
        settings: as used, with their origin.
        load_seconds: wall time until the models were ready.
        seconds: wall time of the whole run.
        recipe: id of the recipe that the checkpoint was made by; None if it says none.
        embeddings: name and sha256 of each textual inversion.
        more: what else belongs into the pictures' JSON, such as ``denoise`` or ``second_pass``.
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
    recipe: str | None = None
    embeddings: tuple[Mapping[str, Any], ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return what all pictures say: the same for the same inputs."""
        settings = asdict(self.settings)
        settings.pop("origin")
        said = {"recipe": self.recipe, "embeddings": [dict(x) for x in self.embeddings]}
        return {
            **{name: value for name, value in said.items() if value},
            **self.more,
            "memcard": __version__,
            "checkpoint": {"name": self.checkpoint, "sha256": self.sha256},
            "architecture": self.architecture,
            "loras": [dict(lora) for lora in self.loras],
            "vae": dict(self.vae) if self.vae else None,
            "settings": settings,
        }

    def facts_of(self, picture: Picture) -> dict[str, Any]:
        """Return what goes into one picture."""
        own = {} if picture.loras is None else {"loras": [dict(lora) for lora in picture.loras]}
        return {**self.facts(), **own, "prompt": picture.prompt, "seed": picture.seed}

    def label(self) -> None:
        """Put its texts into the ``info`` of each image, so that saving it keeps them."""
        for picture in self.pictures:
            own = json.dumps(self.facts_of(picture), sort_keys=True, ensure_ascii=False)
            picture.image.info |= {"parameters": picture.infotext, "memcard": own}

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


def refuse_out(out: str | Path | None) -> None:
    """Refuse a place that pictures cannot go to, before a long run has made them.

    Raises:
        NotFoundError: the folder above is not there.
        UsageError: a folder is asked for where a file is, or the name ends in something else.
    """
    place = Path(out or ".").expanduser()
    if place.is_dir():
        return
    if not place.parent.is_dir():
        raise NotFoundError(f"{place.parent}: no such folder. Make it first.")
    if place.is_file() and not place.suffix:
        raise UsageError(f"{place}: is a file. Name a folder, or a file that ends in .png.")
    if place.suffix and place.suffix.lower() not in (*SUFFIXES, *_CLIPS):
        raise UsageError(
            f"{place}: pictures are written as .png, .jpg or .webp, clips also as .mp4 or .gif; end the name "
            "in one of these."
        )


def save(
    result: Result,
    out: str | Path | None = None,
    *,
    format: str | None = None,  # noqa: A002  # what people call it
    quality: int | None = None,
) -> list[Path]:
    """Write the pictures with their texts, as PNG, JPEG or WebP; clips as MP4, WebP, GIF or PNGs.

    Args:
        result: of ``run``.
        out: a file ending in .png, .jpg or .webp (with several pictures it gets numbers), or a folder, made
            if it is not there. None: this folder. Without a file name the prompt and the seed make one;
            no file is replaced then.
        format: ``png``, ``jpg`` or ``webp`` for names that are made here; ``png`` if neither says. Of clips
            ``webp``, ``mp4`` or ``gif``; ``webp`` if nothing says.
        quality: 1..100, of JPEG and WebP. None: JPEG at 95, WebP without loss.

    Raises:
        NotFoundError: the folder above is not there.
        UsageError: the file name ends in something else, ``format`` is none of these or another than the
            name's, or the quality is out of its range; or the texts are too long for a JPEG.
    """
    refuse_out(out)
    if any(picture.frames is not None for picture in result.pictures):
        return _save_clips(result, out, format, quality)
    from memcard.generation.picture import FORMATS, write_picture

    suffix = _suffix(out, format)
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality {quality} is not in 1..100; 95 is good, 80 is small.")
    if quality is not None and suffix == ".png":
        raise UsageError(
            "a PNG has no quality: it loses nothing. Leave it out, or write .jpg or .webp."
        )
    paths = []
    for i, picture in enumerate(result.pictures):
        path = _path(out, picture, i if len(result.pictures) > 1 else None, suffix)
        facts = result.facts_of(picture)
        with replacing(path) as file:
            write_picture(
                *(picture.image, file, FORMATS[suffix], picture.infotext, facts), quality=quality
            )
        paths.append(path)
    return paths


def _save_clips(
    result: Result, out: str | Path | None, wanted: str | None, quality: int | None
) -> list[Path]:
    from memcard.generation.clip_file import kind_of, write_clip

    place = Path(out or ".").expanduser()
    named = place.suffix.lower() if place.suffix and not place.is_dir() else ""
    suffix = named or f".{(wanted or 'webp').lower().removeprefix('.')}"
    kind_of(Path(f"clip{suffix}"))  # says first what cannot be written
    paths = []
    for i, picture in enumerate(result.pictures):
        path = _path(out, picture, i if len(result.pictures) > 1 else None, suffix)
        facts = result.facts_of(picture)
        assert picture.frames is not None, "a run makes clips, or it makes pictures"  # noqa: S101
        paths.append(
            write_clip(
                *(picture.frames, path),
                fps=result.settings.fps,
                text=picture.infotext,
                facts=facts,
                quality=quality,
            )
        )
    return paths


def _suffix(out: str | Path | None, wanted: str | None) -> str:
    """Return the ending of the files; every fault before anything is written."""
    place = Path(out or ".").expanduser()
    named = place.suffix.lower() if place.suffix and not place.is_dir() else ""
    if named and named not in SUFFIXES:
        raise UsageError(
            f"{place}: pictures are written as .png, .jpg or .webp; end the name in one of these."
        )
    if wanted is None:
        return named or SUFFIXES[0]
    asked = f".{wanted.lower().removeprefix('.')}"
    if asked not in SUFFIXES:
        raise UsageError(f"no format {wanted!r}. There are: png, jpg, webp.")
    same = {named, asked} <= {".jpg", ".jpeg"} or named in ("", asked)
    if not same:
        raise UsageError(
            f"{place}: ends in {named}, but the format is {wanted}. Leave one of them out."
        )
    return named or asked


def _path(out: str | Path | None, picture: Picture, number: int | None, suffix: str) -> Path:
    place = Path(out or ".").expanduser()
    if place.suffix and not place.is_dir():
        return place if number is None else place.with_stem(f"{place.stem}-{number + 1}")
    place.mkdir(exist_ok=True)
    words = re.sub(r"[^a-z0-9]+", "-", picture.prompt.lower()).strip("-")[:_STEM].strip("-")
    stem = f"{words or 'picture'}-{picture.seed}"
    names = (stem, *(f"{stem}-{i}" for i in range(2, 10**6)))
    return next(p for name in names if not (p := place / f"{name}{suffix}").exists())
