"""The objects of a training by the paths their tensors have in a save, taken apart and put back.

Models go by the names of their tensors without the prefixes of wrappers, optimizer states by the name of
their parameter. Everything is checked before the first value is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from memcard.core.tensors import Specs
from memcard.errors import CorruptError, MismatchError, UsageError
from memcard.training._modules import bare, plain
from memcard.training._tree import JSON, names_in, spec_of, unpack
from memcard.training._windows import Windows
from memcard.training.data import ExactSampler
from memcard.training.ema import EMA

_SHOWN: Final = 6


@dataclass(frozen=True, slots=True)
class Object:
    """One thing that has a state.

    Attributes:
        path: such as ``model`` or, of several, ``model.unet``.
        thing: has ``state_dict`` and ``load_state_dict``.
    """

    path: str
    thing: Any

    @property
    def is_optimizer(self) -> bool:
        """Whether its state is by parameter."""
        return isinstance(getattr(self.thing, "param_groups", None), list)

    @property
    def is_data(self) -> bool:
        """Whether it knows a position in the data."""
        return self.path.partition(".")[0] == "data"

    @property
    def is_sampler(self) -> bool:
        """Whether its position moves with every batch that is handed out."""
        return isinstance(self.thing, ExactSampler)


def objects(given: Mapping[str, Any]) -> list[Object]:
    """List what is to be saved.

    Args:
        given: section to an object, or a dict or list of objects, or None.

    Raises:
        UsageError: something has no state; all such are named.
    """
    found, faults = [], []
    for section, value in given.items():
        for path, thing in _named(section, value):
            inner = bare(thing) if isinstance(thing, nn.Module) else thing
            if not all(
                callable(getattr(inner, n, None)) for n in ("state_dict", "load_state_dict")
            ):
                faults.append(f"{path} is a {type(thing).__name__}")
            found.append(Object(path, inner))
    if faults:
        raise UsageError(
            f"{'; '.join(faults)}. Everything that is saved needs state_dict() and load_state_dict(); "
            "plain values belong into an object that has them."
        )
    return found


def _named(section: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{section}.{name}", thing) for name, thing in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{section}.{i}", thing) for i, thing in enumerate(value))
    elif value is not None:
        yield section, value


class ParameterNames:
    """Names of parameters, over all models of a training."""

    def __init__(self, found: Sequence[Object]) -> None:
        self._names: dict[int, str] = {}
        for one in found:
            if isinstance(one.thing, nn.Module):
                prefix = one.path.partition(".")[2]
                for name, parameter in one.thing.named_parameters():
                    key = plain(name)
                    self._names.setdefault(id(parameter), f"{prefix}.{key}" if prefix else key)

    def of_groups(self, optimizer: Any) -> list[list[str]]:
        """Return the names of the parameters in each group; those of no model are numbered."""
        taken: dict[str, int] = {}
        groups, number = [], 0
        for group in optimizer.param_groups:
            names = []
            for parameter in group["params"]:
                name = self._names.get(id(parameter), f"parameter_{number}")
                number += 1
                names.append(
                    name
                    if taken.setdefault(name, id(parameter)) == id(parameter)
                    else f"{name}~{number}"
                )
            groups.append(names)
        return groups


def state_of(one: Object, names: ParameterNames) -> tuple[Any, Any]:
    """Return what is to be packed: the state, and for an optimizer its groups besides (else None)."""
    state = one.thing.state_dict()
    if isinstance(one.thing, nn.Module):
        return {plain(key): value for key, value in state.items()}, None
    if not one.is_optimizer or not isinstance(state.get("param_groups"), list):
        return state, None
    groups = names.of_groups(one.thing)
    by_index = _by_index(state["param_groups"], groups)
    by_name = {by_index.get(index, index): value for index, value in state["state"].items()}
    saved = [{**g, "params": n} for g, n in zip(state["param_groups"], groups, strict=True)]
    rest = {key: value for key, value in state.items() if key not in ("state", "param_groups")}
    return by_name, {"groups": saved, **rest}


def _by_index(
    groups: Sequence[Mapping[str, Any]], names: Sequence[Sequence[str]]
) -> dict[Any, str]:
    return {
        index: name
        for group, found in zip(groups, names, strict=True)
        for index, name in zip(group["params"], found, strict=True)
    }


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save holds of one object: the trees that ``state_of`` was packed into."""

    state: JSON
    groups: JSON


def mismatches(
    found: Sequence[Object], saved: Mapping[str, Saved], specs: Specs, names: ParameterNames
) -> list[str]:
    """Return what does not fit between the objects and a save, one sentence each; nothing is changed."""
    here = {one.path for one in found}
    faults = [f"{path} is not in the save" for path in sorted(here - saved.keys())]
    faults += [f"the save has {path}, which was not given" for path in sorted(saved.keys() - here)]
    for one in found:
        if one.path not in saved:
            continue
        if isinstance(one.thing, nn.Module):
            faults += _module_mismatches(one, saved[one.path].state, specs)
        elif one.is_optimizer and saved[one.path].groups is not None:
            faults += _optimizer_mismatches(one, saved[one.path].groups, names)
    return faults


def refuse(faults: Sequence[str], where: object) -> None:
    """Raise MismatchError if there are faults."""
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise MismatchError(
            f"{where}: does not fit: {'; '.join(faults[:_SHOWN])}{more}. Nothing was loaded. Build the "
            "objects as they were when the save was made, or begin in another folder."
        )


def _module_mismatches(one: Object, tree: JSON, specs: Specs) -> list[str]:
    live = {plain(key): value for key, value in one.thing.state_dict().items()}
    faults = [f"{one.path}.{key} is not in the save" for key in live if key not in tree]
    faults += [f"{one.path}.{key} is not in the model" for key in tree if key not in live]
    for key, value in live.items():
        if not isinstance(value, Tensor) or key not in tree:
            continue
        name = tree[key].get("$tensor") if isinstance(tree[key], dict) else None
        plain_value = (
            torch.view_as_real(value.detach())
            if isinstance(tree[key], dict) and "as" in tree[key]
            else value
        )
        if name is None or specs[name] != spec_of(plain_value):
            stored = "no tensor" if name is None else specs[name]
            faults.append(f"{one.path}.{key} is {spec_of(plain_value)}, in the save it is {stored}")
    return faults


def _optimizer_mismatches(one: Object, tree: Mapping[str, Any], names: ParameterNames) -> list[str]:
    live, stored = names.of_groups(one.thing), [group["params"] for group in tree["groups"]]
    if len(live) != len(stored):
        return [f"{one.path} has {len(live)} parameter groups, the save has {len(stored)}"]
    faults = []
    for number, (here, there) in enumerate(zip(live, stored, strict=True)):
        new, gone = [n for n in here if n not in there], [n for n in there if n not in here]
        faults += [
            f"group {number} of {one.path} has {name}, in the save it has not" for name in new
        ]
        faults += [
            f"group {number} of {one.path} lacks {name}, which is in the save" for name in gone
        ]
    return faults


def loaders(
    found: Sequence[Object], saved: Mapping[str, Saved], windows: Windows, names: ParameterNames
) -> list[Callable[[], None]]:
    """Return one call for each object that puts it back; everything is decoded before they are returned.

    Args:
        found: the objects; ``mismatches`` found nothing.
        saved: by path.
        windows: on the tensors of the save.
        names: of the parameters.
    """
    return [_loader(one, saved[one.path], windows, names) for one in found]


def _loader(
    one: Object, saved: Saved, windows: Windows, names: ParameterNames
) -> Callable[[], None]:
    if isinstance(one.thing, nn.Module):
        module, state = one.thing, _unpacked(saved.state, windows)
        return lambda: _load_module(module, state, windows)
    if saved.groups is not None:
        state, more = _unpacked(saved.state, windows), own(saved.groups, windows)
        return lambda: _load_optimizer(one.thing, state, more, windows, names)
    state = _unpacked(saved.state, windows) if _copies(one.thing) else own(saved.state, windows)
    return lambda: one.thing.load_state_dict(state)


def _copies(thing: Any) -> bool:
    """Whether what it is given to load is copied; else it gets tensors of its own."""
    return isinstance(thing, EMA)


def _unpacked(tree: JSON, tensor: Callable[[str], Tensor]) -> Any:
    try:
        return unpack(tree, tensor)
    except RecursionError:
        raise CorruptError("the save is nested too deeply.") from None


def own(tree: JSON, tensor: Callable[[str], Tensor]) -> Any:
    """Return a value with tensors of its own."""
    return _unpacked(tree, _own(tensor))


def _own(tensor: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
    """Return copies instead of windows; what is tied stays tied."""
    made: dict[str, Tensor] = {}

    def copied(name: str) -> Tensor:
        if name not in made:
            made[name] = tensor(name).clone()
        return made[name]

    return copied


def _load_module(module: nn.Module, state: Mapping[str, Any], windows: Windows) -> None:
    if _is_simple(module):
        live = {plain(key): value for key, value in module.state_dict(keep_vars=True).items()}
        windows.fill((live[key], value) for key, value in state.items())
        return
    keys = {plain(key): key for key in module.state_dict()}
    module.load_state_dict({keys[key]: value for key, value in state.items()}, strict=True)


def _is_simple(module: nn.Module) -> bool:
    """Whether loading is nothing but copying values: no code of the model's takes part."""
    return type(module).load_state_dict is nn.Module.load_state_dict and all(
        _is_of_torch(part._load_from_state_dict)
        and type(part).get_extra_state is nn.Module.get_extra_state
        and not any(getattr(part, hooks, None) for hooks in _HOOKS)
        for part in module.modules()
    )


def _is_of_torch(method: Any) -> bool:
    # its own modules do there only what older files need
    return str(getattr(method, "__module__", "")).startswith("torch.nn.modules.")


_HOOKS: Final = (
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)


def _load_optimizer(
    optimizer: Any,
    state: Mapping[str, Any],
    more: Mapping[str, Any],
    windows: Windows,
    names: ParameterNames,
) -> None:
    live, groups = optimizer.state_dict()["param_groups"], names.of_groups(optimizer)
    index = {name: i for i, name in _by_index(live, groups).items()}
    parameters = {
        name: parameter
        for found, group in zip(groups, optimizer.param_groups, strict=True)
        for name, parameter in zip(found, group["params"], strict=True)
    }
    placed: dict[str, Any] = {}
    pairs: list[tuple[Tensor, Tensor]] = []
    for name, values in state.items():
        parameter = parameters.get(name)
        old = {} if parameter is None else optimizer.state.get(parameter, {})
        placed[name] = _placed(values, old, parameter, pairs)
    windows.fill(pairs)
    # in the order of the live groups: torch pairs the two by position
    put = [{**g, "params": now["params"]} for g, now in zip(more["groups"], live, strict=True)]
    rest = {key: value for key, value in more.items() if key != "groups"}
    by_index = {index.get(name, name): values for name, values in placed.items()}
    optimizer.load_state_dict({"state": by_index, "param_groups": put, **rest})
    _keep_dtypes(optimizer, placed, parameters)


def _placed(
    value: Any, live: Any, parameter: Tensor | None, pairs: list[tuple[Tensor, Tensor]]
) -> Any:
    """Return the state of a parameter in memory of its own, that ``pairs`` are to fill.

    Memory that is there already is used where it fits, so that a warm optimizer needs no second one.
    """
    if isinstance(value, dict):
        olds = live if isinstance(live, Mapping) else {}
        return {key: _placed(v, olds.get(key), parameter, pairs) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_placed(v, None, parameter, pairs) for v in value)
    if not isinstance(value, Tensor):
        return value
    target = live if _fits(live, value) else torch.empty_like(value, device=_home(value, parameter))
    pairs.append((target, value))
    return target


def _fits(live: Any, value: Tensor) -> bool:
    return isinstance(live, Tensor) and (live.shape, live.dtype) == (value.shape, value.dtype)


def _home(value: Tensor, parameter: Tensor | None) -> torch.device:
    # counters stay on the CPU unless the optimizer moves them
    return torch.device("cpu") if parameter is None or value.dim() == 0 else parameter.device


def _keep_dtypes(
    optimizer: Any, placed: Mapping[str, Any], parameters: Mapping[str, Tensor]
) -> None:
    """Put back what torch cast to the dtype of its parameter: moments may be wider than that."""
    for name, values in placed.items():
        live = optimizer.state.get(parameters.get(name)) if name in parameters else None
        if not isinstance(live, dict) or not isinstance(values, dict):
            continue
        for key, value in values.items():
            now = live.get(key)
            if isinstance(value, Tensor) and isinstance(now, Tensor) and now.dtype != value.dtype:
                live[key] = value.to(now.device)


def tensors_of(trees: Sequence[JSON]) -> list[str]:
    """Return the names of all tensors, each once."""
    return list(dict.fromkeys(name for tree in trees for name in names_in(tree)))
