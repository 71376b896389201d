"""Seeds that are pure functions of a place in the training: (seed, epoch, position).

What a data set draws for one sample then depends on nothing that happened before it: not on the worker
that computes it, not on the samples before, not on whether the run was interrupted. Nothing has to be saved.
"""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final, Self

import torch

from memcard.training.randomness import kind_of

# How deep a data set is searched for generators of its own (data set, composed transforms, their list,
# one transform, its generator), and how much at most: a list of a million file names costs nothing.
DEPTH: Final = 8
LOOKED_INTO: Final = 10_000
ENTRIES: Final = 1_000
LEAVES: Final = (str, bytes, int, float, complex, type(None), type, ModuleType, torch.Tensor)


class Place(int):
    """An index into a data set that knows its place in the training.

    It is the index, so a data set that knows nothing of places works as ever.

    Attributes:
        seed: the seed of the order that it belongs to.
        epoch: counted from 0.
        position: of the sample in the order of its epoch, over all ranks.
    """

    seed: int
    epoch: int
    position: int

    def __new__(cls, index: int, seed: int, epoch: int, position: int) -> Self:
        """Return the index with its place."""
        place = int.__new__(cls, index)
        place.seed, place.epoch, place.position = seed, epoch, position
        return place

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (int(self), self.seed, self.epoch, self.position)


class Keyed:
    """A place whose key is no integer: some samplers yield names or (index, size) pairs."""

    __slots__ = ("epoch", "key", "position", "seed")

    def __init__(self, key: Any, seed: int, epoch: int, position: int) -> None:
        self.key, self.seed, self.epoch, self.position = key, seed, epoch, position

    def __reduce__(self) -> tuple[Any, ...]:
        return Keyed, (self.key, self.seed, self.epoch, self.position)


def derive(seed: int, *parts: int | str) -> list[int]:
    """Return four 64-bit seeds for a purpose; the same on every machine and in every release."""
    text = ":".join(map(str, (seed, *parts))).encode()
    digest = blake2b(text, digest_size=32, person=b"memcard seeds").digest()
    return [int.from_bytes(digest[i : i + 8], "little") for i in range(0, 32, 8)]


def seed_globals(seeds: list[int]) -> None:
    """Seed python's, numpy's and torch's CPU generator; about 7 microseconds.

    ``torch.manual_seed`` takes 12 times as long alone: it visits every back end.
    """
    random.seed(seeds[0])
    if numpy := sys.modules.get("numpy.random"):
        numpy.seed(seeds[1] & 0xFFFF_FFFF)
    torch.default_generator.manual_seed(_signed(seeds[2]))


def reseed(generator: Any, seed: int) -> None:
    """Seed one generator object in place, whatever its kind."""
    match kind_of(generator):
        case "torch.Generator":
            generator.manual_seed(_signed(seed))
        case "random.Random":
            generator.seed(seed)
        case "numpy.random.RandomState":
            generator.seed(seed & 0xFFFF_FFFF)
        case _:
            bits = generator.bit_generator
            bits.state = type(bits)(seed).state


def generators_of(owner: Any) -> list[Any]:
    """Return the generators that an object draws from besides the global ones, in a fixed order.

    Looks at what it holds, at what that holds, and at the module-level names and closures that its
    methods use, ``DEPTH`` steps far. Costs at most some 10 ms.
    """
    found: list[Any] = []
    seen: set[int] = set()
    level = [owner]
    for _ in range(DEPTH):
        fresh = [
            value for value in level if not isinstance(value, LEAVES) and id(value) not in seen
        ]
        fresh = list({id(value): value for value in fresh}.values())[: LOOKED_INTO - len(seen)]
        seen.update(map(id, fresh))
        found += [value for value in fresh if kind_of(value)]
        level = [part for value in fresh if not kind_of(value) for part in _parts(value)]
    return found


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(islice(value.values(), ENTRIES))
    if isinstance(value, (list, tuple)):
        return list(value[:ENTRIES])
    if isinstance(value, FunctionType):
        return _used_by(value)
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    own = list(getattr(value, "__dict__", {}).values())
    return own + [
        function
        for kind in type(value).__mro__
        if kind.__module__.partition(".")[0] not in ("builtins", "torch", "torchvision", "memcard")
        for function in vars(kind).values()
        if isinstance(function, FunctionType)
    ]


def _used_by(function: FunctionType) -> list[Any]:
    """Return the module-level values and the closure of a function."""
    names = function.__globals__
    used = [names[name] for name in function.__code__.co_names if name in names]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a cell that is still empty
            used.append(cell.cell_contents)
    return used


def _signed(seed: int) -> int:
    """Torch takes seeds below 2**63."""
    return seed & 0x7FFF_FFFF_FFFF_FFFF
