"""A comparison before it is painted: each cell with all that decides its picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard.jobs._compare_axes import Axis, Layout
from memcard.jobs._compare_sources import Extra, Model, Named

if TYPE_CHECKING:
    from memcard.generation.settings import Settings


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for, each with one value or more; None as a value: as card or family say.

    Attributes:
        prompts: the prompts.
        checkpoints: paths or names.
        loras: (path or name, strengths); all are laid on together.
        vaes: paths or names; None is the checkpoint's own.
        seeds: of the noise.
        settings: by name, also ``size`` with (width, height).
        text_encoders: files that stand in for those of every checkpoint, or that they lack.
        embeddings: textual inversions that prompts may name.
        device: as for ``generate``.
        dtype: as for ``generate``.
    """

    prompts: tuple[str, ...]
    checkpoints: tuple[str | Path, ...]
    loras: tuple[tuple[str | Path, tuple[float, ...]], ...]
    vaes: tuple[str | Path | None, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, tuple[Any, ...]]
    text_encoders: tuple[str | Path, ...] = ()
    embeddings: tuple[str | Path, ...] = ()
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class Planned:
    """One cell that is to be made.

    Attributes:
        at: which value of each axis it has.
        model: the checkpoint.
        loras: those with a strength that is not 0.
        vae: another VAE.
        prompt: what to paint.
        named: the LoRAs the prompt names.
        seed: of the noise.
        user: the settings the user said.
        settings: all of them, as they will be used; None if they are impossible together.
        key: of its picture in the store; empty if it is impossible.
        why_not: why it is impossible.
    """

    at: tuple[int, ...]
    model: Model
    loras: tuple[tuple[Extra, float], ...]
    vae: Extra | None
    prompt: str
    named: tuple[Named, ...]
    seed: int
    user: Mapping[str, Any]
    settings: Settings | None
    key: str = ""
    why_not: str = ""

    @property
    def group(self) -> tuple[Any, ...]:
        """What has to be loaded for it."""
        return (self.model.sha256, tuple((e.sha256, s) for e, s in self.loras), self.named,
                self.vae and self.vae.sha256)  # fmt: skip

    def shortened(self, steps: int) -> Planned:
        """Return the cell with fewer steps, for measuring; it has no place in the store."""
        assert self.settings is not None, "the caller looked"  # noqa: S101
        settings = replace(self.settings, steps=steps)
        return replace(self, user={**self.user, "steps": steps}, settings=settings, key="")


@dataclass(frozen=True, slots=True)
class Plan:
    """All cells, in the order of the axes, the last axis fastest."""

    axes: tuple[Axis, ...]
    layout: Layout
    cells: tuple[Planned, ...]
    wish: Wish

    def ordered(self) -> list[Planned]:
        """Return the cells to make, those of one checkpoint, LoRA set and VAE together; each key once."""
        groups: dict[Any, int] = {}
        found: dict[str, Planned] = {}
        for cell in self.cells:
            if cell.key:
                groups.setdefault(cell.model.sha256, len(groups))
                groups.setdefault(cell.group, len(groups))
                found.setdefault(cell.key, cell)
        order = {key: number for number, key in enumerate(found)}
        return sorted(
            found.values(),
            key=lambda c: (groups[c.model.sha256], groups[c.group], order[c.key]),
        )
