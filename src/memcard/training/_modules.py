"""The tensors of one model or several, by the names a checkpoint gives them.

Wrappers (DDP, ``torch.compile``, activation checkpointing) change names; here they leave no trace.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from memcard.errors import MismatchError, UnsupportedError, UsageError

Modules: TypeAlias = nn.Module | Mapping[str, nn.Module] | Sequence[nn.Module]

_WRAPPED: Final = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module)\.")
_SHOWN: Final = 5

Owner: TypeAlias = tuple[nn.Module, str]


@dataclass(frozen=True, slots=True)
class Names:
    """Every tensor of a model once, whatever it is tied to.

    Attributes:
        params: key to parameter, the first key of each.
        buffers: key to buffer, of those that belong into a checkpoint.
        owners: key of a buffer to the module that has it, and its name there. ``model.to`` makes new buffers,
            while parameters stay the same objects.
        aliases: a key to the first key of the same tensor; of first keys to themselves.
    """

    params: Mapping[str, nn.Parameter]
    buffers: Mapping[str, Tensor]
    owners: Mapping[str, Owner]
    aliases: Mapping[str, str]


def bare(module: nn.Module) -> nn.Module:
    """Return the model in its wrappers."""
    while True:
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def parts(model: Modules) -> dict[str, nn.Module]:
    """Return the models with what stands before their keys: nothing for a single one."""
    if isinstance(model, nn.Module):
        return {"": bare(model)}
    pairs = model.items() if isinstance(model, Mapping) else enumerate(model)
    found = {f"{name}.": bare(part) for name, part in pairs}
    if not found:
        raise UsageError("no model was given. Give a module, or a dict or list of modules.")
    return found


def names(model: Modules) -> Names:
    """List the parameters and buffers.

    Raises:
        UnsupportedError: parameters are sharded (FSDP); each process sees a piece only.
    """
    params: dict[str, nn.Parameter] = {}
    buffers: dict[str, Tensor] = {}
    owners: dict[str, Owner] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for prefix, module in parts(model).items():
        kept = {plain(key) for key in module.state_dict(keep_vars=True)}
        for name, param in module.named_parameters(remove_duplicate=False):
            key = prefix + plain(name)
            aliases[key] = first.setdefault(id(param), key)
            if aliases[key] == key:
                params[key] = param
        for name, buffer, owner in _buffers(module):
            if name not in kept:
                continue  # made anew by the model's code
            key = prefix + name
            aliases[key] = first.setdefault(id(buffer), key)
            if aliases[key] == key:
                buffers[key], owners[key] = buffer, owner
    sharded = [key for key, param in params.items() if hasattr(param, "to_local")]
    if sharded:
        raise UnsupportedError(
            f"{few(sharded)}: sharded over several processes. Averages of sharded parameters are not "
            "kept yet; make the EMA on one process with the whole model."
        )
    return Names(params, buffers, owners, aliases)


def plain(key: str) -> str:
    """Return a key without the names of wrappers."""
    return _WRAPPED.sub("", key)


def all_buffers(model: Modules) -> list[Owner]:
    """List every buffer once by its owner, also those that no checkpoint has."""
    every = (found for part in parts(model).values() for found in _buffers(part))
    return list({id(buffer): owner for _, buffer, owner in every}.values())


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor, Owner]]:
    for path, part in module.named_modules(remove_duplicate=False):
        for name, buffer in part.named_buffers(recurse=False, remove_duplicate=False):
            yield plain(f"{path}.{name}" if path else name), buffer, (part, name)


def few(items: Sequence[object]) -> str:
    """Return the first few, and how many more there are."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(map(str, items[:_SHOWN])) + more


def matched(
    targets: Mapping[str, Tensor], sources: Mapping[str, Any], aliases: Mapping[str, str], what: str
) -> list[tuple[Tensor, Tensor]]:
    """Pair every target with the source of its name, or of a name it is tied to.

    Raises:
        MismatchError: some are missing or of another shape; all of them are counted.
    """
    tied: dict[str, list[str]] = {}
    for key, head in aliases.items():
        tied.setdefault(head, []).append(key)
    pairs, faults = [], []
    for key, target in targets.items():
        known = next((k for k in (key, *tied.get(key, ())) if k in sources), None)
        source = None if known is None else sources[known]
        if not isinstance(source, torch.Tensor):
            faults.append(f"{key!r} is missing")
        elif source.shape != target.shape:
            faults.append(f"{key!r} is {list(source.shape)}, the model has {list(target.shape)}")
        else:
            pairs.append((target, source))
    if faults:
        raise MismatchError(
            f"{what}: {few(faults)}. It is of another model; build the model it was made with."
        )
    return pairs
