"""What people's pictures say of a checkpoint: the settings they were made with, counted.

Many pictures of one prompt are one person's one evening, so a value counts once for each prompt; how
many pictures that is stands beside it. One picture shows a taste, not a recommendation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from memcard.core.progress import Listener, silent
from memcard.generation.image_info import ImageInfo, UsedLora
from memcard.jobs._image_files import digests_at, fit, stems_of
from memcard.jobs.image_info import read_images

Way: TypeAlias = Literal["hash", "name"]

FEWEST: Final = 3  # prompts that must agree before a setting is recommended
_LISTED: Final = 20  # values of one setting, and LoRAs
_MIDDLE: Final = ("steps", "cfg")  # numbers on a scale: the middle one; of all others the most used


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a setting, and how often it was used."""

    value: str | int | float
    prompts: int
    pictures: int


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the pictures below a folder say of a checkpoint.

    Attributes:
        folder: where they are.
        pictures: how many there are.
        readable: how many say how they were made.
        used: how many were made with the checkpoint, by ``hash`` or by ``name``.
        prompts: how many different prompts these have.
        tools: what they were made with, and how many.
        settings: for each setting its values, the most used first. Names as on a card: ``sampler``,
            ``scheduler``, ``steps``, ``cfg``, ``size``, ``clip_skip``, ``vae``.
        loras: LoRAs used with it, the most used first; the middle of their strengths is the value.
        recommended: settings that ``FEWEST`` prompts agree on. Of steps and CFG the middle one; the schedule is
            that of the recommended sampler; a VAE only if most prompts have it.
        notes: what could not be read, one sentence each.
    """

    folder: Path
    pictures: int
    readable: int
    used: Mapping[Way, int]
    prompts: int
    tools: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    loras: Mapping[str, Value] = field(default_factory=dict)
    recommended: Mapping[str, str | int | float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def changes(self) -> list[tuple[str, str]]:
        """Return what to set on the card, as a person would type it."""
        return [(f"settings.{name}", str(value)) for name, value in self.recommended.items()]

    def evidence(self) -> dict[str, Any]:
        """Return what the recommendation stands on; no name of a folder or a file is in it."""
        return {
            "pictures": sum(self.used.values()),
            "prompts": self.prompts,
            "settings": {name: _rows(values) for name, values in self.settings.items()},
            "loras": [{"name": name, **_row(value)} for name, value in self.loras.items()],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "folder": str(self.folder),
            "pictures": self.pictures,
            "readable": self.readable,
            "used": dict(self.used),
            "prompts": self.prompts,
            "tools": dict(self.tools),
            "settings": {name: _rows(values) for name, values in self.settings.items()},
            "loras": [{"name": name, **_row(value)} for name, value in self.loras.items()],
            "recommended": dict(self.recommended),
            "notes": list(self.notes),
        }


def learn(ref: str | Path, folder: str | Path, *, progress: Listener = silent) -> Learnt:
    """Count the settings of all pictures below a folder that were made with a checkpoint.

    A picture counts if it names one of the checkpoint's hashes; one that names no hash counts if it has the
    checkpoint's name. A picture with another hash does not, whatever name it has.

    Args:
        ref: a file, or a name of the library or the starter; its digests are taken if they are not known.
        folder: with pictures of any tool, also in folders below.
        progress: hears about the hashing and the pictures.

    Raises:
        NotFoundError: no such checkpoint or folder, or no picture below it.
    """
    digests, stems = digests_at(ref), stems_of(ref)
    infos: list[ImageInfo] = []
    faults: list[str] = []
    ways: Counter[Way] = Counter()
    pictures = readable = 0
    for _, info in read_images(folder, progress=progress):
        pictures += 1
        if isinstance(info, str):
            faults.append(info)
            continue
        readable += info.checkpoint is not None or bool(info.settings)
        if (way := _way(info, digests, stems)) is not None:
            ways[way] += 1
            infos.append(replace(info, raw={}))  # a workflow is a hundred times the rest
    settings = _counted(infos)
    return Learnt(
        *(Path(folder), pictures, readable),
        used={"hash": ways["hash"], "name": ways["name"]},
        prompts=len({info.prompt for info in infos}),
        tools=dict(Counter(info.tool for info in infos).most_common()),
        settings=settings,
        loras=_loras(infos),
        recommended=_recommended(settings, infos),
        notes=tuple(faults),
    )


def _way(info: ImageInfo, digests: Sequence[str], stems: frozenset[str]) -> Way | None:
    used = info.checkpoint
    if used is None:
        return None
    if used.hashes and digests:
        return "hash" if fit(used.hashes, digests) else None
    return "name" if used.stem.casefold() in stems else None


def _counted(infos: Iterable[ImageInfo]) -> dict[str, tuple[Value, ...]]:
    prompts: dict[str, dict[Any, set[str]]] = {}
    pictures: dict[str, Counter[Any]] = {}
    for info in infos:
        for name, value in _settings(info).items():
            prompts.setdefault(name, {}).setdefault(value, set()).add(info.prompt)
            pictures.setdefault(name, Counter())[value] += 1
    return {
        name: tuple(
            sorted(
                (
                    Value(value, len(by), pictures[name][value])
                    for value, by in prompts[name].items()
                ),
                key=lambda found: (-found.prompts, -found.pictures, str(found.value)),
            )[:_LISTED]
        )
        for name in _NAMES
        if name in prompts
    }


_NAMES: Final = ("sampler", "scheduler", "steps", "cfg", "size", "clip_skip", "vae")


def _settings(info: ImageInfo) -> dict[str, str | int | float]:
    """Return the settings of one picture under the names of a card."""
    said = info.settings
    found = {name: said.get(name) for name in ("sampler", "steps", "cfg")}
    found["scheduler"] = said.get("schedule")
    if "steps" in said:
        found["clip_skip"] = said.get("clip_skip", 1)  # tools leave out what is usual
    if "width" in said and "height" in said:
        found["size"] = f"{said['width']}x{said['height']}"
    if info.vae is not None:
        found["vae"] = info.vae.stem
    return {name: value for name, value in found.items() if value is not None}


def _loras(infos: Iterable[ImageInfo]) -> dict[str, Value]:
    uses: dict[str, list[tuple[UsedLora, str]]] = {}
    for info in infos:
        for lora in info.loras:
            uses.setdefault(lora.stem, []).append((lora, info.prompt))
    most = sorted(uses.items(), key=lambda item: (-len(item[1]), item[0]))[:_LISTED]
    return {
        name: Value(
            _middle([lora.strength for lora, _ in each]),
            len({prompt for _, prompt in each}),
            len(each),
        )
        for name, each in most
    }


def _recommended(
    settings: Mapping[str, tuple[Value, ...]], infos: Sequence[ImageInfo]
) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {}
    for name, values in settings.items():
        if name not in _MIDDLE and values[0].prompts >= FEWEST:
            found[name] = values[0].value
        elif name in _MIDDLE:
            each = [float(value.value) for value in values for _ in range(value.prompts)]
            if len(each) >= FEWEST:
                found[name] = _plain(_middle(each))
    if "sampler" in found:  # of its own pictures: not every sampler has every schedule
        own = [info for info in infos if info.settings.get("sampler") == found["sampler"]]
        spaced = _counted(own).get("scheduler", ())
        found.pop("scheduler", None)
        if spaced and spaced[0].prompts >= FEWEST:
            found["scheduler"] = spaced[0].value
    if found.get("clip_skip") == 1:
        del found["clip_skip"]  # what everyone takes who is told nothing
    if "vae" in found and 2 * settings["vae"][0].prompts <= len({info.prompt for info in infos}):
        del found["vae"]  # the others took the checkpoint's own
    return found


def _middle(values: list[float]) -> float:
    """Return the median that somebody used: of two in the middle the lower."""
    return sorted(values)[(len(values) - 1) // 2]


def _plain(value: str | float) -> str | int | float:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _rows(values: Iterable[Value]) -> list[dict[str, Any]]:
    return [_row(value) for value in values]


def _row(value: Value) -> dict[str, Any]:
    return {"value": _plain(value.value), "prompts": value.prompts, "pictures": value.pictures}
