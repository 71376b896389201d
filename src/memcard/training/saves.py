"""The save file of a training: one safetensors file that says what it is, and checks every byte of itself.

Tensors have a BLAKE3 each, in the header; the header has one of its own. Listing and verifying need no
tensor library. Specification: ``docs/spec/training.md``.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from blake3 import blake3

from memcard._version import __version__
from memcard.core.tensors import Specs
from memcard.errors import CorruptError, FormatError, IntegrityError, MemcardError, UnsupportedError
from memcard.formats._safetensors_header import LENGTH, plan, read_header
from memcard.formats._source import Source
from memcard.formats.safetensors import Safetensors

VERSION: Final = 1
FACTS: Final = "memcard.training"
CHECK: Final = "memcard.training.check"
CARD: Final = "memcard.card"
NAME: Final = re.compile(r"step-(\d{9,15})\.safetensors")
PAGE: Final = (
    4096  # tensors begin at a multiple of it, so that they can be written past the page cache
)
_ZEROS: Final = "0" * 64
_AT_ONCE: Final = 8 << 20  # bytes hashed in one go
_MOST_THREADS: Final = 8


def name_of(step: int) -> str:
    """Return the file name of a step; names sort as steps do, up to a billion."""
    return f"step-{step:09d}.safetensors"


@dataclass(frozen=True, slots=True)
class Save:
    """What a save says about itself.

    Attributes:
        path: of the file.
        step: finished optimizer steps.
        run: id of the run that made it.
        name: of the run.
        time: seconds since 1970 when it was taken.
        metrics: what was measured at that step.
        world: how many processes trained.
        size: of the file, in bytes.
        made_by: name and version of the program, and of the libraries it ran on.
    """

    path: Path
    step: int
    run: str
    name: str
    time: float
    metrics: Mapping[str, float]
    world: int
    size: int = 0
    made_by: Mapping[str, str] = field(default_factory=dict)


def made_by() -> dict[str, str]:
    """Return the versions of what runs; of libraries only those that were imported."""
    found = {"memcard": __version__, "python": sys.version.split()[0]}
    for name in ("torch", "numpy"):
        if (version := getattr(sys.modules.get(name), "__version__", None)) is not None:
            found[name] = str(version)
    return found


@dataclass(frozen=True, slots=True)
class Broken:
    """A file with the name of a save that is none, or not a sound one."""

    path: Path
    step: int
    error: MemcardError | OSError


def lay_out(specs: Specs) -> Specs:
    """Return the tensors in the order of the file: wide types first, so that each lies aligned."""
    return dict(sorted(specs.items(), key=lambda item: -item[1].dtype.block_bytes))


def make_header(
    path: Path, specs: Specs, save: Save, tree: Any, digests: Mapping[str, str] | None
) -> bytes:
    """Return the bytes before the tensors; a multiple of ``PAGE``.

    Args:
        path: for messages.
        specs: as ``lay_out`` returns them.
        save: what the file is to say about itself.
        tree: of ``_tree.pack``.
        digests: BLAKE3 of each tensor in hex. None: not known yet; the length will be the same.

    Raises:
        UnsupportedError: the format cannot hold a tensor, or so much text.
    """
    facts = {
        "version": VERSION,
        "step": save.step,
        "run": save.run,
        "name": save.name,
        "time": save.time,
        "metrics": {name: to_json(value) for name, value in save.metrics.items()},
        "world": save.world,
        "made_by": dict(save.made_by),
        "tree": tree,
        "digests": dict.fromkeys(specs, _ZEROS)
        if digests is None
        else {n: digests[n] for n in specs},
    }
    card = {"kind": "training"}
    metadata = {"format": "pt", CARD: _text(card), FACTS: _text(facts), CHECK: _ZEROS}
    text = plan(specs, metadata, path).fixed[0][1][LENGTH:]
    text += b" " * (-(LENGTH + len(text)) % PAGE)
    raw = len(text).to_bytes(LENGTH, "little") + text
    return raw if digests is None else _with_check(raw, blake3(raw).hexdigest())


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def _with_check(raw: bytes, check: str) -> bytes:
    mark = f'"{CHECK}":"'.encode()
    at = raw.rindex(mark) + len(mark)
    return raw[:at] + check.encode() + raw[at + len(check) :]


def to_json(value: float) -> float | str:
    """Return a metric as JSON has it, which knows no NaN."""
    return value if math.isfinite(value) else str(value)


def from_json(value: Any) -> float:
    """Return a metric from JSON; raises ValueError or TypeError if it is none."""
    return float(value)


class OpenSave:
    """A save whose header was read and found sound; the tensors are not yet.

    Attributes:
        save: what it says about itself.
        tree: for ``_tree.unpack``.
        digests: BLAKE3 of each tensor in hex.
        file: the tensors.
    """

    def __init__(self, path: Path) -> None:
        with Source(path) as source:
            raw = source.bytes(0, LENGTH) + read_header(source)
            self.file = Safetensors(source)
        try:
            facts = self._facts(path, raw)
            self.save = _save(path, facts, path.stat().st_size)
            self.tree: Any = facts["tree"]
            self.digests: dict[str, str] = facts["digests"]
            if set(self.digests) != set(self.file.specs):
                raise CorruptError(f"{path}: has digests of other tensors than it holds.")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.close()
            if isinstance(error, MemcardError):
                raise
            raise CorruptError(f"{path}: its record lacks something ({error}).") from None

    def _facts(self, path: Path, raw: bytes) -> dict[str, Any]:
        metadata = self.file.metadata
        if FACTS not in metadata or CHECK not in metadata:
            raise UnsupportedError(
                f"{path}: was not made by memcard.Checkpointer. To begin from its weights, load them "
                "with memcard.load()."
            )
        if blake3(_with_check(raw, _ZEROS)).hexdigest() != metadata[CHECK]:
            raise IntegrityError(
                f"{path}: its header does not match its own check; the disk or a program changed it. "
                "Use another save."
            )
        facts: dict[str, Any] = json.loads(metadata[FACTS])
        if facts["version"] != VERSION:
            raise UnsupportedError(
                f"{path}: is of version {facts['version']}; this memcard reads version {VERSION}. "
                "Use the version that wrote it, or a newer one."
            )
        return facts

    def verify(self) -> None:
        """Read every tensor and compare it with its digest, on all cores.

        Raises:
            IntegrityError: names all tensors that differ.
        """
        specs = self.file.specs
        wide = sorted(specs, key=lambda name: -specs[name].nbytes)  # the longest first
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as crew:
            found = dict(zip(wide, crew.map(self._digest, wide), strict=True))
        if wrong := [repr(name) for name in specs if found[name] != self.digests[name]]:
            more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            raise IntegrityError(
                f"{self.save.path}: {', '.join(wrong[:4])}{more}: the bytes do not match their digest; "
                "the disk or a program changed them. Use another save."
            )

    def _digest(self, name: str) -> str:
        raw = self.file.read(name) if self.file.specs[name].nbytes else memoryview(b"")
        return digest(raw)

    def close(self) -> None:
        """Give the file back."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def digest(raw: memoryview) -> str:
    """Return the BLAKE3 in hex; other threads run meanwhile."""
    hasher = blake3()
    for at in range(0, len(raw), _AT_ONCE):
        hasher.update(raw[at : at + _AT_ONCE])
    return hasher.hexdigest()


def _save(path: Path, facts: Mapping[str, Any], size: int) -> Save:
    metrics = {str(name): from_json(value) for name, value in facts["metrics"].items()}
    numbers = (int(facts["step"]), str(facts["run"]), str(facts["name"]), float(facts["time"]))
    return Save(path, *numbers, metrics, int(facts["world"]), size, dict(facts["made_by"]))


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """Return step and path of all files with the name of a save, the oldest first; none is opened."""
    if not folder.is_dir():
        return []
    found = [(NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match is not None)


def listed(folder: Path) -> Iterator[Save | Broken]:
    """Yield the saves of a run folder, the oldest first; only headers are read."""
    for step, path in numbered(folder):
        yield look(path, step)


def look(path: Path, step: int) -> Save | Broken:
    """Return what a file says about itself, from its header."""
    try:
        with OpenSave(path) as found:
            if found.save.step != step:
                return Broken(path, step, CorruptError(f"{path}: is of step {found.save.step}."))
            return found.save
    except (FormatError, IntegrityError, OSError) as error:
        return Broken(path, step, error)


def sound(saves: Iterable[Save | Broken]) -> list[Save]:
    """Return those that are no ``Broken``."""
    return [save for save in saves if isinstance(save, Save)]
