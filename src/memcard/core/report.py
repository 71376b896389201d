"""What is known about a file after looking at it, as a person or a program wants to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from memcard.core.architecture import Component, Identity
from memcard.core.tensors import Spec, Specs

Verdict: TypeAlias = Literal["ok", "unsafe", "corrupt", "unsupported"]

EXIT_CODES: Mapping[Verdict, int] = {"ok": 0, "unsafe": 3, "corrupt": 4, "unsupported": 5}


@dataclass(frozen=True, slots=True)
class Report:
    """The facts about one file.

    Attributes:
        path: the file.
        verdict: ``ok``, ``unsafe``, ``corrupt`` or ``unsupported``.
        size: of the file, in bytes.
        format: name of the format its content has; None if none of ours.
        faults: why the verdict is not ``ok``; one sentence each, empty if it is.
        notes: what a careful user should know.
        tensors: name to dtype and shape, in file order; empty unless ``ok``.
        metadata: free text the file carries.
        identity: what it is: family, kind, parts, what is missing, with the evidence.
        safety: on what grounds nothing in the file can run, or what asks to.
        modelspec: ModelSpec entries of the metadata, without their prefix.
        training: what a trainer noted in the metadata, under readable names.
        digests: sha256, autov1, autov2, blake3, crc32, and autov3 and tensors_sha256 for
            safetensors; of a folder or shards each file's sha256; empty unless asked for.
    """

    path: Path
    verdict: Verdict
    size: int
    format: str | None = None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tensors: Specs = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    identity: Identity = field(default_factory=Identity)
    safety: tuple[str, ...] = ()
    modelspec: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What sort of file it is, such as ``checkpoint``, ``lora`` or ``vae``."""
        return self.identity.kind

    @property
    def architecture(self) -> str | None:
        """Name of the model family; None if unknown or ambiguous."""
        return self.identity.architecture

    @property
    def evidence(self) -> tuple[str, ...]:
        """Why it is taken for what it is, one fact each."""
        return self.identity.evidence

    @property
    def components(self) -> Mapping[str, Component]:
        """The parts that are there, the denoiser first."""
        return self.identity.components

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that was found: faults, then notes."""
        return self.faults + self.notes

    @property
    def parameters(self) -> int:
        """Number of values in all tensors."""
        return sum(spec.elements for spec in self.tensors.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Bytes of each dtype, the largest share first."""
        sizes: dict[str, int] = {}
        for spec in self.tensors.values():
            sizes[spec.dtype.name] = sizes.get(spec.dtype.name, 0) + spec.nbytes
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    @property
    def exit_code(self) -> int:
        """Return what a command line should end with."""
        return EXIT_CODES[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "path": str(self.path),
            "verdict": self.verdict,
            "format": self.format,
            "size": self.size,
            "findings": list(self.findings),
            "faults": list(self.faults),
            "notes": list(self.notes),
            "safety": list(self.safety),
            **_identity(self.identity),
            "parameters": self.parameters,
            "dtypes": self.dtypes,
            "digests": dict(self.digests),
            "modelspec": dict(self.modelspec),
            "training": dict(self.training),
            "metadata": dict(self.metadata),
            "tensors": {name: _spec(spec) for name, spec in self.tensors.items()},
        }


def _spec(spec: Spec) -> dict[str, Any]:
    return {"dtype": spec.dtype.name, "shape": list(spec.shape), "nbytes": spec.nbytes}


def _identity(identity: Identity) -> dict[str, Any]:
    """Return the facts of an identity as JSON values."""
    return {
        "kind": identity.kind,
        "architecture": identity.architecture,
        "candidates": list(identity.candidates),
        "variant": identity.variant,
        "dialect": identity.dialect,
        "evidence": list(identity.evidence),
        "components": {name: _component(part) for name, part in identity.components.items()},
        "missing": list(identity.missing),
        "prediction": identity.prediction,
        "prediction_evidence": list(identity.prediction_evidence),
        "ema": identity.ema,
        "quantization": identity.quantization,
    }


def _component(part: Component) -> dict[str, Any]:
    return {
        "parameters": part.parameters,
        "nbytes": part.nbytes,
        "dtypes": dict(part.dtypes),
        "what": part.what,
    }
