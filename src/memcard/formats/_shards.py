"""A checkpoint cut into several safetensors files with an index beside them, as transformers writes it.

``model-00001-of-00003.safetensors`` … hold the tensors, ``model.safetensors.index.json`` says which is
in which.

Source: https://huggingface.co/docs/safetensors, transformers 5 ``load_sharded_checkpoint``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import Self

from memcard.core.atomic import Together, disk_errors
from memcard.core.checkpoint import Extent
from memcard.core.tensors import Specs
from memcard.errors import MismatchError, NotFoundError, UsageError
from memcard.formats._planned import PlannedSink, refuse_quantized
from memcard.formats._safetensors_header import plan

INDEX = ".index.json"
SAFE = ".safetensors"
TOTAL = "total_size"
# Releases of transformers before 5 refuse a safetensors file that does not say this.
PYTORCH = {"format": "pt"}
MAX_SHARD = 5_000_000_000  # transformers' own measure, where nobody gives one
# Every unfinished shard holds one file handle; 1024 is what a process usually has.
_MOST_SHARDS = 512


def split(specs: Specs, most: int) -> list[list[str]]:
    """Cut into groups of at most ``most`` bytes, in the order given; a larger tensor stands alone."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if groups[-1] and size + spec.nbytes > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += spec.nbytes
    return groups


class ShardedSink:
    """See ``memcard.core.checkpoint.FileSink``. One plain file where everything fits into it.

    ``notes``, ``result`` and ``size`` are as in the protocol.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_shard: int | None = None,
        overwrite: bool = False,
        mark: Mapping[str, str] | None = None,
    ) -> None:
        """Announce what is written.

        Args:
            path: ``x.safetensors``, or ``x.safetensors.index.json`` to have an index in any case.
            max_shard: most bytes of tensors in a file; None for 5 GB with an index, else no limit.
            overwrite: replace shards and index that are there.
            mark: more metadata for a plain file; shards always have ``PYTORCH``.
        """
        self.path = self.result = path
        self.notes: tuple[str, ...] = ()
        self.size = 0
        self._indexed = path.name.lower().endswith(SAFE + INDEX)
        self._most, self._overwrite, self._mark = max_shard, overwrite, dict(mark or {})
        self._together = Together()
        self._stack = ExitStack()
        self._sinks: dict[str, PlannedSink] = {}  # by tensor
        self._index = b""
        self._begun = False

    def begin(self, specs: Specs, metadata: Mapping[str, str]) -> None:
        """Plan all files and reserve their space."""
        self._begun = True
        refuse_quantized(self.path, specs)
        plan(specs, metadata, self.path)  # for its refusals: all at once, before the first file
        total = sum(spec.nbytes for spec in specs.values())
        if not self._indexed and (self._most is None or total <= self._most):
            self._begin_file(specs, metadata)
        else:
            self._begin_shards(specs, metadata, total)

    def write(self, name: str, part: memoryview, offset: int = 0) -> None:
        """Write a part of one tensor; thread-safe."""
        self._sink(name).write(name, part, offset)

    def copy(self, name: str, source: Extent) -> None:
        """Copy a whole tensor from another file, in the kernel where it can."""
        self._sink(name).copy(name, source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)  # shards: finished, synced, not yet in place
            if error is not None:
                return
            if not self._begun:
                raise MismatchError(f"{self.path}: no tensors were announced; nothing was written.")
            if self._index:
                with disk_errors(self.result), self._together.stage(self.result) as file:
                    file.write(self._index)
                self._together.commit(self.result)
        finally:
            self._together.discard()

    def _begin_file(self, specs: Specs, metadata: Mapping[str, str]) -> None:
        index = self.path.with_name(self.path.name + INDEX)
        if index.exists():
            self.notes = (f"{index.name} is there as well; it belongs to other tensors.",)
        sink = PlannedSink(self.path, partial(plan, path=self.path))
        self._stack.push(sink.__exit__)
        sink.begin(specs, {**metadata, **self._mark})
        self.size = sink.size
        self._sinks = dict.fromkeys(specs, sink)

    def _begin_shards(self, specs: Specs, metadata: Mapping[str, str], total: int) -> None:
        groups = split(specs, self._most or MAX_SHARD)
        if len(groups) > _MOST_SHARDS:
            raise UsageError(
                f"{self.path}: {total} bytes in shards of {self._most} make {len(groups)} files; "
                f"at most {_MOST_SHARDS} are written. Choose larger shards."
            )
        stem = self.path.name.removesuffix(INDEX).removesuffix(SAFE)
        self.result = self.path.with_name(stem + SAFE + INDEX)
        shards = [
            self.path.with_name(f"{stem}-{i:05}-of-{len(groups):05}{SAFE}")
            for i in range(1, len(groups) + 1)
        ]
        self._refuse_present([*shards, self.result])
        for shard, names in zip(shards, groups, strict=True):
            sink = PlannedSink(shard, partial(plan, path=shard), stage=self._together.stage)
            self._stack.push(sink.__exit__)
            sink.begin({name: specs[name] for name in names}, PYTORCH)
            self._sinks |= dict.fromkeys(names, sink)
            self.size += sink.size
        weight_map = {n: sink.path.name for n, sink in self._sinks.items()}
        index = {"metadata": {**metadata, TOTAL: total}, "weight_map": weight_map}
        self._index = (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()
        self.size += len(self._index)

    def _refuse_present(self, paths: list[Path]) -> None:
        there = [path.name for path in paths if path.exists()]
        if there and not self._overwrite:
            raise UsageError(
                f"{self.path}: {_few(there)} would be replaced. Choose another name, or allow "
                "overwriting."
            )
        stem = self.result.name.removesuffix(SAFE + INDEX)
        old = [
            path.name
            for path in sorted(self.path.parent.glob(f"{escape(stem)}-?????-of-?????{SAFE}"))
            if path not in paths
        ]
        if self.path != self.result and self.path.exists():
            old.append(self.path.name)
        if old:
            self.notes = (
                f"{_few(old)} lie there as well; they are no part of {self.result.name}.",
            )

    def _sink(self, name: str) -> PlannedSink:
        if not self._begun:
            raise RuntimeError(f"{self.path}: begin comes before write")
        try:
            return self._sinks[name]
        except KeyError:
            raise NotFoundError(f"{self.path}: {name!r} was not announced by begin.") from None


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
