"""Weights that stay in memory, known by their content, and the networks they are put into.

One network of each kind (component, config, dtype, device) is kept, and every tensor that was loaded, as long as
the budget lasts. Loading another checkpoint of the family puts its weights into the same network: what is there
already, under whatever name and from whatever file, is not read again; the rest is read into the memory of what
has to go. Nothing is assigned before everything is read, so a load that fails leaves no mixture behind.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import RLock, local
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from memcard.core.checkpoint import Checkpoint
from memcard.core.identity import CONTENT, Place, by_place, identity
from memcard.core.tensors import Spec
from memcard.generation._free_memory import free_memory
from memcard.generation.parts import Part
from memcard.generation.weights import (
    DTYPES,
    copy,
    count_positions,
    places,
    pour,
    pour_plain,
    precisions,
    several,
    windows,
)

_GONE: Final = nn.Parameter(torch.empty(0, device="meta"), requires_grad=False)
_REMEMBERED: Final = 64  # plans
_WIDE: Final = "wo"  # of T5, which keeps it in float32 where the rest is float16

# Identity, dtype in the file, dtype in memory, shape: zeros are everywhere the same bytes.
_Cell: TypeAlias = tuple[Hashable, str, torch.dtype, tuple[int, ...]]
_Kind: TypeAlias = tuple[tuple[int, ...], torch.dtype]
_Slot: TypeAlias = tuple[
    dict[str, Any], str, bool
]  # where a module keeps it, its name, if a parameter


@dataclass(frozen=True, slots=True)
class Request:
    """A component to load.

    Attributes:
        part: where its weights are.
        make: builds it without memory.
        dtype: what to compute in; layers that need more keep float32, see ``weights.precisions``.
        kind: tells networks apart that have the same name, config and dtype.
        without: layers that the network lacks though the part has them.
    """

    part: Part
    make: Callable[[], nn.Module]
    dtype: torch.dtype
    kind: str = ""
    without: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Same key, same network."""
        config = json.dumps(self.part.config, sort_keys=True, default=str)
        return f"{self.kind} {self.part.name} {self.dtype} {config}"


@dataclass(slots=True, eq=False)
class _Network:
    """A module, where it keeps its weights, in which dtype, and which it has now."""

    name: str
    module: nn.Module
    wanted: Mapping[str, Sequence[int]]
    dtypes: Mapping[str, torch.dtype]
    slots: Mapping[str, Sequence[_Slot]]
    has: dict[str, _Cell] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request, device: torch.device) -> _Network:
        module = request.make()
        wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        slots: dict[str, list[_Slot]] = {key: [] for key in wanted}
        for prefix, owner in module.named_modules(remove_duplicate=False):
            for values, parameters in ((owner._parameters, True), (owner._buffers, False)):
                for leaf in values:
                    key = f"{prefix}.{leaf}" if prefix else leaf
                    if key in slots:
                        slots[key].append((values, leaf, parameters))
        count_positions(module, device)
        for owner in module.modules():  # buffers that are in no file
            for leaf, value in owner._buffers.items():
                if value is not None and not value.is_meta:
                    owner._buffers[leaf] = value.to(device)
        dtypes = precisions(module, request.dtype)
        return cls(request.part.name, module, wanted, dtypes, slots)

    def put(self, key: str, value: Tensor) -> None:
        for values, leaf, is_parameter in self.slots[key]:
            values[leaf] = value if is_parameter else value.data


@dataclass(slots=True, eq=False)
class _Held:
    """A tensor in memory."""

    value: nn.Parameter
    window: bool
    users: set[tuple[_Network, str]] = field(default_factory=set)

    @property
    def kind(self) -> _Kind:
        return tuple(self.value.shape), self.value.dtype

    @property
    def nbytes(self) -> int:
        return self.value.nbytes


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the weights of a network are to be, and what they are called; keeps its part alive."""

    part: Part
    cells: Mapping[str, tuple[_Cell, str]]


@dataclass(slots=True)
class _Job:
    """A tensor to read: from where, for which place, into which memory."""

    view: Checkpoint
    name: str
    spec: Spec
    dtype: torch.dtype
    place: tuple[_Network, str] | None
    out: Tensor | None = None
    base: tuple[str, Tensor] | None = None  # content whose memory ``out`` is

    @property
    def kind(self) -> _Kind:
        return tuple(self.spec.shape), self.dtype

    @property
    def nbytes(self) -> int:
        return self.spec.elements * self.dtype.itemsize


# Memory to be used again, by its shape and dtype: what it held, and where that stood.
_Spare: TypeAlias = dict[_Kind, list[tuple[_Cell, _Held, set[tuple[_Network, str]]]]]


class Cache:
    """Networks and weights of one device; safe for several threads, which wait for each other.

    What ``load`` returns is good until the next ``load``: modules are used again.
    """

    def __init__(
        self, device: torch.device, budget: int | None = None, place: Place | None = None
    ) -> None:
        """Begin empty.

        Args:
            device: where weights are kept.
            budget: bytes of weights to keep; what is in use is kept whatever it is. None: half of the
                memory that is free now.
            place: tells what the bytes of a plain file are; None: by file, time and offset.
        """
        self.device = device
        self.budget = free_memory(device) // 2 if budget is None else budget
        self.read_bytes = 0  # taken from files or packs since the beginning, as stored
        self._place = place or by_place
        self._networks: dict[str, _Network] = {}
        self._held: OrderedDict[_Cell, _Held] = OrderedDict()  # the one used last is the last
        self._contents: dict[str, Tensor] = {}  # as they are stored, by digest
        self._plans: OrderedDict[tuple[int, str], _Plan] = OrderedDict()
        self._ahead: tuple[_Cell, ...] = ()  # read before anything asked for it
        self._lock = RLock()
        self._own = local()

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that are kept, windows on files among them."""
        return sum(held.nbytes for held in self._held.values())

    def load(self, requests: Sequence[Request]) -> dict[str, nn.Module]:
        """Return the components with their weights, by name.

        Raises:
            MismatchError, UnsupportedError: as ``weights.places``.
            IntegrityError, CorruptError: what is read is damaged; nothing that was loaded is mixed with it.
        """
        self.build(requests)
        with self._lock:
            networks = [self._network(request) for request in requests]
            plans = [self._plan(r, n) for r, n in zip(requests, networks, strict=True)]
            jobs = self._missing(plans, requests, networks)
            pinned = dict.fromkeys(cell for plan in plans for cell, _ in plan.cells.values())
            for cell in pinned:
                if cell in self._held:
                    self._held.move_to_end(cell)
            self._read(jobs, pinned)
            for network, plan in zip(networks, plans, strict=True):
                self._assign(network, plan)
            self._tidy(networks)
            self._forget_ahead()
            return {r.part.name: n.module for r, n in zip(requests, networks, strict=True)}

    def build(self, requests: Sequence[Request]) -> None:
        """Make the networks, without weights; the first time imports what they are made of.

        Their weights are read meanwhile, by another thread. What fails there fails again in ``load``, which tells.
        """
        if all(request.key in self._networks for request in requests):
            return
        with ThreadPoolExecutor(1) as ahead:
            if "diffusers" not in sys.modules:  # else it is done before reading begins
                ahead.submit(self._read_ahead, requests)
            for request in requests:
                self._network(request)

    def _read_ahead(self, requests: Sequence[Request]) -> None:
        with self._lock:
            jobs: dict[_Cell, _Job] = {}
            for request in requests:
                view = request.part.view
                for key, name in request.part.names.items():
                    spec, known = view.specs[name], identity(view, name, self._place)
                    levels = key.split(".")
                    if known is None or levels[0] in request.without:
                        continue
                    if request.dtype == torch.float16 and _WIDE in levels:
                        continue
                    cell = known, spec.dtype.name, request.dtype, tuple(spec.shape)
                    if spec.dtype.name in DTYPES and cell not in self._held:
                        jobs[cell] = _Job(view, name, spec, request.dtype, None)
            self._read(jobs, {})
            self._ahead = tuple(jobs)

    def supply(self, key: str, offset: int, out: memoryview) -> bool:
        """Fill ``out`` with bytes of a tensor that is in memory as it is stored; see ``core.identity``."""
        own: tuple[str, Tensor] | None = getattr(self._own, "base", None)
        found = own[1] if own is not None and own[0] == key else self._contents.get(key)
        if found is None:
            return False
        flat = found.reshape(-1).view(torch.uint8)[offset : offset + len(out)]
        if len(flat) != len(out):
            return False
        copy(flat, torch.frombuffer(out, dtype=torch.uint8))
        return True

    def let_go(self, names: Iterable[str]) -> None:
        """Drop the weights of components, by name; their modules cannot run until they are loaded again."""
        gone = set(names)
        with self._lock:
            for network in self._networks.values():
                if network.name in gone:
                    for cell in dict.fromkeys(network.has.values()):
                        users = self._held[cell].users
                        if all(user.name in gone for user, _ in users):
                            self._drop(cell)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            for cell in list(self._held):
                self._drop(cell)
            self._networks.clear()
            self._plans.clear()

    def _network(self, request: Request) -> _Network:
        key = request.key
        if key not in self._networks:
            made = _Network.of(request, self.device)
            made.module.requires_grad_(requires_grad=False)
            self._networks[key] = made
        return self._networks[key]

    def _plan(self, request: Request, network: _Network) -> _Plan:
        """Return what every weight of a network shall be; remembered as long as the part is the same object."""
        mark = id(request.part), request.key
        if mark not in self._plans:
            part, found = request.part, places(request.part, network.wanted)
            known: dict[str, Hashable] = {}
            plan: dict[str, tuple[_Cell, str]] = {}
            for key, name in found.items():
                if name not in known:
                    mine: Hashable = identity(part.view, name, self._place)
                    # What nothing identifies is a thing of its own.
                    known[name] = object() if mine is None else mine
                spec = part.view.specs[name]
                cell = known[name], spec.dtype.name, network.dtypes[key], tuple(spec.shape)
                plan[key] = cell, name
            self._plans[mark] = _Plan(part, plan)
            if len(self._plans) > _REMEMBERED:
                self._plans.popitem(last=False)
        self._plans.move_to_end(mark)
        return self._plans[mark]

    def _missing(
        self, plans: Sequence[_Plan], requests: Sequence[Request], networks: Sequence[_Network]
    ) -> dict[_Cell, _Job]:
        jobs: dict[_Cell, _Job] = {}
        for plan, request, network in zip(plans, requests, networks, strict=True):
            view = request.part.view
            for key, (cell, name) in plan.cells.items():
                if cell not in self._held and cell not in jobs:
                    jobs[cell] = _Job(view, name, view.specs[name], cell[2], (network, key))
        return jobs

    def _read(self, jobs: Mapping[_Cell, _Job], pinned: Mapping[_Cell, None]) -> None:
        """Read what is missing; kept only when all of it is there."""
        spare = self._make_room(jobs.values(), pinned)
        found: dict[_Cell, _Held] = {}
        for view, dtype, some in _by_view(jobs):
            seen = windows(
                view, [job.name for job in some.values()], dtype=dtype, device=self.device
            )
            for cell, job in some.items():
                if job.name in seen:
                    found[cell] = _held(seen[job.name], window=True)
        rest = {cell: job for cell, job in jobs.items() if cell not in found}
        self._pair(rest.values(), spare)
        spare.clear()
        self._pour(list(rest.values()))
        for cell, job in rest.items():
            assert job.out is not None, "paired above"  # noqa: S101
            found[cell] = _held(job.out, window=False)
        for cell, held in found.items():
            self._held[cell] = held
            if (digest := _content(cell)) is not None:
                self._contents[digest] = held.value.data
        self.read_bytes += sum(job.spec.nbytes for job in jobs.values())

    def _make_room(self, jobs: Iterable[_Job], pinned: Mapping[_Cell, None]) -> _Spare:
        """Drop what was used longest ago until the rest fits; return memory that can be used again."""
        jobs = list(jobs)
        demand = Counter(job.kind for job in jobs)
        over = self.nbytes + sum(job.nbytes for job in jobs) - self.budget
        spare: _Spare = {}
        for cell in [cell for cell in self._held if cell not in pinned]:
            if over <= 0:
                break
            users = set(self._held[cell].users)
            held = self._drop(cell)
            over -= held.nbytes
            if not held.window and demand[held.kind] > 0:
                demand[held.kind] -= 1
                spare.setdefault(held.kind, []).append((cell, held, users))
        return spare

    def _pair(
        self,
        jobs: Iterable[_Job],
        spare: _Spare,
    ) -> None:
        """Give every job its memory, best that of the weight whose place it takes: it may be its base."""
        later = []
        for job in jobs:
            there = spare.get(job.kind, [])
            mine = next((i for i, (_, _, users) in enumerate(there) if job.place in users), None)
            if mine is None:
                later.append(job)
                continue
            cell, held, _ = there.pop(mine)
            job.out = held.value.data
            if (digest := _content(cell)) is not None:
                job.base = digest, job.out
        for job in later:
            there = spare.get(job.kind, [])
            if there:
                job.out = there.pop()[1].value.data
            else:
                shape = tuple(job.spec.shape)
                job.out = torch.empty(shape, dtype=job.dtype, device=self.device)

    def _pour(self, jobs: Sequence[_Job]) -> None:
        def run(job: _Job) -> None:
            assert job.out is not None, "paired before"  # noqa: S101
            self._own.base = job.base
            try:
                pour(job.view, job.name, job.out)
            finally:
                self._own.base = None

        several(run, pour_plain(jobs))

    def _assign(self, network: _Network, plan: _Plan) -> None:
        for key, (cell, _) in plan.cells.items():
            before = network.has.get(key)
            if before == cell:
                continue
            if before is not None and before in self._held:
                users = self._held[before].users
                users.discard((network, key))
                if not users and not isinstance(before[0], str):
                    self._drop(before)  # nobody could ask for it again
            held = self._held[cell]
            network.put(key, held.value)
            network.has[key] = cell
            held.users.add((network, key))

    def _drop(self, cell: _Cell) -> _Held:
        """Forget a weight, everywhere."""
        held = self._held.pop(cell)
        for network, key in held.users:
            network.put(key, _GONE)
            del network.has[key]
        held.users.clear()
        if (digest := _content(cell)) is not None:
            self._contents.pop(digest, None)
        return held

    def _forget_ahead(self) -> None:
        """Drop what was read ahead and is not used."""
        for cell in self._ahead:
            if cell in self._held and not self._held[cell].users:
                self._drop(cell)
        self._ahead = ()

    def _tidy(self, used: Sequence[_Network]) -> None:
        """Let go of networks that have no weights left."""
        for key, network in list(self._networks.items()):
            if network not in used and not network.has:
                del self._networks[key]


def _content(cell: _Cell) -> str | None:
    """Return the digest of a weight that is in memory as it is stored."""
    known, stored, dtype, _ = cell
    if not isinstance(known, str) or not known.startswith(CONTENT) or DTYPES[stored] != dtype:
        return None
    return known.removeprefix(CONTENT)


def _held(value: Tensor, *, window: bool) -> _Held:
    return _Held(nn.Parameter(value, requires_grad=False), window)


def _by_view(
    jobs: Mapping[_Cell, _Job],
) -> list[tuple[Checkpoint, torch.dtype, dict[_Cell, _Job]]]:
    found: dict[tuple[int, torch.dtype], tuple[Checkpoint, torch.dtype, dict[_Cell, _Job]]] = {}
    for cell, job in jobs.items():
        key = id(job.view), job.dtype
        found.setdefault(key, (job.view, job.dtype, {}))[2][cell] = job
    return list(found.values())
