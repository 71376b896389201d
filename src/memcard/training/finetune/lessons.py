"""The data of a run as the loop takes it: batches of latents and what is said about them.

Everything in batch ``n`` is a function of (data, settings, n): which examples, their prompts, their flips.
Nothing of it need be saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memcard.core.progress import Listener, Progress, silent
from memcard.errors import CorruptError
from memcard.training.finetune.buckets import Crop, Size, bucket_sizes, crop_to, pixels
from memcard.training.finetune.cache import Cache, Remembered, key_of
from memcard.training.finetune.captions import Captions
from memcard.training.finetune.folder import Folder
from memcard.training.finetune.model import Model, Words
from memcard.training.finetune.order import BucketOrder
from memcard.training.finetune.settings import Settings


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass.

    Attributes:
        number: counted from 0 over the whole run.
        epoch: it is of.
        latents: [n, channels, height, width], float32.
        words: of the prompts.
        sizes: SDXL's six numbers for each.
        chance: where all other randomness of this batch comes from.
    """

    number: int
    epoch: int
    latents: Tensor
    words: Words
    sizes: tuple[tuple[int, ...], ...]
    chance: torch.Generator


@dataclass(frozen=True, slots=True)
class Cut:
    """A folder, cut into buckets and batches; nothing was computed.

    Attributes:
        folder: of the pictures.
        crops: of each example.
        order: of the batches.
    """

    folder: Folder
    crops: tuple[Crop, ...]
    order: BucketOrder

    @classmethod
    def of(cls, folder: Folder, settings: Settings, step: int) -> Cut:
        """Plan the batches.

        Args:
            folder: of the pictures.
            settings: of the run.
            step: sides are multiples of it.

        Raises:
            UsageError: the size does not fit.
        """
        size = (settings.width, settings.height)
        buckets = bucket_sizes(size, step, square=not settings.buckets)
        crops = tuple(crop_to((e.width, e.height), buckets) for e in folder.examples)
        order = BucketOrder(
            [crop.bucket for crop in crops],
            [example.repeats for example in folder.examples],
            settings.batch,
            seed=settings.seed,
        )
        return cls(folder, crops, order)

    def buckets(self) -> dict[Size, int]:
        """Return how many pictures are in each bucket that has any, the fullest first."""
        counts: dict[Size, int] = {}
        for crop in self.crops:
            counts[crop.bucket] = counts.get(crop.bucket, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def notes(self) -> Iterator[str]:
        """Tell what a careful user should know."""
        pairs = zip(self.folder.examples, self.crops, strict=True)
        small = [example.name for example, crop in pairs if crop.enlarged]
        if small:
            yield (
                f"{len(small)} pictures have fewer pixels than their bucket and are enlarged, first "
                f"{small[0]}. They teach blur; choose a smaller --size or larger pictures."
            )


class Lessons:
    """The batches of a run."""

    def __init__(self, model: Model, cut: Cut, settings: Settings, cache: Cache) -> None:
        self.model, self.folder, self._settings = model, cut.folder, settings
        self.crops, self.order = cut.crops, cut.order
        self.captions = Captions(
            *(settings.trigger, settings.dropout, settings.shuffle, settings.keep, settings.seed)
        )
        self._latents, self._words = Remembered(cache), Remembered(cache)

    def prepare(self, progress: Listener = silent) -> None:
        """Compute the latents of all pictures and the states of all plain prompts; once for all runs.

        Raises:
            CorruptError: pictures cannot be read; names all of them.
            DiskError: the cache is full.
        """
        flips = (False, True) if self._settings.flip else (False,)
        todo = [(i, flip) for flip in flips for i in range(len(self.crops))]
        faults: list[str] = []
        for done, (index, flip) in enumerate(todo, 1):
            try:
                self._clean([(index, flip)])
            except OSError as error:
                faults.append(f"{self.folder.examples[index].name}: {error}.")
            progress(Progress("latents", done, len(todo), "files"))
        if faults:
            raise CorruptError(
                f"{self.folder.path}: pictures cannot be read: {'; '.join(faults[:5])}",
                faults=faults,
            )
        if not self._settings.text_encoder and not self._settings.shuffle:
            said = {self.captions.fixed(e.caption) for e in self.folder.examples} | {""}
            for done, text in enumerate(sorted(said), 1):
                self._said((text,))
                progress(Progress("prompts", done, len(said), "files"))

    def batch(self, number: int) -> Batch:
        """Return one batch."""
        epoch, indexes = self.order.at(number)
        chance = chance_of(self._settings.seed, number)
        flips = [False] * len(indexes)
        if self._settings.flip:
            flips = (torch.rand(len(indexes), generator=chance) < 0.5).tolist()
        pairs = list(zip(indexes, flips, strict=True))
        latents = torch.stack([value["latents"] for value in self._clean(pairs)])
        prompts = [self.captions.prompt(self.folder.examples[i].caption, epoch, i) for i in indexes]
        words = self.model.words(prompts) if self._settings.text_encoder else self._said(prompts)
        sizes = tuple(self.crops[i].conditions for i in indexes)
        return Batch(number, epoch, latents.to(self.model.device), words, sizes, chance)

    def cut(self) -> list[str]:
        """Return captions that do not fit into the text encoder, with what is not read."""
        found = []
        for example in self.folder.examples:
            rest = self.model.texts[0].tokens(self.captions.fixed(example.caption))[1]
            if rest:
                found.append(f"{example.name}: {rest!r}")
        return found

    def _key(self, index: int, flip: bool) -> str:
        example, crop = self.folder.examples[index], self.crops[index]
        return key_of(
            what="latents", picture=example.sha256, vae=self.model.vae_digest, flip=flip,
            crop=[*crop.scaled, crop.left, crop.top, *crop.bucket],
        )  # fmt: skip

    def _clean(self, pairs: Sequence[tuple[int, bool]]) -> list[dict[str, Tensor]]:
        """Return the latents of pictures of one bucket."""

        # One at a time: the last bits of a batch depend on its size, and what is cached must not.
        def compute(places: Sequence[int]) -> list[dict[str, Tensor]]:
            return [{"latents": self._encoded(*pairs[place])} for place in places]

        return self._latents.get([self._key(i, flip) for i, flip in pairs], compute)

    def _encoded(self, index: int, flip: bool) -> Tensor:
        file = self.folder.file(self.folder.examples[index])
        picture = torch.from_numpy(pixels(file, self.crops[index], flip=flip))
        return self.model.encode(picture[None])[0]

    def _said(self, prompts: Sequence[str]) -> Words:
        def compute(places: Sequence[int]) -> list[dict[str, Tensor]]:
            return [self._told(prompts[place]) for place in places]

        digests = [text.digest for text in self.model.texts]
        keys = [
            key_of(what="words", prompt=p, texts=digests, dtype=str(self.model.dtype))
            for p in prompts
        ]
        # mixed tags hardly ever come back in the same order
        found = self._words.get(keys, compute, keep=not self._settings.shuffle)
        stacked = {
            name: torch.stack([value[name] for value in found]).to(self.model.device)
            for name in found[0]
        }
        return Words(stacked["states"], stacked.get("pooled"))

    def _told(self, prompt: str) -> dict[str, Tensor]:
        with torch.no_grad():
            words = self.model.words((prompt,))
        pooled = {} if words.pooled is None else {"pooled": words.pooled[0]}
        return {"states": words.states[0], **pooled}


def chance_of(seed: int, *numbers: int) -> torch.Generator:
    """Return a source of randomness that depends on these numbers alone."""
    digest = hashlib.sha256(" ".join(map(str, (seed, *numbers))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
