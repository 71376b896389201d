"""What a comparison gives back: its cells, and how they become sheets, a page, a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard.core.progress import Listener, silent
from memcard.jobs._compare_cells import Plan
from memcard.jobs._compare_output import write_folder, write_page, write_sheets
from memcard.jobs._compare_store import Store, read_cell

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination.

    Attributes:
        values: what it has of each axis, as people read it.
        path: its PNG in the store; None if it is impossible.
        why_not: why it is impossible; else empty.
        made: whether this run made it, not an earlier one.
        settings: all settings as used; empty if it is impossible.
        origin: where each setting comes from: ``user``, ``card`` or ``family``.
    """

    values: Mapping[str, str]
    path: Path | None
    why_not: str
    made: bool
    settings: Mapping[str, Any]
    origin: Mapping[str, str]

    @property
    def image(self) -> Image:
        """The picture; saving it as PNG keeps its text."""
        from PIL import Image

        from memcard.generation.picture import Picture

        if self.path is None:
            raise LookupError(self.why_not)
        with Image.open(self.path) as opened:
            image = opened.convert("RGB")
        image.info["parameters"] = self.infotext
        image.__class__ = Picture
        return image

    @property
    def facts(self) -> dict[str, Any]:
        """What its PNG says about itself."""
        return {} if self.path is None else read_cell(self.path)

    @property
    def infotext(self) -> str:
        """Its A1111 text."""
        return str(self.facts.get("parameters", ""))


class Comparison:
    """A finished comparison.

    Attributes:
        made: how many pictures this run made; the others were there.
        seconds: wall time of the run.
    """

    def __init__(self, plan: Plan, store: Store, made: frozenset[str], seconds: float) -> None:
        self._plan, self._store, self._made = plan, store, made
        self.made, self.seconds = len(made), seconds

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All combinations, the last axis fastest."""
        axes = self._plan.axes
        found = []
        for cell in self._plan.cells:
            pairs = zip(axes, cell.at, strict=True)
            values = {axis.name: axis.labels[i] for axis, i in pairs}
            settings = asdict(cell.settings) if cell.settings else {}
            origin = settings.pop("origin", {})
            path = self._store.path(cell.key) if cell.key else None
            found.append(Cell(values, path, cell.why_not, cell.key in self._made, settings, origin))
        return tuple(found)

    @property
    def axes(self) -> Mapping[str, tuple[str, ...]]:
        """Name and values of what varies."""
        return {axis.name: axis.labels for axis in self._plan.axes if axis.varies}

    def png(
        self, path: str | Path = "compare.png", *, cell: int | None = None, overwrite: bool = False
    ) -> tuple[Path, ...]:
        """Write a labelled sheet; one file for each page, with numbers if there are several.

        Args:
            path: ends in .png.
            cell: longest side of a picture on the sheet, in pixels; None: chosen.
            overwrite: also replace a file that no comparison wrote.

        Raises:
            UsageError: a file is there that no comparison wrote, or the name ends in something else.
        """  # fmt: skip
        return write_sheets(
            self._plan, self._store, Path(path).expanduser(), cell=cell, overwrite=overwrite
        )

    def html(
        self,
        path: str | Path = "compare.html",
        *,
        overwrite: bool = False,
        progress: Listener = silent,
    ) -> Path:
        """Write one page with all pictures in it, for any browser; errors as ``png``."""
        return write_page(
            self._plan, self._store, Path(path).expanduser(), overwrite=overwrite, progress=progress
        )

    def folder(
        self,
        path: str | Path,
        *,
        cell: int | None = None,
        overwrite: bool = False,
        progress: Listener = silent,
    ) -> tuple[Path, ...]:
        """Write ``index.html``, the sheets, and each picture as a PNG of its own below ``cells``."""
        return write_folder(
            self._plan, self._store, Path(path).expanduser(), cell=cell, overwrite=overwrite, progress=progress
        )  # fmt: skip

    def save(
        self,
        path: str | Path,
        *,
        cell: int | None = None,
        overwrite: bool = False,
        progress: Listener = silent,
    ) -> tuple[Path, ...]:
        """Write what the name asks for: .png, .html, or else a folder; return the files."""
        suffix = Path(path).suffix.lower()
        if suffix == ".png":
            return self.png(path, cell=cell, overwrite=overwrite)
        if suffix in (".html", ".htm"):
            return (self.html(path, overwrite=overwrite, progress=progress),)
        return self.folder(path, cell=cell, overwrite=overwrite, progress=progress)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "axes": {name: list(labels) for name, labels in self.axes.items()},
            "made": self.made,
            "seconds": round(self.seconds, 2),
            "cells": [
                {
                    "values": dict(cell.values),
                    "file": None if cell.path is None else str(cell.path),
                    "why_not": cell.why_not or None,
                    "made": cell.made,
                    "settings": dict(cell.settings),
                    "origin": dict(cell.origin),
                }
                for cell in self.cells
            ],
        }

    def __repr__(self) -> str:
        varying = " x ".join(f"{len(labels)} {name}" for name, labels in self.axes.items())
        return f"<comparison: {len(self.cells)} cells, {varying or 'nothing varies'}>"
