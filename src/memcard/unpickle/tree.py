"""Turn what a program built into named tensors, a little metadata and notes.

The dict under the top-level ``state_dict`` comes first, under its own names. Everything else is named
by its path: ``optimizer_states[0].state[3].exp_avg``; text keys after a dot, all others in brackets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from memcard.core.limits import DEFAULT, Limits
from memcard.errors import UnsupportedError
from memcard.unpickle.nodes import Global, Mapped, Opaque, TensorView, Value

METADATA_KEY = "memcard_metadata"
# Top-level keys that trainers use for what is not the model.
TRAINING_KEYS = frozenset(
    {
        *("optimizer", "optimizers", "optimizer_states", "optimizer_state_dict", "opt_state"),
        *("lr_scheduler", "lr_schedulers", "scheduler", "schedulers", "callbacks", "loops"),
        *("amp_scaler", "scaler", "grad_scaler", "native_amp_scaling_state", "rng_state"),
        *("random_states", "cuda_rng_state", "hyper_parameters", "hparams", "args", "config"),
    }
)
_TEXT_LIMIT = 4096


@dataclass(slots=True)
class Contents:
    """The flat view of one file."""

    tensors: dict[str, TensorView] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    training: list[str] = field(default_factory=list)  # names that are training state, not model
    notes: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)  # top-level keys without tensors


def flatten(root: Value, where: str, limits: Limits = DEFAULT) -> Contents:
    """List every tensor below ``root``.

    Raises:
        UnsupportedError: nested deeper than ``limits.nesting``, or shared in so many places that
            listing would take for ever.
    """
    walk = _Walk(where, limits)
    walk.mark(root, 0)
    found = Contents()
    model = root.get("state_dict") if isinstance(root, dict) else None
    if isinstance(model, dict) and walk.full.get(id(model)):
        for path, view in walk.tensors(model, None, 1):
            _add(found, path, view)
    else:
        model = None
    for path, view in _rest(walk, root, model):
        name = _add(found, path, view)
        if model is not None and _first(path) in TRAINING_KEYS:
            found.training.append(name)
    _describe(found, root, walk)
    return found


class _Walk:
    """Depth-first over containers; ``full`` holds the ids of those with a tensor below."""

    def __init__(self, where: str, limits: Limits) -> None:
        self.where = where
        self.limits = limits
        self.full: dict[int, bool] = {}
        self.size = 0
        self.steps = 0

    def mark(self, value: Value, depth: int) -> bool:
        """Fill ``full``; each container is looked at once, a cycle counts as empty."""
        if isinstance(value, TensorView):
            return True
        if not isinstance(value, dict | list | tuple | Opaque):
            return False
        if id(value) in self.full:
            return self.full[id(value)]
        if depth > self.limits.nesting:
            raise UnsupportedError(
                f"{self.where}: values are nested deeper than {self.limits.nesting} levels. "
                "No known trainer writes this; ask the author for a .safetensors file."
            )
        self.full[id(value)] = False
        found = False
        for _, child in _children(value):
            self.size += 1
            found = self.mark(child, depth + 1) or found
        self.full[id(value)] = found
        return found

    def tensors(
        self, value: Value, path: str | None, depth: int
    ) -> Iterator[tuple[str, TensorView]]:
        """Yield every tensor below with its path; a shared container is listed at each place."""
        if isinstance(value, TensorView):
            yield "tensor" if path is None else path, value
            return
        if not self.full.get(id(value)):
            return
        for key, child in _children(value):
            self.steps += 1
            if self.steps > 1000 + 8 * self.size or depth > self.limits.nesting:
                raise UnsupportedError(
                    f"{self.where}: the same values are shared in too many places to list them "
                    "all. No known trainer writes this; ask the author for a .safetensors file."
                )
            yield from self.tensors(child, _join(path, key), depth + 1)


def _children(value: Value) -> Iterator[tuple[Value, Value]]:
    if isinstance(value, dict):
        yield from value.items()
        if isinstance(value, Mapped) and isinstance(value.state, dict):
            yield from ((("." + str(k)), v) for k, v in value.state.items() if k != "_metadata")
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, Opaque):
        yield from enumerate(value.args)
        state = value.state
        if isinstance(state, dict):
            yield from state.items()
        elif isinstance(state, list | tuple):
            yield from enumerate(state)


def _rest(walk: _Walk, root: Value, model: Value) -> Iterator[tuple[str, TensorView]]:
    if model is None:
        yield from walk.tensors(root, None, 0)
        return
    for key, child in root.items():
        if key != "state_dict":
            yield from walk.tensors(child, _join(None, key), 1)


def _join(path: str | None, key: Value) -> str:
    if isinstance(key, str):
        return key if path is None else f"{path}.{key}"
    return f"{path or ''}[{_key_text(key)}]"


def _key_text(key: Value) -> str:
    if isinstance(key, Global):
        return key.full
    if isinstance(key, Opaque):
        return key.what
    if isinstance(key, tuple):
        return "(" + ", ".join(_key_text(part) for part in key) + ")"
    return repr(key)


def _first(path: str) -> str:
    return path.partition(".")[0].partition("[")[0]


def _add(found: Contents, path: str, view: TensorView) -> str:
    name, n = path, 1
    while name in found.tensors:
        n += 1
        name = f"{path}#{n}"
    if n > 1:
        found.notes.append(
            f"{path!r} is the path of several tensors; one of them is {name!r} here."
        )
    found.tensors[name] = view
    return name


def _describe(found: Contents, root: Value, walk: _Walk) -> None:
    if not isinstance(root, dict):
        return
    kept = root.get(METADATA_KEY)
    if isinstance(kept, dict) and all(
        isinstance(k, str) and isinstance(v, str) for k, v in kept.items()
    ):
        found.metadata.update(kept)
    for key, value in root.items():
        if key == METADATA_KEY or not isinstance(key, str) or isinstance(value, TensorView):
            continue
        if isinstance(value, str | int | float) and len(str(value)) <= _TEXT_LIMIT:
            found.metadata.setdefault(key, str(value))
        elif not walk.full.get(id(value)):
            found.other.append(key)
