"""EMA: running averages of the weights, which make better pictures than the weights themselves.

    ema = EMA(model, decay=0.9999)
    for batch in loader:
        ...
        optimizer.step()
        ema.update()
    with ema.swapped_in():
        evaluate(model)

Source: Karras et al. 2023, arXiv:2312.02696 (what the length of the average does to an image model); the
guide is docs/ema.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from memcard.errors import MismatchError, UsageError
from memcard.training._modules import Modules, Owner, all_buffers, few, matched, names
from memcard.training._shadow import Plan, Swap, layout
from memcard.training.decays import Decay, Wanted, named

_VERSION: Final = 1
_WIDE: Final = 4  # bytes; narrower floats are averaged in fp32


class EMA:
    """Averages of a model's weights while it is trained.

    Memory: one copy of what is averaged, per decay. An update costs what one flat ``lerp_`` over it costs.

    Attributes:
        decays: the rules by name.
        every: steps from one update to the next.
        start: steps after which averaging begins.
        steps: calls of ``update`` so far, earlier runs included.
        run: hex name of the training these averages belong to; survives a resume.
    """

    def __init__(
        self,
        model: Modules,
        decay: Wanted = 0.9999,
        *,
        every: int = 1,
        start: int = 0,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        buffers: Literal["copy", "average"] = "copy",
        frozen: Literal["share", "average"] = "share",
    ) -> None:
        """Begin with the model's weights as they are.

        Args:
            model: what is trained; or a dict or list of models. Wrappers (DDP, ``torch.compile``) are seen
                through. Parameters stay the same objects for as long as the EMA lives.
            decay: per step; a number, a rule of ``memcard.training.decays``, or several of them.
            every: steps from one update to the next, at least 1. The averages stay as long as they were.
            start: steps after which averaging begins; until then the averages are the weights.
            device: where they are kept; None: beside each parameter. ``cpu`` spares an accelerator's memory.
            dtype: of the averages; None: fp32 for fp16 and bf16 parameters, else the parameter's. In bf16
                small updates vanish.
            buffers: ``copy``: the model's are used as they are. ``average``: those of floats are averaged.
            frozen: ``share``: parameters that need no gradient are not kept a second time.

        Raises:
            UnsupportedError: the parameters are sharded over processes.
            UsageError: an argument is out of its range, or there is nothing to average.
        """
        _check(every, start, buffers, frozen)
        self.decays: dict[str, Decay] = named(decay)
        self.steps = 0
        self.run = os.urandom(8).hex()  # no stream of random numbers is touched
        self.every, self.start = every, start
        self._model = model
        self._device = None if device is None else torch.device(device)
        self._dtype = dtype
        self._chosen = chosen = _choose(model, buffers, frozen)
        self._keys = [*chosen.params, *chosen.buffers]
        values = chosen.values()
        self._averages = {name: [self._begun(v) for v in values] for name in self.decays}
        self._plan: Plan | None = None
        self._swapped: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the averages."""
        return tuple(self.decays)

    @property
    def averaged_steps(self) -> int:
        """Steps since ``start``: the t of the decays."""
        return max(0, self.steps - self.start)

    def update(self) -> None:
        """Take in the weights; call it once after every ``optimizer.step()``.

        Raises:
            UsageError: the averages are in the model, or a parameter is trained that was frozen.
        """
        self._refuse_swapped("update")
        self.steps += 1
        t = self.averaged_steps
        if t % self.every if t else self.steps % self.every and self.steps != self.start:
            return
        self._refuse_thawed()
        keep = [rule.decay(t - self.every, t) if t else 0.0 for rule in self.decays.values()]
        with torch.no_grad():
            values = self._chosen.values()
            self._planned(values).update(values, list(self._averages.values()), keep)

    @contextmanager
    def swapped_in(self, name: str | None = None) -> Iterator[None]:
        """Let the model have the averages inside a ``with`` block; afterwards it has its own bits again.

        They change places, so no third copy is made; only where the average is wider than the parameter
        (bf16 models) the raw weights lie aside meanwhile. Buffers get back what they held.

        Args:
            name: which average; None where there is only one.

        Raises:
            UsageError: which average is not clear; or one is in the model already.
        """
        which = self._which(name)
        self._refuse_swapped("swapped_in")
        # Whatever the evaluation does to running statistics is undone.
        buffers = [(owner, getattr(*owner).clone()) for owner in all_buffers(self._model)]
        # Averaged buffers are kept aside: in training mode a forward pass changes them.
        aside = len(self._chosen.params)
        swap = Swap(self._chosen.values(), self._averages[which], aside)
        try:
            self._swapped = which
            swap.go()
            yield
        finally:
            undone = [(getattr(*owner), old) for owner, old in buffers]
            try:
                swap.go_back(self._chosen.values, undone)
            finally:
                # After a failure of the device nothing may be saved: it stays as it is.
                self._swapped = None if swap.is_back else which

    def weights(self, name: str | None = None) -> dict[str, Tensor]:
        """Return everything a model of averages consists of, by the model's keys.

        Averages are those of this object, in their own dtype; what is not averaged (frozen parameters,
        buffers) is the model's. Tied weights share their memory. Copy what you want to keep.
        """
        which = self._which(name)
        self._refuse_swapped("weights")
        found = names(self._model)
        tensors = {k: t.detach() for k, t in (*found.params.items(), *found.buffers.items())}
        tensors |= zip(self._keys, self._averages[which], strict=True)
        return {key: tensors[head] for key, head in found.aliases.items()}

    def copy_to(self, model: Modules | None = None, name: str | None = None) -> None:
        """Copy the averages into a model, with buffers and frozen parameters.

        Args:
            model: one of the same keys and shapes; None: the one that is averaged, whose own weights are
                then gone.
            name: which average; None where there is only one.

        Raises:
            MismatchError: the model has other keys or shapes; nothing was copied.
        """
        found = names(self._model if model is None else model)
        targets = {**found.params, **found.buffers}
        pairs = matched(targets, self.weights(name), found.aliases, "the averages")
        with torch.no_grad():
            for target, source in pairs:
                target.copy_(source)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly: the averages as they are, not copies, and counts.

        Tensors are called ``<decay name>.<key>``.
        """
        self._refuse_swapped("state_dict")
        state: dict[str, Any] = {
            "version": _VERSION,
            "run": self.run,
            "steps": self.steps,
            "averages": list(self.names),
        }
        for name, shadows in self._averages.items():
            state |= {f"{name}.{key}": s for key, s in zip(self._keys, shadows, strict=True)}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken. Values are copied.

        Raises:
            MismatchError: other decays, keys or shapes, or wider values than are kept here; nothing was
                changed.
        """
        self._refuse_swapped("load_state_dict")
        if state.get("version") != _VERSION or list(state.get("averages", ())) != list(self.names):
            raise MismatchError(
                f"the state has averages {few(state.get('averages', ())) or 'of another program'} "
                f"(version {state.get('version')}), this EMA keeps {few(self.names)}. "
                "Make the EMA with the decays the state was saved with."
            )
        aliases = names(self._model).aliases
        pairs = []
        for name, shadows in self._averages.items():
            prefix = f"{name}."
            tensors = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            targets = dict(zip(self._keys, shadows, strict=True))
            pairs += matched(targets, tensors, aliases, f"average {name}")
        _refuse_narrower(pairs)
        with torch.no_grad():
            for target, source in pairs:
                target.copy_(source)
        self.steps, self.run = int(state["steps"]), str(state["run"])

    def _begun(self, param: Tensor) -> Tensor:
        dtype = self._dtype
        if dtype is None:
            dtype = torch.float32 if param.dtype.itemsize < _WIDE else param.dtype
        return param.detach().to(device=self._device, dtype=dtype, copy=True)

    def _planned(self, params: list[Tensor]) -> Plan:
        """Return the plan; a new one if the model was moved or got another dtype."""
        some = next(iter(self._averages.values()))
        if self._plan is None or self._plan.layout != layout(params, some):
            if self._device is None:
                for shadows in self._averages.values():
                    shadows[:] = [s.to(p.device) for s, p in zip(shadows, params, strict=True)]
                some = next(iter(self._averages.values()))
            self._plan = Plan(params, some)
        return self._plan

    def _which(self, name: str | None) -> str:
        if name is None and len(self.decays) == 1:
            return self.names[0]
        if name not in self.decays:
            asked = "several averages are kept" if name is None else f"there is no average {name!r}"
            raise UsageError(f"{asked}; say which: {', '.join(self.names)}.")
        return name

    def _refuse_swapped(self, what: str) -> None:
        if self._swapped is not None:
            raise UsageError(
                f"{what}: average {self._swapped} is in the model now, so neither holds its own values. "
                "Leave the `with ema.swapped_in()` block first."
            )

    def _refuse_thawed(self) -> None:
        if thawed := [key for key, param in self._chosen.shared.items() if param.requires_grad]:
            raise UsageError(
                f"{few(thawed)}: needs a gradient now, but was frozen when the EMA was made. "
                "Make the EMA after unfreezing, or with frozen='average'."
            )


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is averaged: ``params``, then ``buffers``; and the parameters that are only shared."""

    params: dict[str, nn.Parameter]
    buffers: dict[str, Owner]
    shared: dict[str, nn.Parameter]

    def values(self) -> list[Tensor]:
        """Return the tensors as they are now."""
        params = [p.detach() for p in self.params.values()]
        return params + [getattr(*owner).detach() for owner in self.buffers.values()]


def _choose(model: Modules, buffers: str, frozen: str) -> _Chosen:
    found = names(model)
    shared = {
        key: param
        for key, param in found.params.items()
        if not _averageable(param) or (frozen == "share" and not param.requires_grad)
    }
    params = {key: param for key, param in found.params.items() if key not in shared}
    owners = {
        key: found.owners[key]
        for key, buffer in found.buffers.items()
        if buffers == "average" and _averageable(buffer)
    }
    if not params and not owners:
        raise UsageError(
            "nothing to average: no parameter needs a gradient. Unfreeze what is trained before the EMA is "
            "made, or say frozen='average'."
        )
    return _Chosen(params, owners, shared)


def _averageable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _check(every: int, start: int, buffers: str, frozen: str) -> None:
    faults = []
    if every < 1:
        faults.append(f"every is {every}; it starts at 1")
    if start < 0:
        faults.append(f"start is {start}; it starts at 0")
    if buffers not in {"copy", "average"}:
        faults.append(f"buffers is {buffers!r}; it is 'copy' or 'average'")
    if frozen not in {"share", "average"}:
        faults.append(f"frozen is {frozen!r}; it is 'share' or 'average'")
    if faults:
        raise UsageError("; ".join(faults) + ".")


def _refuse_narrower(pairs: list[tuple[Tensor, Tensor]]) -> None:
    lost = {
        f"{source.dtype} into {target.dtype}"
        for target, source in pairs
        if torch.promote_types(source.dtype, target.dtype) != target.dtype
    }
    if lost:
        raise MismatchError(
            f"the state does not fit into these averages without loss: {few(sorted(lost))}. "
            "Make the EMA with the dtype the state was saved with."
        )
