"""The models a run needs: opened, completed, loaded, and what pictures say about them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from memcard.core.checkpoint import Checkpoint
from memcard.core.collector import waiting
from memcard.core.identity import supply
from memcard.core.progress import Listener, Notice, silent
from memcard.errors import IntegrityError, MemcardError, MismatchError, NotFoundError
from memcard.jobs._contents import Contents
from memcard.jobs._file_identity import sha256_of
from memcard.jobs._image_files import short_digests
from memcard.jobs._library_cards import with_card
from memcard.jobs.lora import open_with_loras
from memcard.jobs.resolve import label, locate, resolve

if TYPE_CHECKING:
    from memcard.generation.cache import Cache
    from memcard.generation.engine import Pipeline
    from memcard.generation.parts import Assembly

_REMEMBERED: Final = 16  # checkpoints whose files stay open

# Path or name, strength, strength in the text encoders if it differs.
Lora: TypeAlias = tuple[str | Path, float, float | None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to load.

    Attributes:
        checkpoint: path or name.
        loras: in the order they are added.
        named: the first of ``loras`` that the prompt names; those before come from the caller.
        vae: another VAE, or only its decoder.
        text_encoders: files of text encoders, and of any other part but the denoiser.
        t5: whether a T5 that the family can do without is used, be it in the checkpoint or in the library.
        embeddings: textual inversions.
        motion: a motion module, which makes clips.
        encoder: also the half of the VAE that reads pictures.
        controls: ControlNets.
        blocks: (pattern, number), as of ``open_with_loras``.
    """

    checkpoint: str | Path
    loras: tuple[Lora, ...] = ()
    named: int = 0
    vae: str | Path | None = None
    text_encoders: tuple[str | Path, ...] = ()
    embeddings: tuple[str | Path, ...] = ()
    motion: str | Path | None = None
    encoder: bool = False
    blocks: tuple[tuple[str, float], ...] = ()
    controls: tuple[str | Path, ...] = ()
    t5: bool = True


@dataclass(frozen=True, slots=True)
class Loaded:
    """Models that are ready.

    Attributes:
        pipeline: them.
        name: of the checkpoint.
        path: of its file.
        metadata: of the checkpoint, its card among it.
        loras, vae, embeddings: what pictures say about them.
        lent: paths or names of the files that gave what the checkpoint lacks.
    """

    pipeline: Pipeline
    name: str
    path: Path
    metadata: Mapping[str, str]
    loras: tuple[Mapping[str, Any], ...] = ()
    vae: Mapping[str, str] | None = None
    embeddings: tuple[Mapping[str, str], ...] = ()
    lent: tuple[str | Path, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 of the checkpoint's file; one that is not known yet is read for it."""
        return sha256_of(self.path)

    def parts(self) -> dict[str, Any]:
        """Return what pictures say about the files that gave what the checkpoint lacks."""
        found: dict[str, Any] = {}
        if self.lent:
            found["parts"] = [facts(ref) for ref in self.lent]
        engine, modules = self.pipeline.engine, self.pipeline.modules
        if engine.optional and not any(name in modules for name in engine.optional):
            found["t5"] = False
        return found


@dataclass(frozen=True, slots=True)
class Ready:
    """What is known of a checkpoint before any weight is read: kept, as finding it out takes a while.

    Attributes:
        opened: the files.
        assembly: their parts.
        name, path, metadata, loras, vae, lent: as of ``Loaded``; the metadata without a card of the library.
        stamps: of the files that the user named, when they were opened.
    """

    opened: tuple[Checkpoint, ...]
    assembly: Assembly
    name: str
    path: Path
    metadata: Mapping[str, str]
    loras: tuple[Mapping[str, Any], ...]
    vae: Mapping[str, str] | None
    stamps: object
    lent: tuple[str | Path, ...] = ()

    def close(self) -> None:
        """Close the files."""
        for checkpoint in self.opened:
            checkpoint.close()

    @property
    def is_as_it_was(self) -> bool:
        """Whether no file was written to since."""
        try:
            for checkpoint in self.opened:
                check = getattr(checkpoint, "check_unchanged", None)
                if check is not None:
                    check()
        except IntegrityError:
            return False
        return True


@dataclass(slots=True)
class Models:
    """Loads models, and keeps weights by their content for the next ones.

    What ``get`` returned is good until the next ``get``: the next checkpoint of the family takes its networks.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        dtype: compute in ``auto``, ``F32``, ``BF16`` or ``F16``.
        progress: hears what was chosen.
        budget: bytes of weights to keep beside those in use; None: half of the memory that is free.
        low_memory: let go of the text encoders once the prompts are read; decode in tiles.
    """

    device: str = "auto"
    dtype: str = "auto"
    progress: Listener = silent
    budget: int | None = None
    low_memory: bool = False
    _open: list[Checkpoint] = field(default_factory=list)  # of the one that is being opened
    _ready: OrderedDict[Wanted, Ready] = field(default_factory=OrderedDict)
    _last: tuple[Wanted, Loaded] | None = None
    _cache: Cache | None = None
    _contents: Contents = field(default_factory=Contents)

    def get(self, wanted: Wanted) -> Loaded:
        """Return the models, loaded.

        Raises:
            UnsupportedError: no model family fits the checkpoint.
            MismatchError: parts are missing, or a LoRA, a VAE or an embedding does not fit.
            NotFoundError: no such file or name.
        """
        if self._last is not None and self._last[0] == wanted:
            return self._last[1]
        self._last = None
        with waiting():
            loaded = self._load(wanted, self._prepared(wanted))
        self._last = wanted, loaded
        return loaded

    def look(self, wanted: Wanted) -> Ready:
        """Return what is known before any weight is read; errors as of ``get``."""
        return self._prepared(wanted)

    def close(self) -> None:
        """Let go of everything."""
        self._last = None
        for ready in self._ready.values():
            ready.close()
        self._ready.clear()
        if self._cache is not None:
            self._cache.clear()
            self._cache = None

    @property
    def cache(self) -> Cache:
        """The weights that are kept."""
        if self._cache is None:
            from memcard.generation.cache import Cache
            from memcard.generation.load import device_named

            budget = 0 if self.low_memory and self.budget is None else self.budget
            self._cache = Cache(device_named(self.device), budget, self._contents)
        return self._cache

    def _prepared(self, wanted: Wanted) -> Ready:
        """Return what is known of the checkpoint, from before if no file changed."""
        stamps = _stamps(wanted)
        known = self._ready.pop(wanted, None)
        if known is None or known.stamps != stamps or not known.is_as_it_was:
            if known is not None:
                known.close()
            known = self._opened(wanted, stamps)
        self._ready[wanted] = known
        while len(self._ready) > _REMEMBERED:
            self._ready.popitem(last=False)[1].close()
        return known

    def _opened(self, wanted: Wanted, stamps: object) -> Ready:
        from memcard.generation.parts import assemble

        self._open = []
        try:
            checkpoint = self._kept(
                open_with_loras(wanted.checkpoint, wanted.loras, blocks=wanted.blocks)
            )
            name = shown(wanted.checkpoint)
            assembly, lent = self._completed(assemble(checkpoint, name), wanted)
            loras = tuple(
                lora_facts(lora, in_prompt=i >= wanted.named) for i, lora in enumerate(wanted.loras)
            )
            return Ready(
                *(tuple(self._open), assembly, name, locate(wanted.checkpoint)),
                metadata=dict(checkpoint.metadata),
                loras=loras,
                vae=None if wanted.vae is None else facts(wanted.vae),
                stamps=stamps,
                lent=lent,
            )
        except BaseException:
            for opened in self._open:
                opened.close()
            raise

    def _load(self, wanted: Wanted, ready: Ready) -> Loaded:
        from memcard.generation.load import load

        pipeline = load(
            ready.assembly,
            device=self.device,
            dtype=self.dtype,
            encoder=wanted.encoder,
            progress=self.progress,
            cache=self.cache,
        )
        if wanted.motion is not None:
            pipeline = _animated(pipeline, wanted.motion)
        pipeline, embeddings = self._taught(pipeline, wanted.embeddings)
        return Loaded(
            *(self._frugal(pipeline), ready.name, ready.path),
            metadata=with_card(wanted.checkpoint, dict(ready.metadata)),
            loras=ready.loras,
            vae=ready.vae,
            embeddings=embeddings,
            lent=ready.lent,
        )

    def _frugal(self, pipeline: Pipeline) -> Pipeline:
        """Return the pipeline with what lets go of its text encoders, if memory is short."""
        if not self.low_memory:
            return pipeline
        from memcard.generation.engine import LOW_MEMORY

        def let_go() -> None:
            self._last = None  # the next run has to load them again
            self.cache.let_go(n for n in pipeline.modules if n.startswith("text_encoder"))

        return replace(pipeline, extras={**pipeline.extras, LOW_MEMORY: let_go})

    def _kept(self, checkpoint: Checkpoint) -> Checkpoint:
        self._open.append(checkpoint)
        # A difference to weights that are in memory is read alone.
        supply(checkpoint, self.cache.supply)
        return checkpoint

    def _completed(
        self, assembly: Assembly, wanted: Wanted
    ) -> tuple[Assembly, tuple[str | Path, ...]]:
        """Return the assembly with what the user names and the library has, and the files of it."""
        from memcard.generation.parts import with_vae
        from memcard.jobs._missing_parts import complete

        if wanted.vae is not None:
            vae = self._kept(resolve(wanted.vae))
            assembly = with_vae(assembly, vae, shown(wanted.vae))
        before = assembly
        assembly, opened, notes = complete(assembly, wanted.text_encoders, t5=wanted.t5)
        for checkpoint in opened:
            self._kept(checkpoint)
        named = {shown(ref) for ref in wanted.text_encoders}
        new = [part for name, part in assembly.parts.items() if part is not before.parts.get(name)]
        lent = dict.fromkeys(part.label for part in new if part.label not in named)
        for ref in wanted.controls:
            from memcard.generation.control import with_control

            assembly = with_control(assembly, self._kept(resolve(ref)), shown(ref))
        notice(self.progress, notes)
        return assembly, (*wanted.text_encoders, *lent)

    def _taught(
        self, pipeline: Pipeline, refs: Sequence[str | Path]
    ) -> tuple[Pipeline, tuple[Mapping[str, str], ...]]:
        """Let the prompt name the embeddings; return what pictures say about them."""
        if not refs:
            return pipeline, ()
        from memcard.generation.embeddings import read_embeddings, widths, with_embeddings

        refuse_embeddings([Path(str(ref)).stem for ref in refs])
        for ref in refs:
            checkpoint = resolve(ref)
            try:
                stem = Path(str(ref)).stem
                found = read_embeddings(checkpoint, widths(pipeline), stem, label=shown(ref))
            finally:
                checkpoint.close()
            pipeline = with_embeddings(pipeline, found)
        return pipeline, tuple(facts(ref) for ref in refs)


def _stamps(wanted: Wanted) -> object:
    """Return which files a user's names mean now, and their times."""
    refs = (
        wanted.checkpoint,
        wanted.vae,
        *wanted.text_encoders,
        *wanted.controls,
        *(ref for ref, _, _ in wanted.loras),
    )
    paths = [locate(ref) for ref in refs if ref is not None]
    found = [(path, path.stat()) for path in paths]
    return [(path, stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found]


def _animated(pipeline: Pipeline, ref: str | Path) -> Pipeline:
    """Return a pipeline that makes clips."""
    from memcard.generation.motion import animated

    checkpoint = resolve(ref)
    try:
        return animated(pipeline, checkpoint, shown(ref))
    finally:
        checkpoint.close()


def shown(ref: str | Path) -> str:
    """Return the name to write into shared files."""
    return label(str(locate(ref)))


def facts(ref: str | Path) -> dict[str, str]:
    """Return name and sha256 of a file."""
    return {"name": shown(ref), "sha256": sha256_of(ref)}


def lora_facts(lora: Lora, *, in_prompt: bool) -> dict[str, Any]:
    """Return what a picture says about a LoRA."""
    ref, strength, text = lora
    sha256, autov3 = short_digests(ref)
    said: dict[str, Any] = {"name": shown(ref), "strength": strength, "sha256": sha256}
    said["autov3"] = autov3
    if text is not None and text != strength:
        said["text_strength"] = text
    if in_prompt:
        said["in_prompt"] = True
    return said


def named_lora(name: str) -> str:
    """Return the reference of a LoRA that a prompt names: of the library, of the starter, or a file here.

    Raises:
        NotFoundError: none has this name; says where it was looked for.
    """
    for ref in (name, f"starter/lora_{name}", f"starter/{name}", f"{name}.safetensors"):
        try:
            checkpoint = resolve(ref)
        except MemcardError:
            continue
        checkpoint.close()
        return ref
    raise NotFoundError(
        f"<lora:{name}:…>: no LoRA has this name, in the library, in the starter or in this folder. "
        "`memcard ls` lists the library; `memcard add FILE --name NAME` gives a file a name."
    )


def refuse_embeddings(names: Sequence[str]) -> None:
    """Raise MismatchError for two embeddings of one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MismatchError(
            f"two embeddings are called {', '.join(twice)}; a prompt could not tell them apart. "
            "Rename one file."
        )


def notice(progress: Listener, notes: Sequence[str]) -> None:
    """Say sentences once each."""
    for note in dict.fromkeys(notes):
        progress(Notice(note))
