"""What of a base learns: whole networks, or low-rank adapters that PEFT lays over its layers.

Sources: Hu et al. 2021, arXiv:2106.09685 (LoRA); Liu et al. 2024, arXiv:2402.09353 (DoRA); PEFT
``tuners/lora``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from memcard.errors import UsageError
from memcard.training.finetune.model import Model

ADAPTER: Final = "default"  # PEFT's name for the only one there is
_ATTENTION: Final = r".*\.attn[12]\.to_(?:q|k|v|out\.0)"
_ALL: Final = (
    r"(?:.*\.)?(?:to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2"
    r"|conv1|conv2|conv_shortcut|time_emb_proj|(?:down|up)samplers\.0\.conv)"
)
# Of transformers that read words and picture side by side: what diffusers' scripts for LoRAs of Flux and SD 3
# train, without and with the feed-forward layers.
_JOINT: Final = (
    r".*\.attn2?\.(?:to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
)
_JOINT_ALL: Final = (
    rf"(?:{_JOINT}|.*\.(?:ff|ff_context)\.net\.(?:0\.proj|2)"
    r"|single_transformer_blocks\.\d+\.proj_(?:mlp|out))"
)
_TEXT: Final = r".*\.self_attn\.(?:q|k|v|out)_proj"
_TEXT_ALL: Final = r".*\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"
_USUAL: Final = {"unet": (_ATTENTION, _ALL), "transformer": (_JOINT, _JOINT_ALL)}
_LAYERS: Final = (nn.Linear, nn.Conv2d)
_PART: Final = re.compile(rf"\.lora_(A|B|magnitude_vector)\.{ADAPTER}(?:\.weight)?$")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA to be trained.

    Attributes:
        rank: of every layer.
        alpha: the change is multiplied by alpha / rank.
        targets: ``attention``, ``all`` (also feed-forward layers, convolutions and projections), or a
            regular expression that must fit the whole name of a layer of the UNet or transformer.
        dora: also learn the length of each row of the weights.
        dropout: share of the inputs of each layer left out, 0..1.
    """

    rank: int
    alpha: float
    targets: str = "attention"
    dora: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"rank {self.rank}: at least 1; 4 to 32 is usual.")
        if not self.alpha > 0:
            raise UsageError(f"alpha {self.alpha} is not above 0; the rank itself is usual.")

    def pattern(self, component: str) -> str:
        """Return the expression for layers of one component.

        Raises:
            UsageError: ``targets`` is no regular expression.
        """
        if self.targets in ("attention", "all"):
            few, all_ = _USUAL.get(component, (_TEXT, _TEXT_ALL))
            return all_ if self.targets == "all" else few
        try:
            re.compile(self.targets)
        except re.error as error:
            raise UsageError(
                f"targets {self.targets!r}: {error}. Use attention, all or a regular expression."
            ) from error
        return self.targets if component in _USUAL else _TEXT


def choose(
    model: Model,
    *,
    adapter: Adapter | None,
    text_encoder: bool,
    checkpointing: bool,
    parts: str = "",
    seed: int = 0,
) -> nn.Module:
    """Freeze what stays, lay adapters over what learns, and return that as one module.

    The names in it are ``COMPONENT.NAME``. What learns is float32 whatever the base computes in.

    Args:
        model: changed in place.
        adapter: None trains whole networks.
        text_encoder: train the text encoders as well.
        checkpointing: compute activations again in the backward pass: slower, less memory.
        parts: as in ``Settings``.
        seed: of the adapters' first values; no other stream of random numbers is touched.

    Raises:
        UsageError: the targets of the adapter, or the parts, fit nothing; lists some that there is.
    """
    learning: dict[str, nn.Parameter] = {}
    for component, module in model.modules().items():
        module.requires_grad_(requires_grad=False)
        module.eval()
        if component not in _USUAL and not text_encoder:
            continue
        if adapter is None:
            module.float().requires_grad_(requires_grad=True)
            if component in _USUAL and parts:
                _freeze_others(module, parts)
        else:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(seed)
                _lay(component, module, adapter)
        module.train()
        _checkpoint(module, on=checkpointing)
        learning |= {
            f"{component}.{name}": p for name, p in module.named_parameters() if p.requires_grad
        }
    for parameter in learning.values():
        parameter.data = parameter.data.float()
    return bundle(learning)


def factors(learnt: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the parts of each layer's adapter: ``A``, ``B``, with DoRA also ``magnitude_vector``.

    Keys are ``COMPONENT.LAYER``.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter in learnt.named_parameters():
        if match := _PART.search(name):
            found.setdefault(name[: match.start()], {})[match[1]] = parameter.detach()
    return found


def bundle(parameters: Mapping[str, nn.Parameter]) -> nn.Module:
    """Return a module whose parameters have these dotted names; it shares them and computes nothing."""
    root = nn.Module()
    for name, parameter in parameters.items():
        *path, leaf = name.split(".")
        at = root
        for part in path:
            if part not in at._modules:
                at.add_module(part, nn.Module())
            at = at.get_submodule(part)
        at.register_parameter(leaf, parameter)
    return root


def _lay(component: str, module: nn.Module, adapter: Adapter) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    pattern = re.compile(adapter.pattern(component))
    layers = [n for n, m in module.named_modules() if isinstance(m, _LAYERS)]
    chosen = [name for name in layers if pattern.fullmatch(name)]
    if not chosen:
        raise UsageError(
            f"targets {adapter.targets!r} fit none of the {len(layers)} layers of the {component}. "
            f"There are {', '.join(layers[:3])} and so on."
        )
    config: Any = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.dora,
        target_modules=chosen,
        init_lora_weights=True,
    )
    inject_adapter_in_model(config, module, adapter_name=ADAPTER)


def fits(parts: str, name: str) -> bool:
    """Tell whether a weight of the UNet is among the parts that learn.

    Raises:
        UsageError: ``parts`` is no regular expression.
    """
    try:
        return re.match(parts, name) is not None
    except re.error as error:
        raise UsageError(f"parts {parts!r}: {error}. Give a regular expression.") from error


def _freeze_others(unet: nn.Module, parts: str) -> None:
    names = [name for name, _ in unet.named_parameters()]
    for name, parameter in unet.named_parameters():
        parameter.requires_grad = fits(parts, name)
    if not any(p.requires_grad for p in unet.parameters()):
        raise UsageError(
            f"parts {parts!r} fit none of the {len(names)} weights of the UNet. "
            f"There are {', '.join(names[:3])} and so on."
        )


def _checkpoint(module: Any, *, on: bool) -> None:
    if not on:
        return
    if hasattr(module, "enable_gradient_checkpointing"):  # diffusers
        module.enable_gradient_checkpointing()
    else:  # transformers
        module.activation_checkpointing_enable({"use_reentrant": False})


def count(module: nn.Module) -> int:
    """Return the number of values that learn."""
    return sum(p.numel() for p in module.parameters())


def gradients(module: nn.Module, most: float) -> float:
    """Shorten the gradients of all parameters to a common length ``most``; return the length before."""
    return float(torch.nn.utils.clip_grad_norm_(list(module.parameters()), most))
