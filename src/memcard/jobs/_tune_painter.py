"""The model of a search: paints cells, and has scorers judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from memcard.generation.denoise import conditions, decode, denoise
from memcard.generation.latents import generator
from memcard.generation.picture import picture
from memcard.generation.samplers import SAMPLERS
from memcard.generation.scorer import Bench, Shot
from memcard.generation.scorers import SCORERS
from memcard.generation.scorers._likelihood import LOOKS
from memcard.generation.settings import Settings
from memcard.jobs._generate_models import Models, Wanted
from memcard.jobs._generate_settings import settings_of
from memcard.jobs._tune_cells import Cell

if TYPE_CHECKING:
    from PIL.Image import Image

_KEPT: Final = 32  # pictures that stay in memory: references are asked for again and again
RIVALS: Final = 4  # prompts a picture is told from, beside no prompt at all


class Painter:
    """Paints and judges with one checkpoint; a context manager, since its files stay open.

    Attributes:
        name: of the checkpoint.
        family: name of its architecture.
        sha256: of the checkpoint, its LoRAs and its VAE.
        usual: the settings of its family, and what the user fixed.
        clip: whether a CLIP model judges too.
        evaluations: runs of the denoiser so far, of one picture each.
    """

    def __init__(
        self, wanted: Wanted, models: Models, fixed: Mapping[str, Any], *, with_card: bool = False,
        clip: Path | None = None,
    ) -> None:  # fmt: skip
        """Load the models.

        Args:
            wanted: the checkpoint and what goes with it.
            models: loads them, and is closed in the end.
            fixed: settings by the names of ``Settings``, above those of the family.
            with_card: let the checkpoint's card stand between them.
            clip: folder of a CLIP model.
        """
        self._models = models
        loaded = models.get(wanted)
        self._pipeline = loaded.pipeline
        self.clip = clip is not None
        self.name, self.family = loaded.name, loaded.pipeline.architecture
        more = (*loaded.loras, *([loaded.vae] if loaded.vae else []))
        self.sha256 = [loaded.sha256, *(str(facts["sha256"]) for facts in more)]
        said = loaded.metadata if with_card else {}
        try:
            self.usual = settings_of(self._pipeline, said, fixed)
        except BaseException:
            models.close()
            raise
        self._bench = Bench(self._pipeline, self.usual, clip=clip)
        self._shots: dict[Cell, Shot] = {}
        self.evaluations = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._models.close()

    def settings(self, cell: Cell) -> Settings:
        """Return everything a cell is painted with."""
        return replace(
            self.usual,
            cfg=cell.cfg,
            steps=cell.steps,
            sampler=cell.sampler,
            schedule=cell.schedule,
        )

    def shot(self, cell: Cell) -> Shot:
        """Paint a cell, or take it from memory."""
        if cell in self._shots:
            self._shots[cell] = self._shots.pop(cell)  # used last
            return self._shots[cell]
        settings = self.settings(cell)
        told = conditions(self._pipeline, cell.prompt, settings.negative, settings)
        with self._pipeline.running():
            source = generator(cell.seed)
            latents = denoise(self._pipeline, told, settings, cell.seed, source=source)
            pixels = decode(self._pipeline, latents, settings, source)
        self.evaluations += evaluations(cell)
        self._shots[cell] = Shot(cell.prompt, cell.seed, latents.float().cpu(), pixels)
        while len(self._shots) > _KEPT:
            del self._shots[next(iter(self._shots))]
        return self._shots[cell]

    def scores(
        self,
        cell: Cell,
        names: Sequence[str],
        rivals: tuple[str, ...] = (),
        *,
        reference: Cell | None = None,
        unguided: Cell | None = None,
    ) -> tuple[dict[str, float], Image]:
        """Return the scores of a cell by the names of scorers, and its picture."""
        shot = self.shot(cell)
        bench = replace(
            self._bench,
            rivals=rivals,
            references={shot.key: self.shot(reference)} if reference else {},
            unguided={shot.key: self.shot(unguided)} if unguided else {},
        )
        if any("model" in SCORERS[name].needs for name in names):
            self.evaluations += judging(len(rivals))
        found = {name: SCORERS[name].score([shot], bench)[0] for name in names}
        return found, picture(shot.pixels[0])

    def diversity(self, cells: Sequence[Cell]) -> tuple[float, ...]:
        """Return how far each picture is from the others of its prompt."""
        return SCORERS["diversity"].score([self.shot(cell) for cell in cells], self._bench)


def evaluations(cell: Cell) -> int:
    """Return how often the denoiser runs for a picture; twice a step under guidance."""
    return cell.steps * SAMPLERS[cell.sampler].evaluations * (2 if cell.cfg > 1 else 1)


def judging(rivals: int) -> int:
    """Return how often it runs to judge one."""
    return len(LOOKS) * (rivals + 1)
