"""ControlNets of a run: which, how strong, and the pictures they follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from memcard.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from memcard.generation.control import Control
    from memcard.generation.settings import Settings

# Path or name of a ControlNet, its strength, and between which shares of the steps it counts.
Net: TypeAlias = tuple[str | Path, float] | tuple[str | Path, float, float, float]


@dataclass(frozen=True, slots=True)
class Steer:
    """One ControlNet and its picture.

    Attributes:
        ref: path or name of the ControlNet.
        image: the picture it follows.
        strength: 0 is nothing, 1 as it was trained.
        start, end: 0..1, between which shares of the steps it counts.
    """

    ref: str | Path
    image: str | Path
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def facts(self) -> dict[str, Any]:
        """Return what a picture says about it."""
        from memcard.jobs._generate_models import facts

        found: dict[str, Any] = {**facts(self.ref), "strength": self.strength}
        if (self.start, self.end) != (0.0, 1.0):
            found |= {"start": self.start, "end": self.end}
        return {**found, "image": Path(str(self.image)).name}


def steers(
    nets: Sequence[Net], images: Sequence[str | Path], motion: object = None
) -> tuple[Steer, ...]:
    """Join ControlNets and pictures; one picture serves all if there is only one.

    A picture without any ControlNet is for a checkpoint that follows a drawing by itself.

    Raises:
        UsageError: there are more or fewer pictures than ControlNets, a number is out of its range, or clips
            are asked for.
    """
    from memcard.generation.control import check

    if len(images) == 1:
        images = tuple(images) * max(1, len(nets))
    if len(images) != len(nets) and not (len(images) == 1 and not nets):
        raise UsageError(
            f"{len(nets)} ControlNets and {len(images)} pictures to follow. Give each --control its "
            "--control-image, in the same order, or one picture for all."
        )
    if nets and motion is not None:
        raise UsageError("ControlNets steer pictures, not clips: leave --motion or --control out.")
    found = tuple(
        Steer(net[0], image, *(float(value) for value in net[1:]))
        for net, image in zip(nets, images, strict=False)
    )
    for one in found:
        check(one.strength, one.start, one.end)
    return found


def drawn(path: str | Path, size: tuple[int, int], *, edges: bool = False) -> Tensor:
    """Read a picture to follow, or draw the edges of a photo; 0..1, [height, width, 3].

    Raises:
        NotFoundError: no such file.
        CorruptError: it is no picture.
    """
    from memcard.jobs._given_pictures import fitted

    pixels = fitted(path, size, "RGB")
    if not edges:
        return pixels
    from memcard.generation.canny import canny

    return canny(pixels)


def controls(wanted: Sequence[Steer], settings: Settings, *, edges: bool = False) -> list[Control]:
    """Read the pictures in the size of the settings.

    Raises:
        NotFoundError: no such file.
        CorruptError: it is no picture.
    """
    from memcard.generation.control import Control

    size = (settings.width, settings.height)
    seen = [drawn(one.image, size, edges=edges) for one in wanted]
    return [
        Control(pixels, one.strength, one.start, one.end)
        for pixels, one in zip(seen, wanted, strict=True)
    ]
