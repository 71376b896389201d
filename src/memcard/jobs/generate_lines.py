"""Many pictures from lines of text: one prompt a line, the models stay in memory between them.

A line is a prompt, or a JSON object with a prompt and settings of its own. What is wrong with one line is told
for that line, and the others go on.
"""

from __future__ import annotations

import inspect
import json
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from memcard.core.progress import Event, Listener, Notice, silent
from memcard.errors import CorruptError, DiskError, MemcardError, NotFoundError, UsageError
from memcard.jobs._generate_clock import ESTIMATE
from memcard.jobs._pictures import Result, refuse_out, save
from memcard.jobs.generate import run
from memcard.jobs.generate_again import completed
from memcard.jobs.generator import Generator

_COMMENT: Final = "#"
_OF_THE_GENERATOR: Final = ("device", "dtype", "low_memory")
_NOT_OF_A_LINE: Final = (*_OF_THE_GENERATOR, "models", "preview", "progress", "user")
_WHOLE: Final = (
    "n",
    "seed",
    "steps",
    "width",
    "height",
    "clip_skip",
    "frames",
    "fps",
    "hires_steps",
)
_NUMBERS: Final = (
    "cfg", "guidance", "cfg_rescale", "cfg_low", "cfg_high", "threshold", "strength", "hires",
    "hires_strength", "image_cfg", "refiner_at",
)  # fmt: skip
_TEXTS: Final = (
    "prompt", "checkpoint", "vae", "motion", "image", "mask", "sampler", "schedule", "negative",
    "prediction_type", "hires_upscaler", "size", "out", "last_image", "refiner",
)  # fmt: skip
_FLAGS: Final = ("canny", "edit", "t5")
_LISTS: Final = (
    "loras", "text_encoders", "embeddings", "blocks", "controls", "control_images",
    "outpaint",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """What one line asks for.

    Attributes:
        number: of the line in its file, from 1.
        said: arguments of ``run``; also ``size`` and ``out``.
        fault: what is wrong with it; ``said`` is empty then.
    """

    number: int
    said: Mapping[str, Any]
    fault: UsageError | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """One picture that was made, or one line that could not be followed.

    Attributes:
        line: number of the line in its file, from 1.
        place: which prompt it is, from 1; of how many is ``of``, None while nobody knows.
        path: the file; None if it failed.
        result: with the one picture; None if it failed.
        error: why it failed.
        left: seconds that the others are likely to take; None if nobody knows.
    """

    line: int
    place: int
    of: int | None
    path: Path | None = None
    result: Result | None = None
    error: MemcardError | None = None
    left: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values: of a picture what it says of itself, or what failed."""
        found: dict[str, Any] = {"line": self.line, "place": self.place, "of": self.of}
        if self.error is not None:
            kind = {"error": str(self.error), "exit_code": self.error.exit_code}
            return {**found, **kind}
        assert self.result is not None, "made or failed"  # noqa: S101
        facts = self.result.facts_of(self.result.pictures[0])
        more = {
            "origin": dict(self.result.settings.origin),
            "seconds": round(self.result.seconds, 2),
        }
        return {**found, "file": str(self.path), **facts, **more}


def lines_of(path: str | Path) -> list[Line]:
    """Return the lines of a file that ask for something.

    Raises:
        NotFoundError: no such file.
        CorruptError: it is no text in UTF-8.
        UsageError: no line of it asks for anything.
    """
    place = Path(path).expanduser()
    try:
        text = place.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise NotFoundError(f"{place}: no such file of prompts. Check the name.") from None
    except UnicodeDecodeError as error:
        raise CorruptError(
            f"{place}: is no text in UTF-8: {error.reason} at byte {error.start}. Save it as UTF-8."
        ) from None
    found = list(read_lines(text.split("\n")))
    if not found:
        raise UsageError(
            f"{place}: has no line with a prompt. Write one a line; # begins a comment."
        )
    return found


def read_lines(texts: Iterable[str]) -> Iterator[Line]:
    """Yield what each line asks for as it comes; blank lines and comments are left out."""
    for number, text in enumerate(texts, 1):
        stripped = text.strip()
        if stripped and not stripped.startswith(_COMMENT):
            try:
                yield Line(number, _said(stripped))
            except UsageError as error:
                yield Line(number, {}, error)


def _said(text: str) -> dict[str, Any]:
    """Return what a line says.

    Raises:
        UsageError: it is JSON with something in it that is no setting or has a wrong type; all of it at once.
    """
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise UsageError("is no text in UTF-8. Send it as UTF-8.")
    if not text.startswith("{"):
        return {"prompt": text}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"begins like JSON and is none: {error}. A prompt that begins with {{ goes into "
            '{"prompt": "…"}.'
        ) from None
    if faults := [fault for key, value in said.items() if (fault := _fault(key, value))]:
        raise UsageError(" ".join(faults))
    if not said.get("prompt"):
        raise UsageError('has no prompt. Write {"prompt": "…", …}.')
    found = {key: value for key, value in said.items() if value is not None}
    if "size" in found:
        found["width"], found["height"] = (int(side) for side in found.pop("size").split("x"))
    if "loras" in found:
        found["loras"] = [_lora(one) for one in found["loras"]]
    return found


def _fault(key: str, value: Any) -> str:
    """Return what is wrong with one value of a line; empty if nothing is."""
    if key not in _known():
        return f"{key!r} is no setting. There are: {', '.join(_known())}."
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    kinds = (
        (_WHOLE, "a whole number", number and not isinstance(value, float)),
        (_NUMBERS, "a number", number),
        (_TEXTS, "a text", isinstance(value, str)),
        (_LISTS, "a list", isinstance(value, list)),
        (_FLAGS, "true or false", isinstance(value, bool)),
    )
    for names, what, fits in kinds:
        if key in names and not fits and value is not None:
            return f"{key} is {json.dumps(value)}, not {what}."
    if value is None:
        return ""
    if key == "size" and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", value):
        return f"size {value!r} is none; write it like 512x768."
    if key == "loras" and any(_lora(one) is None for one in value):
        return 'loras are written like ["style.safetensors", ["film.safetensors", 0.8]].'
    if key in _LISTS and key != "loras" and not all(_element(key, one) for one in value):
        return f"{key} is {json.dumps(value)[:80]}; docs/generate.md says what stands in it."
    return ""


def _element(key: str, one: Any) -> bool:
    """Tell whether a list may have this in it."""
    if key == "outpaint":
        return type(one) is int
    if key in ("blocks", "controls"):
        pair = isinstance(one, list) and len(one) > 1 and isinstance(one[0], str)
        return pair and all(type(n) in (int, float) for n in one[1:])
    return isinstance(one, str)


def _lora(one: Any) -> tuple[str, float] | tuple[str, float, float] | None:
    """Return a LoRA as ``run`` takes it; None if it is none."""
    if isinstance(one, str):
        return one, 1.0
    if not isinstance(one, list) or len(one) not in (2, 3) or not isinstance(one[0], str):
        return None
    if not all(isinstance(s, (int, float)) and not isinstance(s, bool) for s in one[1:]):
        return None
    return (one[0], *map(float, one[1:]))  # type: ignore[return-value]  # 2 or 3 of them


def _known() -> tuple[str, ...]:
    from memcard.generation.settings import NAMES

    own = [name for name in inspect.signature(run).parameters if name not in _NOT_OF_A_LINE]
    return tuple(dict.fromkeys((*own, *NAMES, "size", "out")))


@dataclass(slots=True)
class _Pace:
    """How long the rest takes, by how long it took so far."""

    total: int | None
    begun: float = field(default_factory=time.perf_counter)
    made: int = 0
    failed: int = 0  # at once: they say nothing of the others

    def left(self) -> float | None:
        """Return seconds; None if nobody knows."""
        if self.total is None or not self.made:
            return None
        each = (time.perf_counter() - self.begun) / self.made
        return each * (self.total - self.made - self.failed)


class _Once:
    """Passes on each sentence once: what holds for all lines need not be said for each."""

    def __init__(self, progress: Listener, pace: _Pace) -> None:
        self._progress, self._pace = progress, pace
        self._heard: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Hear what happens."""
        if not isinstance(event, Notice):
            self._progress(event)
        elif event.text.startswith(ESTIMATE):
            self._estimate(event)
        elif event.text not in self._heard:
            self._heard.add(event.text)
            self._progress(event)

    def _estimate(self, event: Notice) -> None:
        """Of many pictures, the time of the first is told; later it is known how long all of them take."""
        total = self._pace.total
        if total in (None, 1):
            self._progress(event)
        elif not self._pace.made:
            text = f"{event.text[0].lower()}{event.text[1:]}"
            self._progress(Notice(f"The first of {total}: {text}"))


def generate_lines(
    lines: Iterable[Line],
    *,
    out: str | Path | None = None,
    format: str | None = None,  # noqa: A002  # what people call it
    quality: int | None = None,
    progress: Listener = silent,
    **said: Any,
) -> Iterator[Done]:
    """Make the pictures of lines, and yield each as soon as its file is there.

    Args:
        lines: of ``lines_of`` or ``read_lines``; taken one at a time.
        out: folder of the pictures, made if it is not there; None: this one.
        format: as of ``save``.
        quality: as of ``save``.
        progress: hears each sentence once, however many lines it holds for.
        said: for every line: arguments of ``completed`` and of ``run``. What a line says counts more.

    Raises:
        UsageError: ``out`` names a file.
        NotFoundError: the folder above ``out`` is not there.
        DiskError: the disk is full; the next line would fail as well.
    """
    folder = _folder(out)
    own = {name: said.pop(name) for name in _OF_THE_GENERATOR if name in said}
    pace = _Pace(len(lines) if isinstance(lines, (list, tuple)) else None)
    once = _Once(progress, pace)
    with Generator(**own) as generator:
        for place, line in enumerate(lines, 1):
            at = (line.number, place, pace.total)
            try:
                arguments = _arguments(line, said, once)
                for left, given in reversed(list(enumerate(reversed(arguments)))):
                    to = _path(folder, given.pop("out", None))
                    result = generator.run(**given, progress=once)
                    (path,) = save(result, to, format=format, quality=quality)
                    pace.made += left == 0
                    yield Done(*at, path, result, left=pace.left() if left == 0 else None)
            except DiskError:
                raise  # the next line would meet it too
            except MemcardError as error:
                pace.failed += 1
                yield Done(*at, error=error)


def _arguments(line: Line, said: Mapping[str, Any], progress: Listener) -> list[dict[str, Any]]:
    """Return the arguments of each picture of a line, one seed each.

    Raises:
        UsageError: the line cannot be followed; see ``completed``, too.
    """
    from memcard.generation.latents import SEEDS, seeds
    from memcard.generation.settings import check_seed

    if line.fault is not None:
        raise line.fault
    given = completed(**{**said, **line.said}, progress=progress)
    count, seed, out = given.pop("n", 1), given.pop("seed", None), given.pop("out", None)
    if count < 1:
        raise UsageError(f"n is {count}; at least 1 picture.")
    first = secrets.randbelow(SEEDS) if seed in (None, -1) else check_seed(seed)
    names = [out]
    if out is not None and count > 1:
        names = [Path(out).with_stem(f"{Path(out).stem}-{i + 1}") for i in range(count)]
    found = [{**given, "seed": one} for one in seeds(first, count)]
    return (
        found
        if out is None
        else [{**one, "out": name} for one, name in zip(found, names, strict=True)]
    )


def _folder(out: str | Path | None) -> Path:
    """Return the folder of the pictures; it is made with the first of them."""
    place = Path(out or ".").expanduser()
    if place.suffix and not place.is_dir():
        raise UsageError(
            f"{place}: is the name of one file, and each line makes one. Name a folder, or say the name in the "
            'line: {"prompt": "…", "out": "apple.png"}.'
        )
    refuse_out(place)
    return place


def _path(folder: Path, name: str | Path | None) -> Path:
    """Return what ``save`` is told: the folder, or a file below it."""
    if name is None:
        return folder
    folder.mkdir(exist_ok=True)
    place = folder / Path(name).expanduser()
    refuse_out(place)
    return place
