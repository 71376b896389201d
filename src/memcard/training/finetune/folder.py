"""A folder of pictures with captions: what `memcard finetune` learns from.

A caption comes from the first of these that there is: a text file beside the picture (``cat.txt``), a
line in ``metadata.jsonl`` or ``metadata.csv`` of its folder (Hugging Face's imagefolder), the name of a
folder such as ``10_red cat`` (kohya; the number is how often its pictures are seen in an epoch), the name of the file.

Sources: Hugging Face datasets, "Create an image dataset"; kohya sd-scripts, ``docs/train_README.md``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from memcard.core.progress import Listener, Progress, silent
from memcard.errors import CorruptError, NotFoundError, UsageError

Origin: TypeAlias = Literal["text file", "metadata", "folder name", "file name", "none"]

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
CAPTIONS: Final = (".txt", ".caption")
_METADATA: Final = ("metadata.jsonl", "metadata.csv")
_FIELDS: Final = ("text", "caption", "prompt")
_REPEATS: Final = re.compile(r"(\d{1,4})_(.+)")
# A number a camera or a script gave: no words. Hexadecimal names have a digit in them.
_NO_WORDS: Final = re.compile(
    r"(?:img|dsc[nf]?|image|picture|photo|screenshot|pxl|untitled)?[\W\d_]*"
    r"|(?=[a-z]*\d)[\da-f]{8,}(?:[-_ ][\da-f]{4,})*", re.IGNORECASE
)  # fmt: skip
_TURNED: Final = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_EXIF_ORIENTATION: Final = 0x0112
_SHOWN: Final = 8
_VERSION: Final = "memcard-data-1"


@dataclass(frozen=True, slots=True)
class Example:
    """One picture and what is said about it.

    Attributes:
        name: path in the folder, with ``/``.
        caption: as written; one line.
        origin: where the caption stands.
        sha256: of the file.
        width: pixels, as shown: a camera's turn is applied.
        height: likewise.
        repeats: how often it is seen in an epoch, 1 or more.
    """

    name: str
    caption: str
    origin: Origin
    sha256: str
    width: int
    height: int
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class Folder:
    """All examples of a folder, in an order that does not depend on file names.

    Attributes:
        path: the folder.
        examples: at least one; by digest, caption and repeats.
        fingerprint: SHA-256 over digests, captions and repeats of all examples; 64 hex digits.
        notes: what a careful user should know, one sentence each.
    """

    path: Path
    examples: tuple[Example, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def file(self, example: Example) -> Path:
        """Return where a picture lies."""
        return self.path / example.name


def read_folder(
    path: str | Path,
    *,
    recursive: bool = True,
    skip_bad: bool = False,
    known: Callable[[str], bool] = lambda sha256: False,
    progress: Listener = silent,
) -> Folder:
    """Read a folder: every picture is decoded once, so that a bad one is found before the training.

    Args:
        path: the folder.
        recursive: look into the folders in it.
        skip_bad: leave out pictures that cannot be read, with a note, instead of refusing.
        known: whether a picture with this SHA-256 was decoded before, and need not be again.
        progress: hears how many files are read.

    Raises:
        NotFoundError: there is no such folder, or no picture in it.
        CorruptError: pictures or captions cannot be read; names all of them.
        UsageError: ``path`` is a file.
    """
    root = Path(path).expanduser()
    files = _pictures(root, recursive)
    faults: list[str] = []
    notes: list[str] = []
    said = _Said(root, files, faults, notes)
    looked: list[_Look | str] = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for found in pool.map(lambda file: _look(root, file, known), files):
            looked.append(found)
            progress(Progress("pictures read", len(looked), len(files), "files"))
    bad = [found for found in looked if isinstance(found, str)]
    if bad and skip_bad:
        notes.append(f"{len(bad)} pictures cannot be read and are left out: {_few(bad)}")
    elif bad:
        faults += bad
    if faults:
        raise CorruptError(_refusal(root, faults, bad=bool(bad)), faults=faults)
    examples = [
        _example(root, file, found, said)
        for file, found in zip(files, looked, strict=True)
        if not isinstance(found, str)
    ]
    if not examples:
        raise NotFoundError(f"{root}: none of its {len(files)} pictures can be read.")
    ordered = tuple(sorted(examples, key=lambda e: (e.sha256, e.caption, e.repeats)))
    return Folder(root, ordered, fingerprint(ordered), (*notes, *_notes(ordered)))


def fingerprint(examples: Sequence[Example]) -> str:
    """Return the SHA-256 that names a data set: equal pictures and captions, equal fingerprint."""
    lines = sorted(
        json.dumps([e.sha256, e.caption, e.repeats], ensure_ascii=False) for e in examples
    )
    return hashlib.sha256("\n".join([_VERSION, *lines]).encode()).hexdigest()


def _pictures(root: Path, recursive: bool) -> list[Path]:
    if root.is_file():
        raise UsageError(f"{root}: is a file. Name the folder the pictures lie in.")
    if not root.is_dir():
        raise NotFoundError(f"{root}: no such folder. Name the folder the pictures lie in.")
    found = sorted(root.rglob("*") if recursive else root.iterdir())
    shown = [
        file
        for file in found
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
        and file.is_file()
    ]
    if not shown:
        raise NotFoundError(
            f"{root}: no pictures there{'' if recursive else ' (folders in it were not asked)'}. "
            f"Known endings: {', '.join(SUFFIXES)}."
        )
    return shown


@dataclass(frozen=True, slots=True)
class _Look:
    sha256: str
    width: int
    height: int


def _look(root: Path, file: Path, known: Callable[[str], bool]) -> _Look | str:
    """Hash and decode one picture; a sentence if it cannot be read."""
    from PIL import Image

    name = file.relative_to(root).as_posix()
    try:
        content = file.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        with Image.open(io.BytesIO(content)) as image:
            turned = image.getexif().get(_EXIF_ORIENTATION) in _TURNED
            width, height = image.size
            if not known(sha256):
                image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = str(error).partition("<_io")[0].rstrip(" .")
        return f"{name}: {said or type(error).__name__}."
    return _Look(sha256, height, width) if turned else _Look(sha256, width, height)


class _Said:
    """What is written about the pictures of a folder."""

    def __init__(
        self, root: Path, files: Sequence[Path], faults: list[str], notes: list[str]
    ) -> None:
        self._root = root
        self._metadata: dict[Path, str] = {}
        self._faults = faults
        there, absent = set(files), list[str]()
        for folder in dict.fromkeys([root, *(file.parent for file in files)]):
            for name in _METADATA:
                for picture, caption in self._lines(folder / name):
                    if picture in there:
                        self._metadata[picture] = caption
                    else:
                        absent.append(f"{(folder / name).name} names {picture.name}")
        if absent:
            notes.append(
                f"{len(absent)} captions are for pictures that are not there: {_few(absent)}."
            )

    def caption(self, file: Path) -> tuple[str, Origin]:
        """Return the caption of a picture and where it stands."""
        for suffix in CAPTIONS:
            text = file.with_suffix(suffix)
            if text.is_file() and (words := _line(_text(text))):
                return words, "text file"
        if words := _line(self._metadata.get(file, "")):
            return words, "metadata"
        if file.parent != self._root and (match := _REPEATS.fullmatch(file.parent.name)):
            return _line(match[2].replace("_", " ")), "folder name"
        words = "" if _NO_WORDS.fullmatch(file.stem) else _words(file.stem)
        return (words, "file name") if words else ("", "none")

    def _lines(self, path: Path) -> Iterator[tuple[Path, str]]:
        if not path.is_file():
            return
        name = path.relative_to(self._root).as_posix()
        rows = _json_rows if path.suffix == ".jsonl" else _csv_rows
        for number, row in rows(_text(path)):
            file, caption = row.get("file_name"), next((row[f] for f in _FIELDS if row.get(f)), "")
            if isinstance(file, str) and isinstance(caption, str):
                yield Path(os.path.normpath(path.parent / file)), caption
            else:
                self._faults.append(
                    f"{name}, line {number}: needs file_name and one of {', '.join(_FIELDS)} as text."
                )


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield number, row if isinstance(row, dict) else {}


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    yield from enumerate(csv.DictReader(io.StringIO(text)), 2)


def _example(root: Path, file: Path, look: _Look, said: _Said) -> Example:
    caption, origin = said.caption(file)
    found = [_REPEATS.fullmatch(part) for part in file.relative_to(root).parent.parts]
    repeats = next((max(1, int(match[1])) for match in reversed(found) if match), 1)
    name = file.relative_to(root).as_posix()
    return Example(name, caption, origin, look.sha256, look.width, look.height, repeats)


def _notes(examples: Sequence[Example]) -> Iterator[str]:
    bare = [e.name for e in examples if e.origin == "none"]
    if bare:
        yield (
            f"{len(bare)} of {len(examples)} pictures have no caption: {_few(bare)}. Write one into a "
            ".txt file beside each, or give --trigger a word that stands for all of them."
        )
    same = len(examples) - len({e.sha256 for e in examples})
    if same:
        yield f"{same} pictures are copies of others in the folder."


def _refusal(root: Path, faults: Sequence[str], *, bad: bool) -> str:
    remedy = "Mend or remove them" + (", or leave them out with --skip-bad." if bad else ".")
    files = "1 file" if len(faults) == 1 else f"{len(faults)} files"
    return f"{root}: {files} cannot be used: {_few(faults)}. {remedy}"


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(item.rstrip(".") for item in items[:_SHOWN]) + more


def _text(path: Path) -> str:
    return path.read_text("utf-8-sig", errors="replace")


def _line(text: str) -> str:
    return " ".join(text.split())


def _words(stem: str) -> str:
    """Return what a file name says: ``a_red-apple_03`` is "a red apple"."""
    spaced = _line(re.sub(r"[_\-+]+", " ", stem))
    return re.sub(r"[\s(]+\d+\)?$", "", spaced)
