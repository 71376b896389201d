"""Walk through the values a program built and yield what is a tensor, with its path."""

from __future__ import annotations

from collections.abc import Iterator

from memcard.core.limits import Limits
from memcard.errors import UnsupportedError
from memcard.unpickle.nodes import Global, Mapped, Opaque, Parts, Storage, TensorView, Value

_LEAVES = (TensorView, Parts, Storage)
# A module keeps its tensors and its children here; state_dict() leaves these words out of the names.
_MODULE = ("_parameters", "_buffers", "_modules")
_STEPS = 1_000_000


class Walk:
    """Depth-first over containers; ``full`` holds the ids of those with a tensor below."""

    def __init__(self, where: str, limits: Limits) -> None:
        self.where = where
        self.limits = limits
        self.full: dict[int, bool] = {}
        self.cycles = False
        self._size = 0
        self._steps = 0
        self._path: set[int] = set()

    def mark(self, value: Value, depth: int) -> bool:
        """Fill ``full``; each container is looked at once, a cycle counts as empty.

        Raises:
            UnsupportedError: nested deeper than the limit.
        """
        if isinstance(value, _LEAVES):
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
            self._size += 1
            if self.mark(child, depth + 1):
                found = True
        self.full[id(value)] = found
        return found

    def leaves(
        self, value: Value, path: str | None, depth: int
    ) -> Iterator[tuple[str, TensorView | Parts | Storage]]:
        """Yield every tensor below with its path; a shared container is listed at each place.

        Raises:
            UnsupportedError: that would be too many places.
        """
        if isinstance(value, _LEAVES):
            yield (
                ("storage" if isinstance(value, Storage) else "tensor") if path is None else path,
                value,
            )
            return
        if not self.full.get(id(value)):
            return
        self._path.add(id(value))
        for key, child in _children(value):
            self._steps += 1
            if self._steps > min(1000 + 8 * self._size, _STEPS) or depth > 2 * self.limits.nesting:
                raise UnsupportedError(
                    f"{self.where}: the same values are shared in too many places to list them "
                    "all. No known trainer writes this; ask the author for a .safetensors file."
                )
            if id(child) in self._path:
                self.cycles = self.cycles or bool(self.full.get(id(child)))
            elif isinstance(child, _LEAVES) or self.full.get(id(child)):
                # Only now, because a path may be a megabyte and a list have a million numbers.
                yield from self.leaves(child, key_path(path, key), depth + 1)
        self._path.discard(id(value))


def key_path(path: str | None, key: Value) -> str:
    """Return the path one level further down."""
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
    if isinstance(key, (Storage, TensorView, Parts)):
        return type(key).__name__
    return repr(key)


def _children(value: Value) -> Iterator[tuple[Value, Value]]:
    if isinstance(value, dict):
        yield from value.items()
        if isinstance(value, Mapped) and isinstance(value.state, dict):
            yield from ((("." + str(k)), v) for k, v in value.state.items() if k != "_metadata")
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, Opaque):
        yield from enumerate(value.args)
        yield from value.pairs or ()
        yield from enumerate(value.items or ())
        yield from _attributes(value.state)


def _attributes(state: Value) -> Iterator[tuple[Value, Value]]:
    """What BUILD would have set: a dict, or a pair of dict and slots."""
    if isinstance(state, list | tuple):
        if len(state) == 2 and all(isinstance(part, dict | None) for part in state):
            for part in state:
                yield from _attributes(part)
        else:
            yield from enumerate(state)
    elif isinstance(state, dict):
        module = all(isinstance(state.get(part), dict) for part in _MODULE)
        for part in _MODULE if module else ():
            yield from state[part].items()
        yield from ((k, v) for k, v in state.items() if not (module and k in _MODULE))
