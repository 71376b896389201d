"""The files of a comparison: what each is, told by its header and its digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard.errors import MemcardError
from memcard.jobs._file_identity import sha256_of
from memcard.jobs._generate_models import named_lora
from memcard.jobs._library_cards import with_card
from memcard.jobs._lora_folder import lora_file
from memcard.jobs.lora import open_with_loras
from memcard.jobs.resolve import label, locate, resolve

if TYPE_CHECKING:
    from memcard.generation.engine import Pipeline
    from memcard.generation.settings import Settings


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint to compare.

    Attributes:
        ref: what the user wrote.
        label: what to call it on the page; no folder of this machine.
        sha256: of its file; of a folder, of the digests of its files.
        family: its architecture.
        elements: number of values of all its parts, which tells how fast it is.
        metadata: with what its card recommends.
        outline: what its settings depend on; it holds no weights.
        lent: SHA-256 of what the library lends it, for parts that its file lacks.
    """

    ref: str | Path
    label: str
    sha256: str
    family: str
    elements: int
    metadata: Mapping[str, str]
    outline: Pipeline
    lent: tuple[str, ...] = ()

    def settings(self, user: Mapping[str, Any]) -> Settings:
        """Return all settings of a picture; errors as ``generate`` has them."""
        from memcard.jobs._generate_settings import settings_of

        return settings_of(self.outline, self.metadata, user)


@dataclass(frozen=True, slots=True)
class Extra:
    """A LoRA or a VAE."""

    ref: str | Path
    label: str
    sha256: str

    @property
    def short(self) -> str:
        """Its name without the starter's shelf and without a suffix, for labels."""
        name = self.label.rpartition("/")[2]
        return name.removesuffix(".safetensors").removeprefix("lora_")


@dataclass(frozen=True, slots=True)
class Named:
    """A LoRA that a prompt names, with its strength, and that in the text encoders if it differs."""

    lora: Extra
    strength: float
    text_strength: float | None


def model(ref: str | Path, text_encoders: Sequence[str | Path] = ()) -> Model:
    """Look at a checkpoint; only its header and what the library knows are read.

    Args:
        ref: path or name.
        text_encoders: files with parts it may lack.

    Raises:
        UnsupportedError: no family that generates fits.
        MismatchError: parts are missing.
        NotFoundError: nothing has this name.
    """
    from memcard.generation.parts import assemble
    from memcard.jobs._generate_settings import outline
    from memcard.jobs._missing_parts import complete

    name = label(str(locate(ref)))
    named = {label(str(encoder)) for encoder in text_encoders}
    with closing(resolve(ref)) as checkpoint:
        own = assemble(checkpoint, name)
        assembly, opened, _ = complete(own, text_encoders)
        for other in opened:
            other.close()  # headers are all that is needed of them
        new = [part for n, part in assembly.parts.items() if part is not own.parts.get(n)]
        lent = dict.fromkeys(part.label for part in new if part.label not in named)
        elements = sum(part.elements for part in assembly.parts.values())
        metadata = dict(with_card(ref, checkpoint.metadata))
    return Model(
        *(ref, name, sha256_of(ref), assembly.family, elements, metadata),
        outline=outline(assembly),
        lent=tuple(sha256_of(donor) for donor in lent),
    )


def extra(ref: str | Path, *, lora: bool = False) -> Extra:
    """Look at a LoRA or a VAE."""
    file = lora_file(ref) if lora else ref
    return Extra(ref, label(str(locate(ref))), sha256_of(file))


def named_in(prompt: str) -> tuple[Named, ...]:
    """Return the LoRAs a prompt names.

    Raises:
        NotFoundError: none has this name.
    """
    from memcard.generation.prompt import parse

    return tuple(
        Named(extra(named_lora(name), lora=True), strength, text)
        for name, strength, text in parse(prompt).loras
    )


def refuse_extras(
    found: Model, loras: Sequence[Extra], vaes: Sequence[Extra]
) -> Iterator[MemcardError]:
    """Tell which LoRAs and VAEs do not fit a checkpoint; their headers are read."""
    from memcard.generation.parts import assemble, with_vae

    for one in loras:
        try:
            open_with_loras(found.ref, [(one.ref, 1.0)]).close()
        except MemcardError as error:
            yield error
    with closing(resolve(found.ref)) as checkpoint:
        assembly = assemble(checkpoint, found.label)
        for one in vaes:
            try:
                with closing(resolve(one.ref)) as other:
                    with_vae(assembly, other, str(one.ref))
            except MemcardError as error:
                yield error
