"""What is known about a file after looking at it, as a person or a program wants to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

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
        architecture: name of the model family; None if unknown or ambiguous.
        evidence: why it is taken for that family, one fact each.
        components: unet, vae, text_encoder: number of parameters of those that are there.
        digests: sha256, autov2, autov3 (safetensors only); empty unless asked for.
    """

    path: Path
    verdict: Verdict
    size: int
    format: str | None = None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tensors: Specs = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    architecture: str | None = None
    evidence: tuple[str, ...] = ()
    components: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

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
            "architecture": self.architecture,
            "evidence": list(self.evidence),
            "components": dict(self.components),
            "parameters": self.parameters,
            "dtypes": self.dtypes,
            "digests": dict(self.digests),
            "metadata": dict(self.metadata),
            "tensors": {name: _spec(spec) for name, spec in self.tensors.items()},
        }


def _spec(spec: Spec) -> dict[str, Any]:
    return {"dtype": spec.dtype.name, "shape": list(spec.shape), "nbytes": spec.nbytes}
