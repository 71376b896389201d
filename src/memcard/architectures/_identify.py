"""What a file is, put together: kind, family, parts, what is missing, prediction, packing.

Small changes (LoRA) and special kinds are looked for first; whatever else is a checkpoint is known by
its denoiser, or by the one part it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from memcard.architectures._adapters import Adapter, adapter
from memcard.architectures._kinds import Found, special
from memcard.architectures._names import EMA_PREFIXES, Names
from memcard.architectures._parts import Part, split
from memcard.architectures._prediction import Prediction, prediction
from memcard.architectures._quantization import quantization
from memcard.architectures._text_encoders import NAMES
from memcard.architectures._training import is_training, section, told
from memcard.core.architecture import Component, Evidence, Identity, Kind, Need
from memcard.core.tensors import Spec

_LONE: Final[Mapping[str, Kind]] = {"vae": "vae", "text": "text_encoder", "image": "image_encoder",
    "controlnet": "controlnet"}  # fmt: skip


def identity(
    names: Names, found: Mapping[str, Evidence], title: Callable[[str], str | None]
) -> Identity:
    """Return what a file is.

    Args:
        names: all its tensors, and its metadata.
        found: every family whose denoiser it holds.
        title: of a family, by its name; None if there is no such family.
    """
    if is_training(names.metadata):
        return _of_training(names, found)
    small = adapter(names, names.metadata)
    if small:
        return _of_adapter(names, small, title)
    kind = None if found else special(names)
    if kind:
        return _of_special(names, kind, title)
    return _of_checkpoint(names, found)


def components_of(names: Names, found: Mapping[str, Evidence]) -> Mapping[str, str]:
    """Return the component of every tensor: the same words as ``Identity.components``."""
    if is_training(names.metadata):
        return {name: section(name) for name in names}
    small = adapter(names, names.metadata)
    if small:
        return small.parts
    kind = None if found else special(names)
    if kind:
        return dict.fromkeys(names, kind.kind)
    parts = split(names, _first(found))
    return {name: part.name for part in parts for name in part.tensors}


def _first(found: Mapping[str, Evidence]) -> Evidence | None:
    return next(iter(found.values()), None)


def _of_training(names: Names, found: Mapping[str, Evidence]) -> Identity:
    """Sections are the parts. The family is that of the model inside, where its names are a family's own."""
    evidence = _first(found) if len(found) == 1 else None
    parts = ((section(name), spec) for name, spec in names.items())
    return Identity(
        kind="training",
        architecture=next(iter(found)) if evidence else None,
        candidates=tuple(found),
        variant=evidence.variant if evidence else None,
        dialect=evidence.dialect if evidence else None,
        evidence=(*told(names.metadata), *(evidence.reasons if evidence else ())),
        components=_components(parts),
        ema=any(section(name) == "ema" for name in names),
        quantization=quantization(names),
        modality=evidence.modality if evidence else None,
    )


def _of_adapter(names: Names, small: Adapter, title: Callable[[str], str | None]) -> Identity:
    told = prediction(names, names.metadata, None)
    return Identity(
        kind="lora",
        architecture=small.families[0] if len(small.families) == 1 else None,
        candidates=small.families,
        variant=small.kind,
        dialect=small.dialect,
        evidence=small.evidence,
        components=_components((part, names[name]) for name, part in small.parts.items()),
        missing=_base(small.families, title),
        prediction=told.kind,
        prediction_evidence=told.evidence,
        quantization=quantization(names),
    )


def _of_special(names: Names, kind: Found, title: Callable[[str], str | None]) -> Identity:
    needs_base = kind.kind in ("controlnet", "embedding", "ip_adapter", "hypernetwork")
    return Identity(
        kind=kind.kind,
        architecture=kind.families[0] if len(kind.families) == 1 else None,
        candidates=kind.families,
        variant=kind.variant,
        dialect=kind.dialect,
        evidence=kind.evidence,
        components=_components((kind.kind, spec) for spec in names.values()),
        missing=_base(kind.families, title) if needs_base else (),
        quantization=quantization(names),
    )


def _of_checkpoint(names: Names, found: Mapping[str, Evidence]) -> Identity:
    evidence = _first(found) if len(found) == 1 else None
    parts = split(names, _first(found))
    told = prediction(names, names.metadata, evidence) if _denoises(parts) else Prediction(None)
    if evidence:
        title = f"{evidence.title}, {evidence.variant}" if evidence.variant else evidence.title
        for part in parts:
            part.what = part.what or (title if part.role == "denoiser" else None)
    lone = None if found else _lone(parts)
    variants = [*([evidence.variant] if evidence and evidence.variant else []), *told.variants]
    return Identity(
        kind=_kind(parts, evidence) if found else lone.kind if lone else "unknown",
        architecture=next(iter(found)) if len(found) == 1 else lone.family if lone else None,
        candidates=tuple(found) or ((lone.family,) if lone and lone.family else ()),
        variant=", ".join(variants) or None,
        dialect=evidence.dialect if evidence else lone.dialect if lone else None,
        evidence=_evidence(found, parts, lone),
        components=_components(
            ((part.name, spec) for part in parts for spec in part.tensors.values()),
            {part.name: part.what for part in parts},
        ),
        missing=_missing(evidence, parts) if evidence else (),
        prediction=told.kind,
        prediction_evidence=told.evidence,
        ema=any(part.role == "ema" for part in parts) or _only_ema(evidence),
        quantization=quantization(names),
        modality=evidence.modality if evidence else None,
    )


def _denoises(parts: list[Part]) -> bool:
    return any(part.role in ("denoiser", "ema") for part in parts)


def _kind(parts: list[Part], evidence: Evidence | None) -> Kind:
    """Return what a file with a denoiser is: with more beside it, one generates from it."""
    if evidence and evidence.kind != "denoiser":
        return evidence.kind
    roles = {part.role for part in parts}
    return "checkpoint" if roles & {"vae", "text", "image"} else "denoiser"


@dataclass(frozen=True, slots=True)
class _Lone:
    """A file without a denoiser we know."""

    kind: Kind
    family: str | None = None
    dialect: str | None = None


def _lone(parts: list[Part]) -> _Lone:
    """Tell what a file without a known denoiser is, by its largest recognised part."""
    known = [p for p in parts if p.what or p.role == "training"]
    largest = max(known, key=lambda p: sum(s.nbytes for s in p.tensors.values()), default=None)
    if largest is None or any(part.role == "denoiser" for part in parts):
        return _Lone("unknown")
    rest = sum(s.nbytes for part in parts if not part.what for s in part.tensors.values())
    if largest.role == "training" or rest > sum(
        s.nbytes for p in known for s in p.tensors.values()
    ):
        return _Lone("training" if largest.role == "training" else "unknown")
    dialect = None
    if largest.role == "vae":
        dialect = "ldm" if any(".mid.block_1." in f".{name}" for name in largest.tensors) else None
        dialect = "diffusers" if any(".mid_block." in name for name in largest.tensors) else dialect
    return _Lone(_LONE.get(largest.role, "unknown"), largest.family, dialect)


def _evidence(
    found: Mapping[str, Evidence], parts: list[Part], lone: _Lone | None
) -> tuple[str, ...]:
    facts = [fact for evidence in found.values() for fact in evidence.reasons]
    facts += [
        f"{part.prefix or 'the file'}{'*' if part.prefix else ''} is {part.what}"
        for part in parts
        if part.what and part.role in ("vae", "text", "image")
    ]
    if _only_ema(_first(found)):
        facts.append("the denoiser's only weights are an EMA's")
    training = next((part for part in parts if part.role == "training"), None)
    if training:
        facts.append(f"{len(training.tensors)} tensors are training state, not part of the model")
    if lone and lone.kind == "unknown" and any(part.role == "denoiser" for part in parts):
        facts.append("holds a denoiser of no family known here")
    return tuple(dict.fromkeys(facts))


def _only_ema(evidence: Evidence | None) -> bool:
    """Whether the denoiser's names say that its weights are an average."""
    root = evidence.root if evidence else ""
    return root in EMA_PREFIXES or root.startswith(("ema.", "ema_model."))


def _missing(evidence: Evidence, parts: list[Part]) -> tuple[str, ...]:
    """List what generating takes and the file has not."""
    encoders = [part.encoder for part in parts if part.encoder]
    strangers = [encoder for encoder in encoders if encoder not in NAMES]  # twins for tests
    missing = []
    for need in evidence.needs:
        if need.role == "text encoder":
            there = (
                need.what in encoders
                or (bool(strangers) and bool(strangers.pop(0)))
                or (need.what not in NAMES and any(part.role == "text" for part in parts))
            )
        else:
            there = _there(need, parts)
        if not there:
            missing.append(str(need))
    return tuple(missing)


def _there(need: Need, parts: list[Part]) -> bool:
    if need.role == "VAE":
        return any(part.role == "vae" for part in parts)
    if need.role == "image encoder":
        return any(part.role == "image" for part in parts)
    return need.role != "base model" and sum(part.role == "denoiser" for part in parts) > 1


def _base(families: tuple[str, ...], title: Callable[[str], str | None]) -> tuple[str, ...]:
    titles = [title(family) or family for family in families]
    return (f"base model: {' or '.join(titles)}",) if titles else ()


def _components(
    tensors: Iterable[tuple[str, Spec]], what: Mapping[str, str | None] | None = None
) -> dict[str, Component]:
    parameters: dict[str, int] = {}
    sizes: dict[str, dict[str, int]] = {}
    for part, spec in tensors:
        parameters[part] = parameters.get(part, 0) + spec.elements
        by = sizes.setdefault(part, {})
        by[spec.dtype.name] = by.get(spec.dtype.name, 0) + spec.nbytes
    return {
        part: Component(
            parameters[part],
            sum(by.values()),
            dict(sorted(by.items(), key=lambda item: -item[1])),
            (what or {}).get(part),
        )
        for part, by in sizes.items()
    }
