"""From files to the parts of a pipeline: which file gives which component, under diffusers' names.

The main checkpoint decides the family. What it does not hold comes from the others in turn: a VAE, text
encoders, the library. Only headers are read here; ``weights.fill`` reads the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from memcard.architectures import ARCHITECTURES, identify
from memcard.core.architecture import Identity
from memcard.core.checkpoint import Checkpoint
from memcard.core.views import Rearranged
from memcard.dialects import DIALECTS, Facts, configs
from memcard.dialects._dialect import Reading, read
from memcard.errors import MismatchError, UnsupportedError
from memcard.generation import edm, edm_file
from memcard.generation.engine import Engine
from memcard.generation.engines import engine_of, runnable
from memcard.generation.unpacked import unpacked

FOLDER: Final = "diffusers/"  # metadata that is a file of a diffusers folder
_SCHEDULER: Final = "scheduler"
# What of a scheduler's config is of the model; the rest is somebody's choice of sampler.
_SCHEDULE: Final = frozenset((
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "steps_offset",
    "clip_sample", "clip_sample_range", "set_alpha_to_one", "timestep_spacing", "rescale_betas_zero_snr",
    "skip_prk_steps", "prediction_type", "shift", "flow_shift", "use_dynamic_shifting", "base_shift", "max_shift",
    "base_image_seq_len", "max_image_seq_len", "shift_terminal", "time_shift_type",
))  # fmt: skip
_ZERO_SNR: Final = "ztsnr"
# What a kind of model needs that no engine here gives it; by variant or family.
_WHY: Final[Mapping[str, str]] = {
    "unCLIP-H": "it paints variations of a picture, which CLIP's image encoder tells it",
    "unCLIP-L": "it paints variations of a picture, which CLIP's image encoder tells it",
    "GLIGEN": "it wants boxes that say where things are",
    "latent consistency": "it is told the guidance scale, which other models are not",
    "AnimateDiff inside": "its layers over time lie in the UNet; use the checkpoint and --motion instead",
    "sd_x4_upscaler": "it makes a picture four times larger and sees the small one beside the noise",
}
_KINDS: Final = {
    "vae": "VAE",
    "lora": "LoRA",
    "controlnet": "ControlNet",
    "ip_adapter": "IP-Adapter",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One component of a pipeline, not yet loaded.

    Attributes:
        name: as diffusers calls it: unet, transformer, vae, text_encoder…
        view: a checkpoint with its tensors; keep the file below it open.
        names: name in diffusers' model to name in ``view``.
        config: arguments of its class.
        label: what to call its file in errors and reports.
    """

    name: str
    view: Checkpoint
    names: Mapping[str, str]
    config: Mapping[str, Any]
    label: str

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors as they are stored."""
        return sum(self.view.specs[name].nbytes for name in self.names.values())

    @property
    def elements(self) -> int:
        """Number of its values."""
        return sum(self.view.specs[name].elements for name in self.names.values())


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything a pipeline is built of.

    Attributes:
        family: name in ``architectures``.
        engine: what runs it.
        identity: all that is known about the main file.
        prediction: what the denoiser says.
        parts: by component.
        scheduler: the noise schedule, as diffusers' scheduler classes take it.
        notes: what a careful user should know, one sentence each.
    """

    family: str
    engine: Engine
    identity: Identity
    prediction: str
    parts: Mapping[str, Part]
    scheduler: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Components that nothing gave and that the engine cannot do without."""
        needed = (n for n in self.engine.components if n not in self.engine.optional)
        return tuple(name for name in needed if name not in self.parts)

    @property
    def named(self) -> str:
        """What file and metadata call the checkpoint: for engines whose models no weight tells apart."""
        labels = (p.label for name, p in self.parts.items() if name in ("unet", "transformer"))
        return " ".join(filter(None, (*labels, self.identity.variant)))

    def with_parts(self, found: Iterable[Part], *, replacing: bool = False) -> Assembly:
        """Return the assembly with more parts; those that are there stay unless ``replacing``."""
        more = {part.name: part for part in found if part.name in self.engine.components}
        parts = {**self.parts, **more} if replacing else {**more, **self.parts}
        return replace(self, parts=parts)


def assemble(checkpoint: Checkpoint, label: str) -> Assembly:
    """Say what a checkpoint is and which parts of a pipeline it holds.

    Args:
        checkpoint: a single file of any dialect, a diffusers folder, a stored version or a recipe.
        label: what to call it in errors.

    Raises:
        UnsupportedError: its family cannot generate here, or it is of none.
        MismatchError: it fits more than one family.
    """
    checkpoint = unpacked(checkpoint, label)
    found = identify(checkpoint.specs, checkpoint.metadata)
    family = _family(checkpoint, found, label)
    engine = engine_of(family)
    if engine is None or not _runs(found, engine):
        _refuse_family(family, found, label)
    parts, schedule, notes = _parts(checkpoint, family, found, label)
    usual = getattr(ARCHITECTURES[family], "prediction", None) or "epsilon"
    prediction = found.prediction or schedule.get("prediction_type") or usual
    parts = {name: part for name, part in parts.items() if name in engine.components}
    parts, schedule = _told(engine, checkpoint.metadata, label, parts, schedule)
    if edm.VARIANTS[0] in engine.variants and edm_file.marked(checkpoint):
        prediction, own = edm_file.schedule(checkpoint, label)
        schedule = {**schedule, **own}
    return Assembly(family, engine, found, str(prediction), parts, schedule, notes)


def _told(
    engine: Engine,
    metadata: Mapping[str, str],
    label: str,
    parts: Mapping[str, Part],
    schedule: Mapping[str, Any],
) -> tuple[dict[str, Part], Mapping[str, Any]]:
    """Add to the configs what an engine reads in a header, or takes from the file's name."""
    header = getattr(engine, "header", None)
    said = {} if header is None else header(metadata, label)
    more = {
        name: replace(part, config={**part.config, **said.get(name, {})})
        for name, part in parts.items()
    }
    return more, {**schedule, **said.get(_SCHEDULER, {})}


def parts_of(checkpoint: Checkpoint, family: str, label: str) -> Mapping[str, Part]:
    """Return the components of ``family`` that a file holds: a VAE, text encoders, or all of them."""
    checkpoint = unpacked(checkpoint, label)
    found = identify(checkpoint.specs, checkpoint.metadata)
    return _parts(checkpoint, family, found, label)[0]


def with_vae(assembly: Assembly, vae: Checkpoint, label: str) -> Assembly:
    """Return the assembly with another VAE, or only its decoder.

    Raises:
        MismatchError: the file holds none, or one for other latents.
    """
    title = DIALECTS[assembly.family].title
    found = parts_of(vae, assembly.family, label).get("vae")
    if found is None:
        raise MismatchError(
            f"{label}: holds no VAE that {title} could use; its first tensor is "
            f"{next(iter(vae.specs), 'missing')!r}. A VAE file has decoder.* or first_stage_model.*."
        )
    own = assembly.parts.get("vae")
    if own is not None:
        pairs = (
            ("latent channels", latent_channels(found), latent_channels(own)),
            ("resolutions", _levels(found), _levels(own)),
        )
        for what, theirs, ours in pairs:
            if theirs != ours:
                raise MismatchError(
                    f"{label}: has {theirs} {what}, the checkpoint needs {ours}. "
                    f"Use a VAE made for {title}."
                )
    return assembly.with_parts((found,), replacing=True)


def latent_channels(vae: Part) -> int | None:
    """Return how many channels the latents of an autoencoder have; None if its config does not say."""
    found: int | None = vae.config.get("latent_channels", vae.config.get("z_dim"))
    return found


def _levels(vae: Part) -> int:
    return len(vae.config["dim_mult" if "dim_mult" in vae.config else "block_out_channels"])


def _family(checkpoint: Checkpoint, found: Identity, label: str) -> str:
    if found.architecture is not None and found.kind in ("checkpoint", "denoiser"):
        return found.architecture
    if len(found.candidates) > 1 and found.kind in ("checkpoint", "denoiser"):
        raise MismatchError(f"{label}: fits more than one family: {', '.join(found.candidates)}.")
    # Widths that no published model has, as twins for tests: the dictionaries know names alone.
    fits = [
        name
        for name, dialect in DIALECTS.items()
        if (places := read(dialect, checkpoint.specs, "diffusers").places)
        and places[0].component.name in ("unet", "transformer")
    ]
    if len(fits) != 1 or found.kind not in ("checkpoint", "denoiser", "unknown"):
        _refuse(checkpoint, found, label)
    return fits[0]


def _runs(found: Identity, engine: Engine) -> bool:
    """Whether nothing in the file asks for more than its engine does."""
    variants = (found.variant or "").split(", ") if found.variant else []
    able = found.prediction != "edm" or any(variant in engine.variants for variant in edm.VARIANTS)
    return able and all(variant in engine.variants for variant in variants)


def _refuse(checkpoint: Checkpoint, found: Identity, label: str) -> NoReturn:
    families = ", ".join(ARCHITECTURES[name].title for name in runnable())
    first = next(iter(checkpoint.specs), "no tensors at all")
    what = f" It is {_called(found)}." if found.kind != "unknown" else ""
    raise UnsupportedError(
        f"{label}: not a checkpoint memcard can generate with.{what} It knows {families}; this file has "
        f"{len(checkpoint.specs)} tensors, first {first!r}. A VAE alone goes with --vae, a LoRA with "
        "--lora, a text encoder with --text-encoder; `memcard inspect` shows what a file is."
    )


def _called(found: Identity) -> str:
    """Return kind, family and variant as a sentence has them."""
    kind = _KINDS.get(found.kind, found.kind.replace("_", " "))
    family = f" for {ARCHITECTURES[found.architecture].title}" if found.architecture else ""
    variant = f" ({found.variant})" if found.variant and found.kind != "lora" else ""
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}{family}{variant}"


def _refuse_family(family: str, found: Identity, label: str) -> NoReturn:
    title = ARCHITECTURES[family].title
    what = f"{title}, {found.variant}" if found.variant else title
    families = ", ".join(ARCHITECTURES[name].title for name in runnable())
    reasons = [_WHY[name] for name in (family, *(found.variant or "").split(", ")) if name in _WHY]
    why = f": {reasons[0]}" if reasons else ""
    raise UnsupportedError(
        f"{label}: is {what}. memcard knows what it is but cannot generate with it yet{why}. It runs "
        f"{families}; `memcard inspect` shows the rest."
    )


def _parts(
    checkpoint: Checkpoint, family: str, found: Identity, label: str
) -> tuple[Mapping[str, Part], Mapping[str, Any], tuple[str, ...]]:
    """Read a file by the dictionary of a family; what the dictionary does not know is left out."""
    reading = read(DIALECTS[family], checkpoint.specs, "diffusers")
    view = Rearranged(checkpoint, reading.arrangements)
    facts = Facts(found.prediction, _ZERO_SNR in checkpoint.specs)
    made = _configs(checkpoint, family, facts, reading)
    parts = {}
    for place in reading.places:
        name = place.component.name
        names = _bare(reading, name, alone=_alone(reading))
        if names and name in made:
            parts[name] = Part(name, view, names, made[name], label)
    schedule = {k: v for k, v in made.get(_SCHEDULER, {}).items() if k in _SCHEDULE}
    return parts, schedule, _notes(reading)


def _alone(reading: Reading) -> bool:
    """Whether the file is one component without a prefix; then its names have none here either."""
    return len(reading.places) == 1 and reading.places[0].prefix == ""


def _bare(reading: Reading, component: str, *, alone: bool) -> dict[str, str]:
    start = "" if alone else f"{component}."
    return {n.removeprefix(start): n for n in reading.arrangements if n.startswith(start)}


def _configs(
    checkpoint: Checkpoint, family: str, facts: Facts, reading: Reading
) -> dict[str, Mapping[str, Any]]:
    """Return the configs by component: those a folder brought along, else ours, read off the shapes."""
    ours = configs(checkpoint.specs, family, facts, whole=True)
    made = {path: json.loads(text) for path, text in ours.items()}
    for name, text in checkpoint.metadata.items():
        if name.startswith(FOLDER) and name.endswith(".json"):
            path = name.removeprefix(FOLDER)
            if path == "config.json" and _alone(reading):  # the folder of one component
                path = f"{reading.places[0].component.name}/config.json"
            made[path] = {**made.get(path, {}), **_config(text)}
    return {path.partition("/")[0]: config for path, config in made.items() if "/" in path}


def _config(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _notes(reading: Reading) -> tuple[str, ...]:
    odd: Sequence[str] = reading.faults
    if not odd:
        return ()
    return (f"Left out {len(odd)} tensors that no part of the model needs, first: {odd[0]}.",)
