"""What a run would use, without reading a weight: ``memcard generate --dry-run``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memcard.core.progress import Event, Listener, Notice, silent
from memcard.jobs._file_identity import sha256_of
from memcard.jobs._generate_memory import PROGRAM, Memory, elements_of, work_of
from memcard.jobs._generate_models import Loaded, Lora, Models, Wanted, facts
from memcard.jobs.resolve import known_digests

if TYPE_CHECKING:
    import torch

    from memcard.generation.engine import Pipeline
    from memcard.generation.parts import Assembly, Part
    from memcard.generation.settings import Settings
    from memcard.jobs.generate import Asked

_SMALL: Final = 50_000_000  # bytes; a smaller file is read for its digest at once
_DRAWN: Final = (None, -1)  # seeds that ask for another one each time


@dataclass(frozen=True, slots=True)
class Source:
    """Where one part of the pipeline would come from.

    Attributes:
        part: as diffusers calls it.
        file: a name that is safe to share.
        parameters: values that would be loaded.
        stored: the dtype most of its bytes are stored in.
        nbytes: in memory, in the dtype it would run in.
    """

    part: str
    file: str
    parameters: int
    stored: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that was not made.

    Attributes:
        checkpoint, path: its name and its file.
        sha256: of the file; of a large one if it is known already.
        architecture: its family; ``title`` is what people call it, ``variant`` what kind of it.
        parts: in the order they would be loaded.
        loras: name, strength and sha256 of each.
        embeddings, controls: their names.
        prompt, settings: as they would be used.
        pictures: how many.
        seeds: of the pictures; empty if they would be drawn.
        device, dtype: where and in what it would be computed.
        memory: what it would take.
        notes: what a careful user should know.
    """

    checkpoint: str
    path: str
    sha256: str | None
    architecture: str
    title: str
    variant: str | None
    parts: tuple[Source, ...]
    loras: tuple[Mapping[str, Any], ...]
    embeddings: tuple[str, ...]
    controls: tuple[str, ...]
    prompt: tuple[str, ...]
    settings: Settings
    pictures: int
    seeds: tuple[int, ...]
    device: str
    dtype: str
    memory: Memory
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        found = asdict(self)
        origin = found["settings"].pop("origin")
        memory = {**asdict(self.memory), "needed": self.memory.needed, "fits": self.memory.fits}
        return {**found, "origin": dict(origin), "memory": memory}


def plan(
    prompt: str | Sequence[str],
    checkpoint: str | Path = "starter",
    loras: Sequence[tuple[str | Path, float] | Lora] = (),
    *,
    seed: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    low_memory: bool = False,
    progress: Listener = silent,
    **said: Any,
) -> Plan:
    """Say what ``run`` would use; arguments and errors are its own.

    Only headers are read, and LoRAs for their digests.
    """
    from memcard.jobs.generate import asked_for

    asked = asked_for(prompt, checkpoint, loras, seed=seed, **said)
    notes: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Notice):
            notes.append(event.text)
        else:
            progress(event)

    models = Models(device, dtype, hear, low_memory=low_memory)
    try:
        found = _planned(asked, models, hear)
    finally:
        models.close()
    notes += [*_beside(asked), *found.notes]
    seeds = () if seed in _DRAWN else asked.seeds
    return replace(found, seeds=seeds, notes=tuple(dict.fromkeys(notes)))


def _planned(asked: Asked, models: Models, progress: Listener) -> Plan:
    """Return the plan for the first of the prompts, as far as the models tell."""
    from memcard.jobs._generate_given import fitting, strength_of
    from memcard.jobs.generate import settings_in

    wanted = asked.groups()[0][0]
    loaded, assembly = _looked_at(models, wanted)
    settings, _ = settings_in(asked, loaded)
    settings = fitting(loaded.pipeline, settings, progress)
    strength_of(loaded.pipeline, settings, asked.given, asked.strength)  # refuses as a run does
    where, kind, parts, memory = _used(
        models, assembly, loaded.pipeline, settings, encoder=wanted.encoder
    )
    return Plan(
        *(loaded.name, str(loaded.path), _known_sha256(loaded.path)),
        *(assembly.family, _title(assembly), assembly.identity.variant),
        parts=parts,
        loras=tuple({k: v for k, v in one.items() if k != "autov3"} for one in loaded.loras),
        embeddings=tuple(facts(ref)["name"] for ref in wanted.embeddings),
        controls=tuple(facts(ref)["name"] for ref in wanted.controls),
        prompt=tuple(text for text, _ in asked.prompts),
        settings=settings,
        pictures=len(asked.prompts) * len(asked.seeds),
        seeds=asked.seeds,
        device=where,
        dtype=kind,
        memory=memory,
        notes=(*assembly.notes, *_short(memory, kind)),
    )


def _beside(asked: Asked) -> list[str]:
    """Say what else a run would load."""
    notes = []
    if (count := len(asked.groups())) > 1:
        notes.append(f"The prompts name {count} different stacks of LoRAs; this is for the first.")
    if asked.refine is not None:
        notes.append(
            f"{facts(asked.refine.ref)['name']} takes the pictures over at {asked.refine.at:g} of the way; it "
            "is loaded when the base is done."
        )
    return notes


def _looked_at(models: Models, wanted: Wanted) -> tuple[Loaded, Assembly]:
    """Return the checkpoint as it would be loaded, with a pipeline that has no networks."""
    from memcard.jobs._generate_settings import outline
    from memcard.jobs._library_cards import with_card

    ready = models.look(wanted)
    pipeline = outline(ready.assembly)
    if wanted.motion is not None:
        from memcard.generation.engines.animatediff import AnimateDiff

        pipeline = replace(pipeline, engine=AnimateDiff(pipeline.engine))
    metadata = with_card(wanted.checkpoint, dict(ready.metadata))
    return Loaded(pipeline, ready.name, ready.path, metadata, loras=ready.loras), ready.assembly


def _used(
    models: Models, assembly: Assembly, pipeline: Pipeline, settings: Settings, *, encoder: bool
) -> tuple[str, str, tuple[Source, ...], Memory]:
    """Return device, dtype, parts and memory."""
    from memcard.generation._free_memory import free_memory
    from memcard.generation.finite import TILED_FROM
    from memcard.generation.load import device_named, dtype_named

    device = device_named(models.device)
    kind = dtype_named(models.dtype, device, assembly)
    size = kind.itemsize
    order = [n for n in assembly.engine.components if n in assembly.parts]
    order += [name for name in assembly.parts if name not in order]
    parts = tuple(_source(assembly, assembly.parts[name], size, encoder=encoder) for name in order)
    tiled = models.low_memory or settings.width * settings.height >= TILED_FROM
    work = work_of(pipeline, settings, size, tiled=tiled)
    program = PROGRAM if device.type == "cpu" else 0
    memory = Memory(sum(part.nbytes for part in parts), work, program, free_memory(device))
    return str(device), _dtype(kind), parts, memory


def _dtype(kind: torch.dtype) -> str:
    from memcard.generation.load import PRECISIONS

    return next((n for n, one in PRECISIONS.items() if one == kind), str(kind))


def _source(assembly: Assembly, part: Part, size: int, *, encoder: bool) -> Source:
    stored = Counter[str]()
    for name in part.names.values():
        stored[part.view.specs[name].dtype.name] += part.view.specs[name].nbytes
    count = elements_of(assembly, part, encoder=encoder)
    kind = stored.most_common(1)[0][0] if stored else "nothing"
    return Source(part.name, part.label, count, kind, count * size)


def _title(assembly: Assembly) -> str:
    from memcard.architectures import ARCHITECTURES

    return ARCHITECTURES[assembly.family].title


def _known_sha256(path: Path) -> str | None:
    """Return the digest if it was computed before; a large file is not read for it."""
    if path.is_dir():
        return None
    if path.stat().st_size < _SMALL:
        return sha256_of(path)
    return known_digests().find(path, ("sha256",)).get("sha256")


def _short(memory: Memory, dtype: str) -> list[str]:
    """Say what helps if memory is short."""
    if memory.fits:
        return []
    ways = ["--dtype BF16, which takes half"] if dtype == "F32" else []
    if memory.weights + memory.program > memory.free:
        ways += ["a smaller model", "fewer programs beside this one"]
    else:
        ways += ["--low-memory", "a smaller --size"]
    needed, free = f"{memory.needed / 1e9:.1f} GB", f"{memory.free / 1e9:.1f} GB"
    return [
        f"It may not fit: about {needed} are needed and {free} are free. What helps: {', '.join(ways)}."
    ]
