"""From a checkpoint to a base that can learn: what it is, and its networks with their weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

import torch

from memcard.architectures import ARCHITECTURES, identify
from memcard.core.architecture import Identity
from memcard.core.checkpoint import Checkpoint
from memcard.dialects import DIALECTS, translate
from memcard.errors import MismatchError, UnsupportedError, UsageError
from memcard.generation.engines import engine_of
from memcard.generation.load import device_named
from memcard.generation.parts import Part
from memcard.generation.tokenizer import tokenizer
from memcard.generation.weights import fill
from memcard.jobs._configs import FOLDER
from memcard.jobs._translate import translated
from memcard.training.finetune.model import Model, Prediction, TextEncoder

FLOWS: Final = ("flux", "sd3")
_LEARN: Final = {
    "flux": ("dev", "schnell")
}  # Fill, Canny and Kontext see more than noise and words
FAMILIES: Final = ("starter", "sd1", "sd2", "sdxl", *FLOWS)
HALVES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2"),
    "flux": ("transformer", "vae", "text_encoder", "text_encoder_2"),
    "sd3": ("transformer", "vae", "text_encoder", "text_encoder_2"),  # T5 may be missing
}
_USUAL: Final = ("unet", "vae", "text_encoder")
_SCHEDULE: Final = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "rescale_betas_zero_snr",
)  # fmt: skip
_CONFIG: Final = "scheduler/scheduler_config.json"
_FLOW_STEP: Final = 64  # pixels; these models need 16, but then no two pictures share a bucket


@dataclass(frozen=True, slots=True)
class Base:
    """A checkpoint that is to learn.

    Attributes:
        family: public name of its architecture.
        identity: all that is known of it.
        prediction: what its UNet or transformer says.
        view: its tensors under diffusers' names; the file stays open below it.
        source: the file itself.
        configs: of each component and of the scheduler.
        label: what to call it in errors.
    """

    family: str
    identity: Identity
    prediction: Prediction
    view: Checkpoint
    source: Checkpoint
    configs: Mapping[str, Mapping[str, Any]]
    label: str = "the base"

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return int(2 ** (len(self.configs["vae"]["block_out_channels"]) - 1))

    @property
    def step(self) -> int:
        """Every side of a picture is a multiple of it: each resolution of the UNet halves evenly."""
        if self.family in FLOWS:
            return _FLOW_STEP
        return int(self.factor * 2 ** (len(self.configs["unet"]["block_out_channels"]) - 1))

    @property
    def denoiser(self) -> str:
        """Name of the component that paints."""
        return "transformer" if self.family in FLOWS else "unet"

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        flow = self.family in FLOWS
        return int(
            self.configs["vae"]["latent_channels"] if flow else self.configs["unet"]["in_channels"]
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures it was made for."""
        usual = ARCHITECTURES[self.family].defaults
        if self.family == "sd2" and self.prediction == "epsilon":
            return 512, 512  # SD 2 base; the v model is the one of 768
        return usual.width, usual.height

    def parameters(self, component: str) -> int:
        """Return the number of values in a component."""
        start = f"{component}."
        return sum(s.elements for name, s in self.view.specs.items() if name.startswith(start))


def read_base(checkpoint: Checkpoint, label: str, *, prediction: str | None = None) -> Base:
    """Look at a checkpoint; no weight is read.

    Args:
        checkpoint: keep it open as long as the base is used.
        label: what to call it in errors.
        prediction: ``epsilon`` or ``v_prediction``; None: as the file or its family says.

    Raises:
        UnsupportedError: no family that can be trained here fits.
        MismatchError: parts are missing, or it is not known what the UNet predicts.
    """
    found = identify(checkpoint.specs, checkpoint.metadata)
    try:
        renamed = translated(checkpoint, "diffusers", folder=True)
    except MismatchError:
        _refuse(label, found)  # what the dictionary misses is advice for converting
    configs = {
        path.partition("/")[0]: json.loads(text)
        for path, text in {**_kept(checkpoint), **renamed.configs}.items()
        if path.endswith(".json")
    }
    family = found.architecture or _family(checkpoint)
    if family not in FAMILIES or not _known(family, found):
        _refuse(label, found)
    there = {name.partition(".")[0] for name in renamed.checkpoint.specs}
    if family in FLOWS and "transformer" not in there:
        _refuse(label, found)  # a VAE fits several families
    missing = [part for part in _NEEDED.get(family, _USUAL) if part not in there]
    if not missing and "vae.encoder.conv_in.weight" not in renamed.checkpoint.specs:
        missing = ["the encoder of the vae"]
    if missing:
        raise MismatchError(
            f"{label}: lacks {', '.join(missing)}, so it cannot learn from pictures. Choose a whole checkpoint."
        )
    kind = prediction or found.prediction or configs["scheduler"].get("prediction_type")
    if family in FLOWS:
        _refuse_prediction(label, prediction)
        kind = "flow"
    elif kind not in ("epsilon", "v_prediction"):
        raise MismatchError(
            f"{label}: its UNet predicts {kind}; epsilon and v_prediction can be trained here. If that is "
            "wrong, say so with --prediction."
        )
    return Base(
        *(family, found, cast("Prediction", kind), renamed.checkpoint, checkpoint),
        configs=configs,
        label=label,
    )


def build(
    base: Base, *, device: str = "auto", precision: str = "fp32", keep_wide: bool = False
) -> Model:
    """Build the networks of a base with a UNet and give them their weights; ``built`` does it for any base.

    Args:
        base: from ``read_base``.
        device: ``auto``, ``cpu``, ``cuda``, ``mps`` or what torch calls it.
        precision: ``bf16`` and ``fp16`` hold frozen weights so; what learns becomes float32 later.
        keep_wide: hold the UNet as float32 in any case, for a full fine-tune.

    Raises:
        MismatchError: weights are missing or have another shape than the family's.
        UsageError: no such device.
    """
    where = device_named(device)
    half = HALVES.get(precision, torch.float32)
    unet = _filled(base, "unet", torch.float32 if keep_wide else half, where)
    vae = _filled(base, "vae", torch.float32, where)  # SDXL's overflows in float16
    names = sorted({n.partition(".")[0] for n in base.view.specs} - {"unet", "vae"})
    texts = tuple(
        TextEncoder(
            name,
            _filled(base, name, half, where),
            _tokens(base, name),
            digest_of(base.view, f"{name}."),
        )
        for name in names
    )
    _plain_attention(unet, where)
    schedule = {k: v for k, v in base.configs["scheduler"].items() if k in _SCHEDULE}
    return Model(
        *(base.family, unet, vae, texts, schedule, base.prediction),
        sizes=base.configs["unet"].get("addition_embed_type") == "text_time",
        size=base.size,
        factor=base.factor,
        step=base.step,
        vae_digest=digest_of(base.view, "vae."),
        device=where,
        dtype=half,
    )


def _known(family: str, found: Identity) -> bool:
    """Tell whether nothing about the base asks for another way of learning."""
    if family not in FLOWS:
        return found.variant in (None, "v-prediction", "zero terminal SNR")
    variants = found.variant.split(", ") if found.variant else []
    engine = engine_of(family)
    known = _LEARN.get(family, engine.variants if engine else ())
    return engine is not None and all(variant in known for variant in variants)


def _refuse_prediction(label: str, prediction: str | None) -> None:
    if prediction is not None:
        raise UsageError(
            f"{label}: was trained by flow matching, so --prediction {prediction} cannot be right. Leave it out."
        )


def _refuse(label: str, found: Identity) -> NoReturn:
    title = ARCHITECTURES[found.architecture].title if found.architecture else found.kind
    what = f"{title}, {found.variant}" if found.variant else title
    if title == "unknown":
        what = "of no family that memcard knows"
    raise UnsupportedError(
        f"{label}: is {what}. memcard can fine-tune whole checkpoints of Stable Diffusion 1, 2 and XL and "
        f"its starter, and train LoRAs of Flux.1 and Stable Diffusion 3. `memcard inspect {label}` says what is in the file."
    )


def _family(checkpoint: Checkpoint) -> str:
    """Return the family whose dictionary fits, where the widths are unusual."""
    return translate(checkpoint.specs, "diffusers").family


def _kept(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the configs a diffusers folder brought along."""
    return {
        k.removeprefix(FOLDER): v for k, v in checkpoint.metadata.items() if k.startswith(FOLDER)
    }


def _filled(base: Base, component: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Build one network and give it weights of its own, which may be changed."""
    start, config = f"{component}.", base.configs[component]
    names = {n.removeprefix(start): n for n in base.view.specs if n.startswith(start)}
    engine = engine_of(base.family)
    assert engine is not None, "read_base refuses families without one"  # noqa: S101
    module = engine.empty(component, config)
    part = Part(component, base.view, names, config, base.label)
    fill(part, module, dtype=dtype, device=device, own=True)
    return module


def _plain_attention(unet: Any, device: torch.device) -> None:
    """Use matrix products on the CPU: the backward pass of the fused attention took a third of a step."""
    if device.type == "cpu":
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())


def _tokens(base: Base, name: str) -> Callable[[str], tuple[list[int], str]]:
    """Return what turns a prompt into the ids that a text encoder reads."""
    words = tokenizer(DIALECTS[base.family].tokenizers[name.replace("text_encoder", "tokenizer")])
    length = int(base.configs[name]["max_position_embeddings"])
    return lambda prompt: words.encode(prompt, length)


def digest_of(checkpoint: Checkpoint, start: str) -> str:
    """Return the SHA-256 of names, shapes and bytes of one component."""
    found = hashlib.sha256()
    for name, spec in sorted(checkpoint.specs.items()):
        if name.startswith(start):
            found.update(f"{name} {spec}\n".encode())
            found.update(checkpoint.read(name))
    return found.hexdigest()
