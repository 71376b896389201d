"""A checkpoint made ready to run: text encoder, UNet and VAE decoder with their weights.

The modules are diffusers' and transformers' own, built without memory and filled from any
``Checkpoint``: a file, a stored version, or a recipe that is computed while it is read. The network
is never asked for anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import torch

from memcard.architectures import ARCHITECTURES, candidates, detect
from memcard.core.architecture import Architecture, Evidence, Target
from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, Notice, silent
from memcard.errors import MismatchError, UnsupportedError, UsageError
from memcard.generation import _engine
from memcard.generation.tokenizer import Tokenizer, tokenizer
from memcard.generation.weights import fill

COMPONENTS: Final = ("text_encoder", "unet", "vae")
PRECISIONS: Final[Mapping[str, torch.dtype]] = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
_SMALL: Final = 100_000_000  # parameters; below, float32 costs nothing that matters


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What a picture needs, ready to run.

    Attributes:
        architecture: public name of the family.
        family: the family.
        text_encoder: transformers' CLIPTextModel.
        unet: diffusers' UNet2DConditionModel.
        vae: diffusers' AutoencoderKL, decoder only.
        tokenizer: the packaged tokenizer of the family.
        dtype: what the models compute in.
        device: where.
    """

    architecture: str
    family: Architecture
    text_encoder: Any
    unet: Any
    vae: Any
    tokenizer: Tokenizer
    dtype: torch.dtype
    device: torch.device

    @property
    def length(self) -> int:
        """Most tokens of a prompt, both ends included."""
        return int(self.text_encoder.config.max_position_embeddings)

    @property
    def factor(self) -> int:
        """Pixels per latent, along one side."""
        levels = len(self.vae.config.block_out_channels)
        return int(2 ** (levels - 1))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a small model on one thread of the CPU.

        Its layers are too short to share: on a busy machine a second thread cost 13 CPU seconds instead
        of 6 for the starter's first picture, and saved none on a quiet one. The bits are the same.
        """
        before = torch.get_num_threads()
        if self.device.type == "cpu" and self.dtype == torch.float32 and self.small:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @property
    def small(self) -> bool:
        """Whether the UNet has fewer parameters than any full-size family."""
        return bool(sum(p.numel() for p in self.unet.parameters()) < _SMALL)


def family_of(checkpoint: Checkpoint, label: str) -> tuple[str, Architecture]:
    """Return name and data of the family a checkpoint belongs to.

    Raises:
        UnsupportedError: no family fits.
        MismatchError: more than one fits, or the file is only a part of a checkpoint.
    """
    found = detect(checkpoint.specs)
    if found is None:
        _refuse(checkpoint, label)
    name, evidence = found
    if not ARCHITECTURES[name].runs(checkpoint.specs, evidence):
        _refuse_family(evidence, label)
    missing = [part for part in COMPONENTS if part not in evidence.components]
    if missing:
        raise MismatchError(
            f"{label}: a part of a {ARCHITECTURES[name].title} checkpoint. "
            f"It holds {', '.join(evidence.components)} and lacks {', '.join(missing)}. "
            "Choose a whole checkpoint; a VAE alone goes with --vae, a LoRA with --lora."
        )
    return name, ARCHITECTURES[name]


def _refuse(checkpoint: Checkpoint, label: str) -> NoReturn:
    if fits := list(candidates(checkpoint.specs)):
        raise MismatchError(f"{label}: fits more than one family: {', '.join(fits)}.")
    families = ", ".join(_running())
    first = next(iter(checkpoint.specs), "no tensors at all")
    raise UnsupportedError(
        f"{label}: not a checkpoint memcard can generate with. It knows {families}; this file has "
        f"{len(checkpoint.specs)} tensors, first {first!r}. A VAE alone goes with --vae, a LoRA "
        "with --lora; `memcard inspect` shows what a file is."
    )


def _refuse_family(evidence: Evidence, label: str) -> NoReturn:
    what = f"{evidence.title}, {evidence.variant}" if evidence.variant else evidence.title
    raise UnsupportedError(
        f"{label}: is {what}, with {evidence.dialect} names. memcard knows what it is but cannot "
        f"generate with it yet. It runs {', '.join(_running())} under their original names; "
        "`memcard inspect` shows the rest."
    )


def _running() -> list[str]:
    return [
        family.title for family in ARCHITECTURES.values() if "scheduler" in family.defaults.extra
    ]


def build(
    checkpoint: Checkpoint,
    *,
    label: str = "the checkpoint",
    vae: Checkpoint | None = None,
    vae_label: str = "the VAE",
    device: str = "auto",
    dtype: str = "auto",
    progress: Listener = silent,
) -> Pipeline:
    """Build the models of a checkpoint and give them their weights.

    Args:
        checkpoint: a whole checkpoint of a known family; keep it open while the pipeline lives.
        label: what to call it in errors.
        vae: another VAE, or only its decoder; keep it open too.
        vae_label: what to call that.
        device: ``auto``, ``cpu``, ``cuda``, ``mps`` or what torch calls it.
        dtype: ``auto``, ``F32``, ``BF16`` or ``F16``.
        progress: hears what was chosen for the user.

    Raises:
        UnsupportedError: no family fits.
        MismatchError: parts are missing or do not fit together.
        UsageError: no such device or dtype.
    """
    name, family = family_of(checkpoint, label)
    configs = dict(family.configs(checkpoint.specs))
    sources = dict.fromkeys(COMPONENTS, (checkpoint, family.targets(checkpoint.specs)))
    if vae is not None:
        sources["vae"], configs["vae"] = _other_vae(vae, vae_label, family, configs["vae"])
    where = _device(device)
    precision = _dtype(dtype, where, checkpoint)
    modules = {}
    for part in COMPONENTS:
        source, targets = sources[part]
        module = _engine.empty(part, configs[part])
        fill(part, module, source, targets, dtype=precision, device=where)
        modules[part] = module
    if precision != torch.float32:
        progress(Notice(f"Computing in {str(precision).removeprefix('torch.')} on {where}."))
    words = tokenizer(family.defaults.extra["tokenizer"])
    return Pipeline(name, family, tokenizer=words, dtype=precision, device=where, **modules)


def _other_vae(
    vae: Checkpoint, label: str, family: Architecture, own: Mapping[str, Any]
) -> tuple[tuple[Checkpoint, Mapping[str, Target]], Mapping[str, Any]]:
    config = family.configs(vae.specs).get("vae")
    if config is None:
        raise MismatchError(
            f"{label}: holds no VAE that {family.title} could use; its first tensor is "
            f"{next(iter(vae.specs), 'missing')!r}. A VAE file has decoder.* or first_stage_model.*."
        )
    for key, what in (
        ("latent_channels", "latent channels"),
        ("block_out_channels", "resolutions"),
    ):
        theirs, ours = config[key], own[key]
        if key == "block_out_channels":
            theirs, ours = len(theirs), len(ours)
        if theirs != ours:
            raise MismatchError(
                f"{label}: has {theirs} {what}, the checkpoint needs {ours}. "
                f"Use a VAE made for {family.title}."
            )
    return (vae, family.targets(vae.specs)), config


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"no device {name!r} here: {error}. Use --device cpu.") from error
    return device


def _dtype(name: str, device: torch.device, checkpoint: Checkpoint) -> torch.dtype:
    """Choose what to compute in: float32 unless the model is large and the device has better."""
    if name in PRECISIONS:
        return PRECISIONS[name]
    if name != "auto":
        raise UsageError(
            f"no dtype {name!r} to compute in. There are: auto, {', '.join(PRECISIONS)}."
        )
    if sum(spec.elements for spec in checkpoint.specs.values()) < _SMALL:
        return torch.float32
    if device.type == "cuda":
        return torch.float16
    fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
