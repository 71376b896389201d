"""Chunks of a save, checked against their digests, and put where a load plan wants them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlanner, ReadItem

from memcard.errors import (
    CorruptError,
    IntegrityError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
)
from memcard.formats._dcp_index import INDEX, Chunk, Index, read_index
from memcard.formats.safetensors import PLUGIN as SAFETENSORS
from memcard.maths.torch_bridge import DTYPES, Bridge
from memcard.training._tree import names_in, unpack
from memcard.training.saves import digest

_MOST_THREADS: Final = 8
_SHOWN: Final = 4
_PAIRS: Final = ("C128", "C32")  # stored as pairs of numbers


class OpenFolder:
    """A finished save; its index was read, no tensor.

    Attributes:
        index: what is in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: Index = read_index(path)
        self._bridges: dict[int, Bridge] = {}
        self._chunks: dict[tuple[str, tuple[int, ...]], Chunk] = {
            (name, chunk.offsets): chunk
            for name, entry in self.index.tensors.items()
            for chunk in entry.chunks
        }

    def metadata(self) -> Metadata:
        """Return what torch's planners want to know."""
        told: dict[str, Any] = {
            name: TensorStorageMetadata(
                TensorProperties(dtype=DTYPES[entry.dtype]),
                torch.Size(entry.shape),
                [
                    ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes))
                    for c in entry.chunks
                ],
            )
            for name, entry in self.index.tensors.items()
        }
        told |= {name: BytesStorageMetadata() for name in self.index.values}
        paths = self.index.paths
        return Metadata(told, planner_data=None if paths is None else dict(paths))

    def places(self, items: Iterable[ReadItem]) -> list[tuple[int, str]]:
        """Return file and name of every stored tensor that the items need, once."""
        found: dict[tuple[int, str], None] = {}
        for item in items:
            if item.type == LoadItemType.TENSOR:
                chunk = self._chunk(item.storage_index)
                found[chunk.file, chunk.name] = None
            else:
                value = self.index.values[item.storage_index.fqn]
                if value.file is not None:
                    found |= dict.fromkeys((value.file, name) for name in names_in(value.tree))
        return list(found)

    def verify(self, places: Sequence[tuple[int, str]]) -> None:
        """Read stored tensors and compare them with their digests, on all cores.

        Raises:
            IntegrityError: names all tensors that differ.
            NotFoundError: a file is missing.
            CorruptError: a file is not what the index says.
        """
        for file in sorted({file for file, _ in places}):
            self._bridge(file)
        widest = sorted(places, key=lambda place: -self._tensor(*place).nbytes)
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as crew:
            right = dict(zip(widest, crew.map(self._is_right, widest), strict=True))
        wrong = [
            f"{self.path / self.index.files[file].name}: {name!r}"
            for file, name in places
            if not right[file, name]
        ]
        if wrong:
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise IntegrityError(
                f"{'; '.join(wrong[:_SHOWN])}{more}: the bytes do not match their digest; the disk or a program "
                "changed them. Use another save."
            )

    def verify_all(self) -> None:
        """Compare every tensor with its digest; see ``verify``."""
        self.verify([(i, name) for i, file in enumerate(self.index.files) for name in file.digests])

    def _is_right(self, place: tuple[int, str]) -> bool:
        file, name = place
        flat = self._tensor(file, name).reshape(-1)
        raw = flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
        return digest(raw) == self.index.files[file].digests[name]

    def put(self, item: ReadItem, planner: LoadPlanner) -> None:
        """Copy one item to where the planner wants it.

        Raises:
            UnsupportedError: the planner takes values as pickles only.
            MismatchError: the planner wants another shape.
        """
        if item.type == LoadItemType.TENSOR:
            self._put_tensor(item, planner)
        else:
            _put_value(item, self._value(item.storage_index.fqn), planner)

    def _put_tensor(self, item: ReadItem, planner: LoadPlanner) -> None:
        source = self._whole(item.storage_index)
        for axis, (offset, length) in enumerate(
            zip(item.storage_offsets, item.lengths, strict=True)
        ):
            source = source.narrow(axis, offset, length)
        target = planner.resolve_tensor(item).detach()
        if target.shape != source.shape:
            raise MismatchError(
                f"{item.storage_index.fqn}: {type(planner).__name__} wants {list(target.shape)} of "
                f"{list(source.shape)} that are stored."
            )
        target.copy_(source)
        planner.commit_tensor(item, target)

    def _value(self, fqn: str) -> Any:
        value = self.index.values[fqn]

        def tensor(name: str) -> Tensor:
            if value.file is None:
                raise CorruptError(f"it needs the tensor {name!r}, and has no file.")
            return self._tensor(value.file, name).clone()  # it may be changed, and outlive the file

        try:
            return unpack(value.tree, tensor)
        except CorruptError as error:
            raise CorruptError(f"{self.path / INDEX}: {fqn!r}: {error}") from None

    def _whole(self, index: MetadataIndex) -> Tensor:
        chunk = self._chunk(index)
        entry = self.index.tensors[index.fqn]
        as_pairs = {"as": entry.dtype} if entry.dtype in _PAIRS else {}
        found: Tensor = unpack(
            {"$tensor": chunk.name, **as_pairs}, lambda name: self._tensor(chunk.file, name)
        )
        if tuple(found.shape) != chunk.sizes or found.dtype != DTYPES[entry.dtype]:
            raise CorruptError(
                f"{self.path / self.index.files[chunk.file].name}: {chunk.name!r} is {found.dtype} of "
                f"{list(found.shape)}; the index says {entry.dtype} of {list(chunk.sizes)}. Use another save."
            )
        return found

    def _chunk(self, index: MetadataIndex) -> Chunk:
        offsets = () if index.offset is None else tuple(index.offset)
        return self._chunks[index.fqn, offsets]

    def _tensor(self, file: int, name: str) -> Tensor:
        told = self.index.files[file]
        if name not in told.digests:
            raise CorruptError(
                f"{self.path / INDEX}: has no digest of {name!r} in {told.name}. Use another save."
            )
        return self._bridge(file).tensor(name)

    def _bridge(self, file: int) -> Bridge:
        if file not in self._bridges:
            told = self.index.files[file]
            path = self.path / told.name
            try:
                opened = SAFETENSORS.open(path)
            except FileNotFoundError:
                raise NotFoundError(
                    f"{path}: is missing, though the index names it. Put it back, or use another save."
                ) from None
            if missing := [repr(name) for name in told.digests if name not in opened.specs]:
                raise CorruptError(
                    f"{path}: lacks {', '.join(missing[:_SHOWN])}, which the index names. Use another save."
                )
            self._bridges[file] = Bridge(opened)
        return self._bridges[file]


def _put_value(item: ReadItem, value: Any, planner: LoadPlanner) -> None:
    """Put a value where ``DefaultLoadPlanner.load_bytes`` would have put what it unpickled."""
    fqn = item.dest_index.fqn
    kind: Any = type(planner)
    if hasattr(planner, "load_value"):
        planner.load_value(item, value)
    elif (
        isinstance(planner, DefaultLoadPlanner) and kind.load_bytes is DefaultLoadPlanner.load_bytes
    ):
        if planner.flatten_state_dict:
            set_element(planner.original_state_dict, planner.mappings[fqn], value)
        else:
            planner.state_dict[fqn] = value
    else:
        raise UnsupportedError(
            f"{fqn}: is no tensor, and {kind.__name__} takes such values as pickles only. Give the planner a method "
            "load_value(read_item, value), or derive it from torch's DefaultLoadPlanner."
        )
