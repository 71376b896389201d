"""All hostile files: what each is, which careless reader runs it, which verdict is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attacks import gadgets, routes, spellings
from attacks.containers import CONTAINERS
from attacks.polyglots import FILES, FOLDERS
from fixtures.torch_archive import ONE_DATA, tensor, text, write_archive

HONEST_PART = text("w") + tensor("0", [4], [1])


@dataclass(frozen=True)
class Hostile:
    """One way to attack a loader.

    Attributes:
        make: takes an empty folder and the path of the marker; returns what to open.
        verdicts: those that are right.
        reader: the reader of ``careless.py`` that runs the payload.
        honest: whether the tensor ``w`` lies beside the payload, for salvage.
    """

    make: Callable[[Path, str], Path]
    verdicts: tuple[str, ...]
    reader: str
    honest: bool = False


def _from_program(program: Callable[[str], bytes]) -> Hostile:
    """An honest tensor first, then whatever the payload leaves on the stack."""

    def make(folder: Path, marker: str) -> Path:
        code = b"\x80\x02}" + HONEST_PART + b"s" + text("x") + program(marker) + b"s."
        return write_archive(folder / "x.ckpt", code, ONE_DATA)

    return Hostile(make, ("unsafe",), "zipfile", honest=True)


def _from_ending(ending: Callable[[bytes], bytes]) -> Hostile:
    def make(folder: Path, marker: str) -> Path:
        return write_archive(
            folder / "x.ckpt", ending(b"\x80\x02" + routes.system(marker)), ONE_DATA
        )

    return Hostile(make, ("unsafe",), "zipfile")


def _from_bytes(
    verdicts: str | tuple[str, ...], reader: str, suffix: str, content: Callable[[str], bytes]
) -> Hostile:
    def make(folder: Path, marker: str) -> Path:
        file = folder / f"x{suffix}"
        file.write_bytes(content(marker))
        return file

    return Hostile(make, _tuple(verdicts), reader)


def _tuple(verdicts: str | tuple[str, ...]) -> tuple[str, ...]:
    return (verdicts,) if isinstance(verdicts, str) else verdicts


HOSTILE: dict[str, Hostile] = {
    **{n: _from_program(p) for n, p in routes.PROGRAMS.items()},
    **{n: _from_program(p) for n, p in spellings.PROGRAMS.items()},
    **{n: _from_program(p) for n, p in gadgets.PROGRAMS.items()},
    **{n: _from_ending(e) for n, e in spellings.ENDINGS.items()},
    **{n: _from_bytes(v, r, ".ckpt", c) for n, (v, r, c) in CONTAINERS.items()},
    **{n: _from_bytes(*case) for n, case in FILES.items()},
    **{n: Hostile(make, _tuple(v), r) for n, (v, r, make) in FOLDERS.items()},
}
