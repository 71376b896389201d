"""Turn what a program built into named tensors, a little metadata and notes.

The dict under the top-level ``state_dict`` comes first, under its own names. Everything else is named
by its path: ``optimizer_states[0].state[3].exp_avg``; text keys after a dot, all others in brackets.
The parameters of a module object have the names its ``state_dict()`` would give them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from memcard.core.limits import DEFAULT, Limits
from memcard.errors import UnsupportedError
from memcard.unpickle._walk import Walk, key_path
from memcard.unpickle.nodes import Mapped, Parts, Storage, TensorView, Value, shown

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
_NOTES_LIMIT = 8  # notes of one kind


@dataclass(slots=True)
class Contents:
    """The flat view of one file."""

    tensors: dict[str, TensorView] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    training: list[str] = field(default_factory=list)  # names that are training state, not model
    notes: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)  # top-level keys without tensors
    versions: Mapping[Value, Value] = field(default_factory=dict)  # ``_metadata`` of the state dict


def flatten(root: Value, where: str, limits: Limits = DEFAULT) -> Contents:
    """List every tensor below ``root``.

    Raises:
        UnsupportedError: nested deeper than ``limits.nesting``, or more tensors than
            ``limits.tensors``, or shared in so many places that listing would take for ever.
    """
    walk = Walk(where, limits)
    walk.mark(root, 0)
    found = _Names(where, limits)
    model = root.get("state_dict") if isinstance(root, dict) else None
    if isinstance(model, dict) and walk.full.get(id(model)):
        for path, leaf in walk.leaves(model, None, 1):
            found.add(path, leaf)
    else:
        model = None
    for path, leaf in _rest(walk, root, model):
        names = found.add(path, leaf)
        if model is not None and _first(path) in TRAINING_KEYS:
            found.contents.training += names
    contents = found.finish()
    if walk.cycles:
        contents.notes.append("Some values contain themselves; each is listed once.")
    contents.versions = _versions(root if model is None else model)
    _describe(contents, root, walk)
    return contents


class _Names:
    """Gives every tensor a name of its own."""

    def __init__(self, where: str, limits: Limits) -> None:
        self.where = where
        self.limits = limits
        self.contents = Contents()
        self.size = 0  # of all names
        self.number = 0
        self.twice: list[str] = []
        self.parts: dict[str, list[str]] = {}  # kind to names

    def add(self, path: str, leaf: TensorView | Parts | Storage) -> list[str]:
        """Take in a leaf; return the names it got."""
        if isinstance(leaf, TensorView):
            return [self._name(path, leaf)]
        if isinstance(leaf, Storage):
            from memcard.unpickle.torch_parts import whole_storage

            return [self._name(path, whole_storage(leaf))]
        self._count(path)
        self.parts.setdefault(leaf.kind, []).append(path)
        for fact, text in leaf.facts.items():
            self.contents.metadata.setdefault(f"{path}.{fact}", text)
        parts = leaf.tensors.items()
        return [self._name(f"{path}.{n}", v) for n, v in parts if isinstance(v, TensorView)]

    def _name(self, path: str, view: TensorView) -> str:
        tensors, name, n = self.contents.tensors, path, 1
        while name in tensors:
            n += 1
            name = f"{path}#{n}"
        if n > 1:
            self.twice.append(name)
        self._count(name)
        tensors[name] = view
        return name

    def _count(self, name: str) -> None:
        self.size += len(name)
        self.number += 1
        if self.number > self.limits.tensors or self.size > self.limits.name_bytes:
            raise UnsupportedError(
                f"{self.where}: has more than {self.limits.tensors} tensors, or names of more than "
                f"{self.limits.name_bytes} bytes. No known trainer writes this; ask the author for a "
                ".safetensors file."
            )

    def finish(self) -> Contents:
        """Return the contents with the notes on their names."""
        notes = self.contents.notes
        for name in self.twice[:_NOTES_LIMIT]:
            path = name.rpartition("#")[0]
            notes.append(f"{path!r} is the path of several tensors; one of them is {name!r} here.")
        if len(self.twice) > _NOTES_LIMIT:
            notes.append(f"{len(self.twice) - _NOTES_LIMIT} more names are given twice.")
        for kind, names in self.parts.items():
            some = ", ".join(map(shown, names[:_NOTES_LIMIT]))
            more = f" and {len(names) - _NOTES_LIMIT} more" if len(names) > _NOTES_LIMIT else ""
            notes.append(
                f"{kind[0].upper()}{kind[1:]}, listed in its parts, which together are the whole: "
                f"{some}{more}."
            )
        return self.contents


def _rest(
    walk: Walk, root: Value, model: Value
) -> Iterator[tuple[str, TensorView | Parts | Storage]]:
    if model is None:
        yield from walk.leaves(root, None, 0)
        return
    for key, child in root.items():
        if key != "state_dict":
            yield from walk.leaves(child, key_path(None, key), 1)


def _first(path: str) -> str:
    return path.partition(".")[0].partition("[")[0]


def _versions(model: Value) -> Mapping[Value, Value]:
    state = model.state if isinstance(model, Mapped) else None
    found = state.get("_metadata") if isinstance(state, dict) else None
    return found if isinstance(found, dict) else {}


def _describe(found: Contents, root: Value, walk: Walk) -> None:
    if not isinstance(root, dict):
        return
    kept = root.get(METADATA_KEY)
    if isinstance(kept, dict) and all(
        isinstance(k, str) and isinstance(v, str) for k, v in kept.items()
    ):
        found.metadata.update(kept)
    for key, value in root.items():
        if key == METADATA_KEY or not isinstance(key, str):
            continue
        if isinstance(value, str | int | float) and len(str(value)) <= _TEXT_LIMIT:
            found.metadata.setdefault(key, str(value))
        elif not isinstance(value, TensorView | Parts | Storage) and not walk.full.get(id(value)):
            found.other.append(key)
