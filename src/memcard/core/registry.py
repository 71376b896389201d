"""Plug-ins by folder: the file name is the registered name.

``Registry("memcard.ops")["slerp"]`` imports ``memcard/ops/slerp.py`` and returns its ``PLUGIN``.
Nothing is imported before it is asked for, so listing the methods never loads torch. Other packages
join through the entry-point group of the same name. Files that start with ``_`` are never plug-ins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import TypeVar, cast

from memcard.errors import NotFoundError

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A read-only mapping from name to plug-in, loaded on first use."""

    def __init__(self, package: str) -> None:
        self.package = package

    @cached_property
    def _own(self) -> tuple[str, ...]:
        paths = import_module(self.package).__path__
        return tuple(sorted(m.name for m in iter_modules(paths) if not m.name.startswith("_")))

    @cached_property
    def _foreign(self) -> Mapping[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.package)}

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(sorted({*self._own, *self._foreign}))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> T:
        if name in self._own:  # ours first: a foreign package cannot replace what ships
            return cast(T, import_module(f"{self.package}.{name}").PLUGIN)
        if name in self._foreign:
            return cast(T, self._foreign[name].load())
        near = get_close_matches(name, self._names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        shelf = self.package.rpartition(".")[2]
        raise NotFoundError(f"no {name!r} in {shelf}.{hint} There are: {', '.join(self._names)}.")
