"""Everything a run was told, with defaults by family; kept beside the run and compared when it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

from memcard.errors import UsageError

Schedule: TypeAlias = Literal["constant", "cosine", "linear"]
Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
Optimizer: TypeAlias = Literal["adamw", "adamw8bit", "adafactor"]

SCHEDULES: Final = ("constant", "cosine", "linear")
PRECISIONS: Final = ("fp32", "bf16", "fp16")
OPTIMIZERS: Final = ("adamw", "adamw8bit", "adafactor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run.

    Attributes:
        rank: of the LoRA; 0 trains whole networks.
        alpha: of the LoRA.
        targets: which layers get a LoRA.
        dora: also learn the lengths of rows.
        parts: which weights of the UNet learn without LoRA, a regular expression that fits the beginning
            of their names; "" for all.
        text_encoder: train the text encoders as well.
        steps: optimizer steps of the whole run.
        batch: pictures in one forward pass.
        accumulate: forward passes in one step.
        lr: the highest learning rate.
        text_lr: that of the text encoders; None for ``lr``.
        schedule: how it falls: not at all, along half a cosine, or in a straight line.
        warmup: steps in which it rises.
        weight_decay: of AdamW.
        clip: gradients are shortened to this length; 0 for never.
        optimizer: adamw, adamw8bit (bitsandbytes), adafactor.
        precision: of computing; what learns is float32.
        checkpointing: less memory for more time.
        min_snr: gamma of min-SNR weighting; None for none.
        noise_offset: strength; 0 for none.
        ema: decay of the average of the weights; None for none.
        trigger: words put before captions.
        dropout: share of empty captions.
        shuffle: mix tags.
        keep: tags that stay in front.
        flip: mirror half of the pictures.
        width: of the base bucket, in pixels.
        height: likewise.
        buckets: False crops every picture to this size.
        seed: of everything.
        prompts: painted while it learns.
        sheet_every: steps between two sheets; 0 for only the first and last.
    """

    rank: int = 0
    alpha: float = 1.0
    targets: str = "attention"
    dora: bool = False
    parts: str = ""
    text_encoder: bool = False
    steps: int
    batch: int = 1
    accumulate: int = 1
    lr: float
    text_lr: float | None = None
    schedule: Schedule = "cosine"
    warmup: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    optimizer: Optimizer = "adamw"
    precision: Precision = "fp32"
    checkpointing: bool = False
    min_snr: float | None = None
    noise_offset: float = 0.0
    ema: float | None = None
    trigger: str = ""
    dropout: float = 0.1
    shuffle: bool = False
    keep: int = 0
    flip: bool = False
    width: int = 512
    height: int = 512
    buckets: bool = True
    seed: int = 0
    prompts: tuple[str, ...] = ()
    sheet_every: int = 0

    def __post_init__(self) -> None:
        if faults := list(_faults(self)):
            raise UsageError(" ".join(faults))

    @property
    def kind(self) -> Literal["lora", "finetune"]:
        """What the run makes."""
        return "lora" if self.rank else "finetune"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "prompts": list(self.prompts)}


# What may be another the second time: it changes what is shown, not what is learnt.
_SHOWN_ONLY: Final = frozenset({"prompts", "sheet_every"})


def differences(before: Mapping[str, Any], now: Settings) -> list[str]:
    """Say what a run was told before and is told otherwise now, one sentence each; [] if it may go on."""
    found = []
    for name, value in now.to_dict().items():
        if name in _SHOWN_ONLY or name not in before or before[name] == value:
            continue
        found.append(f"{name} was {before[name]!r} and is {value!r}.")
    return found


def _faults(s: Settings) -> list[str]:
    least: dict[str, float] = {"steps": 1, "batch": 1, "accumulate": 1, "rank": 0, "warmup": 0,
                               "weight_decay": 0, "clip": 0, "noise_offset": 0, "sheet_every": 0,
                               "keep": 0, "seed": 0}  # fmt: skip
    found = [
        f"{name} is {getattr(s, name)}; at least {bound:g} is needed."
        for name, bound in least.items()
        if not getattr(s, name) >= bound
    ]
    words = {"schedule": SCHEDULES, "precision": PRECISIONS, "optimizer": OPTIMIZERS}
    found += [
        f"{name} is {getattr(s, name)!r}; it can be {', '.join(allowed)}."
        for name, allowed in words.items()
        if getattr(s, name) not in allowed
    ]
    if not 0 < s.lr < 1:
        found.append(f"learning rate {s.lr:g} is not between 0 and 1.")
    if not 0 <= s.dropout <= 1:
        found.append(f"caption dropout {s.dropout:g} is not in 0..1.")
    if s.ema is not None and not 0 < s.ema < 1:
        found.append(f"ema {s.ema:g} is not between 0 and 1; 0.999 is usual.")
    if s.min_snr is not None and not s.min_snr > 0:
        found.append(f"min-SNR gamma {s.min_snr:g} is not above 0; 5 is usual.")
    if s.parts and s.rank:
        found.append("parts are of a whole fine-tune; the layers of a LoRA are its --targets.")
    if s.dora and not s.rank:
        found.append("DoRA is a kind of LoRA; give --lora RANK with it.")
    return found


def lr_factor(settings: Settings, step: int) -> float:
    """Return what the learning rate is multiplied by in the update that makes ``step`` updates done.

    Args:
        settings: schedule, warm-up and length.
        step: 1..steps.
    """
    from math import cos, pi

    if step <= settings.warmup:
        return step / settings.warmup
    if settings.schedule == "constant":
        return 1.0
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup + 1)
    return 0.5 + 0.5 * cos(pi * share) if settings.schedule == "cosine" else 1 - share
