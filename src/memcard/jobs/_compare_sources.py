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
        usual: what this very model asks for where it differs from its family.
    """

    ref: str | Path
    label: str
    sha256: str
    family: str
    elements: int
    metadata: Mapping[str, str]
    usual: Mapping[str, Any]

    def settings(self, user: Mapping[str, Any]) -> Settings:
        """Return all settings of a picture; errors as ``generate`` has them."""
        from memcard.architectures import ARCHITECTURES
        from memcard.generation.settings import resolve as choose

        return choose(ARCHITECTURES[self.family], self.metadata, user, self.usual)


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
    from memcard.generation.load import refuse_missing
    from memcard.generation.parts import assemble, parts_of

    name = label(str(locate(ref)))
    with closing(resolve(ref)) as checkpoint:
        assembly = assemble(checkpoint, name)
        for encoder in text_encoders:
            with closing(resolve(encoder)) as other:
                parts = parts_of(other, assembly.family, label(str(locate(encoder))))
                assembly = assembly.with_parts(parts.values(), replacing=True)
        refuse_missing(assembly)
        elements = sum(part.elements for part in assembly.parts.values())
        metadata = dict(with_card(ref, checkpoint.metadata))
    usual = {"prediction_type": assembly.prediction}
    return Model(ref, name, sha256_of(ref), assembly.family, elements, metadata, usual)


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
