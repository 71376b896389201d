"""How a picture was made, and what it takes to make it again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from memcard.core.progress import Listener, Progress, silent
from memcard.errors import FormatError, NotFoundError
from memcard.generation import image_a1111
from memcard.generation.image_info import ImageInfo, Used, UsedLora, own_clip_skip, stem
from memcard.generation.image_text import SUFFIXES, read_texts
from memcard.generation.image_tools import understand
from memcard.jobs._image_files import Found, Shelf
from memcard.store.layout import Layout, default_home

_SEEDS: Final = 2**32
# Settings that mean the same everywhere; and those that only memcard writes.
SAME: Final = ("steps", "cfg", "width", "height", "guidance", "cfg_rescale", "prediction_type",
               "image_cfg")  # fmt: skip
OURS: Final = ("threshold", "cfg_low", "cfg_high", "frames", "fps", "edit")
_LARGEST: Final = 8  # times the size, of a second pass


class HasLayout(Protocol):
    """A library, such as ``memcard.Library()``: it says where it is."""

    layout: Layout


@dataclass(frozen=True, slots=True)
class Request:
    """What ``generate`` has to be told to make a picture again.

    Attributes:
        arguments: of ``memcard.generate``: prompt, checkpoint, loras, vae, embeddings, seed, a second pass, and
            settings by name; only what the picture says and what was found.
        found: which file is taken for which name, one sentence each.
        missing: files that are not at hand, with what to do, one sentence each.
        notes: what will be different, one sentence each.
    """

    arguments: Mapping[str, Any]
    found: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def checked(self) -> dict[str, Any]:
        """Return the arguments.

        Raises:
            NotFoundError: files are missing; names all of them.
        """
        if self.missing:
            raise NotFoundError(" ".join(self.missing))
        return dict(self.arguments)


def read_image(path: str | Path) -> ImageInfo:
    """Return how a picture was made: by memcard, A1111, Forge, SD.Next, ComfyUI, SwarmUI, Fooocus, InvokeAI or NovelAI.

    Reads the texts of a PNG, JPEG or WebP, or of a clip as MP4 or GIF, never its pixels. One without texts gives the tool
    ``unknown`` and a note.

    Raises:
        NotFoundError: there is no such file.
        UnsupportedError: it is none of these.
        CorruptError: the file is broken and says nothing.
    """
    return understand(read_texts(Path(path).expanduser()))


def read_images(
    folder: str | Path, *, progress: Listener = silent
) -> Iterator[tuple[Path, ImageInfo | str]]:
    """Yield how each picture below a folder was made, or why it cannot be read; one is in memory at a time.

    In the order of their paths. Hidden files and folders are passed over.

    Args:
        folder: where to look.
        progress: hears how many pictures are read.

    Raises:
        NotFoundError: there is no such folder, or no picture below it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise NotFoundError(f"{root}: no such folder. Name a folder with pictures.")
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not files:
        raise NotFoundError(f"{root}: there is no picture below it ({', '.join(SUFFIXES)}).")
    for i, path in enumerate(files):
        try:
            yield path, read_image(path)
        except (FormatError, NotFoundError) as error:
            yield path, str(error)
        except OSError as error:
            yield path, f"{path}: {error.strerror or error}."
        progress(Progress("pictures", i + 1, len(files), "files"))


def request_of(
    info: ImageInfo,
    library: HasLayout | None = None,
    *,
    folder: str | Path | None = None,
    given: Collection[str] = (),
) -> Request:
    """Return what to tell ``generate`` to make a picture again.

    Files are looked for in the library, first by hash and then by name; then among the starter's, in the
    working folder, and beside the picture. A file there must have the hash that the picture names.

    Args:
        info: of ``read_image``.
        library: where to look; None: the user's.
        folder: where the picture lies.
        given: arguments that are given anyway, so that nothing is looked for: ``checkpoint``, ``loras``, ….

    Raises:
        CorruptError, UnsupportedError: the library is damaged, or of a newer version.
    """
    home = library.layout if library is not None else Layout(default_home())
    places = dict.fromkeys((Path(), *(() if folder is None else (Path(folder).expanduser(),))))
    making = _Making(Shelf(home, tuple(places)), info, frozenset(given))
    return making.request()


class _Making:
    """Puts the arguments together."""

    def __init__(self, shelf: Shelf, info: ImageInfo, given: frozenset[str]) -> None:
        self.shelf, self.info, self.given = shelf, info, given
        self.found: list[str] = []
        self.missing: list[str] = []
        self.notes: list[str] = []

    def request(self) -> Request:
        arguments = {"prompt": self.info.prompt, **self._files(), **self._settings()}
        if self.info.negative:
            arguments["negative"] = self.info.negative
        if self.info.tool == "unknown" and not self.info.prompt:
            self.notes.append("The picture does not say how it was made.")
        elif self.info.tool != "memcard":
            self.notes.append(
                f"It was made with {self.info.tool}, which draws its noise in another way: the same "
                "settings give a similar picture, not the same pixels."
            )
        kept = {key: value for key, value in arguments.items() if key not in self.given}
        return Request(kept, tuple(self.found), tuple(self.missing), tuple(self.notes))

    def _files(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.architecture = self.info.architecture
        if self.info.checkpoint is None and "checkpoint" not in self.given:
            self.missing.append("The picture names no checkpoint. Say which with --checkpoint.")
        elif file := self._find("checkpoint", self.info.checkpoint, "checkpoint"):
            found["checkpoint"] = file.ref
            self.architecture = file.architecture or self.architecture
        if file := self._find("VAE", self.info.vae, "vae"):
            found["vae"] = file.ref
        found |= self._parts()
        refs: dict[str, str] = {}
        loras: list[tuple[str, float] | tuple[str, float, float]] = []
        for lora in self.info.loras:
            if (file := self._find("LoRA", lora, "loras")) is None:
                continue
            if lora.in_prompt:
                refs[lora.stem.casefold()] = file.ref
            else:
                text = lora.text_strength
                pair = (file.ref, lora.strength)
                loras.append(pair if text is None else (*pair, text))
        if loras:
            found["loras"] = loras
        if embeddings := self._embeddings():
            found["embeddings"] = embeddings
        # a tag keeps its place and its strengths, under the name that finds it here
        prompt = image_a1111.renamed(self.info.prompt, lambda name: _called(refs, name))
        return {**found, "prompt": prompt}

    def _parts(self) -> dict[str, Any]:
        """Return what the checkpoint lacked, and whether it went without."""
        files = [self._find("part", used, "text_encoders") for used in self.info.parts]
        refs = [file.ref for file in files if file is not None]
        found: dict[str, Any] = {"text_encoders": refs} if refs else {}
        if self.info.settings.get("t5") is False:
            found["t5"] = False
        return found

    def _find(self, kind: str, used: Used | UsedLora | None, argument: str) -> Found | None:
        if used is None or argument in self.given:
            return None
        file = self.shelf.find(kind, used)
        hashed = f" (hash {used.hashes[0][:12]})" if used.hashes else ""
        shown = f"{kind} {used.name!r}{hashed}" if used.name else f"{kind} without a name{hashed}"
        if file is None:
            self.missing.append(
                f"The {shown} is not at hand. Add it to the library (memcard add FILE), or name another "
                f"with --{argument.removesuffix('s').replace('_', '-')}."
            )
        elif file.differs:
            self.found.append(f"The {shown} is {file.ref} by its name; its hash is another.")
        else:
            self.found.append(f"The {shown} is {file.ref} by its {file.by}.")
        return file

    def _embeddings(self) -> list[str]:
        """Return the textual inversions; a prompt calls them by the names of their files."""
        refs = []
        for used in self.info.embeddings:
            if file := self._find("embedding", used, "embeddings"):
                refs.append(file.ref)
                if stem(file.ref).casefold() != used.stem.casefold():
                    self.notes.append(
                        f"The prompt calls an embedding {used.stem!r} that is {stem(file.ref)!r} here; "
                        "write it so in the prompt."
                    )
        return refs

    def _settings(self) -> dict[str, Any]:
        said = self.info.settings
        same = (*SAME, *OURS) if self.info.tool == "memcard" else SAME
        found = {name: said[name] for name in same if said.get(name) is not None}
        found |= self._sampling()
        if skip := said.get("clip_skip"):
            found["clip_skip"] = own_clip_skip(skip, self.architecture)
        if self.info.seed is not None:
            found["seed"] = self.info.seed % _SEEDS
            if found["seed"] != self.info.seed:
                self.notes.append(
                    f"Seed {self.info.seed} is beyond 32 bits; its last 32 are taken."
                )
        for name, option in (("controls", "control"), ("refiner", "refiner")):
            if name in said and name not in self.given:
                self.notes.append(
                    f"It was made with {said[name]} beside the checkpoint, which is not repeated. Give it with "
                    f"--{option}."
                )
        if "hires_scale" in said:
            found |= self._second_pass()
        elif "denoise" in said:
            found["strength"] = said["denoise"]
            if "image" not in self.given:
                del found["strength"]
                self.notes.append(
                    f"It was painted over another picture (denoising strength {said['denoise']:g}), which "
                    "is not in the file. Give it with --image."
                )
        return found

    def _second_pass(self) -> dict[str, Any]:
        """Return the arguments of a second pass at a larger size."""
        said = self.info.settings
        if not 1 < said["hires_scale"] <= _LARGEST:
            self.notes.append(
                f"A second pass at {said['hires_scale']:g} times the size is not repeated; from 1 to "
                f"{_LARGEST} times it would be."
            )
            return {}
        found = {"hires": said["hires_scale"]}
        names = {"hires_strength": "denoise", "hires_steps": "hires_steps"}
        found |= {own: said[name] for own, name in names.items() if name in said}
        upscaler = str(said.get("hires_upscaler", "")).lower()
        found["hires_upscaler"] = "latent" if upscaler.startswith("latent") else "lanczos"
        if upscaler and not upscaler.startswith(("latent", "lanczos")):
            self.notes.append(
                f"There is no upscaler {said['hires_upscaler']!r} here; lanczos is taken."
            )
        return found

    def _sampling(self) -> dict[str, str]:
        """Return sampler and schedule if there are such here."""
        from memcard.generation.sampler import SCHEDULES
        from memcard.generation.samplers import SAMPLERS

        found: dict[str, str] = {}
        for name, known in (("sampler", tuple(SAMPLERS)), ("schedule", tuple(SCHEDULES))):
            value = self.info.settings.get(name)
            if value is None:
                continue
            if value in known:
                found[name] = value
            else:
                self.notes.append(f"There is no {name} {value!r} here; the usual one is taken.")
        if len(found) == 2 and found["schedule"] not in SAMPLERS[found["sampler"]].schedules:
            self.notes.append(
                f"{found['sampler']} has no schedule {found['schedule']!r} here; its own is taken."
            )
            del found["schedule"]
        return found


def _called(refs: Mapping[str, str], name: str) -> str:
    """Return the name of a tag; one that differs only in case is as good as ours."""
    found = refs.get(stem(name).casefold(), name)
    return name if found.casefold() == name.casefold() else found


__all__ = ["ImageInfo", "Request", "read_image", "read_images", "request_of"]
