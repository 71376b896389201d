"""One process's share of a save: a safetensors file, and what the index has to say about it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from memcard.errors import MismatchError, UnsupportedError
from memcard.formats._dcp_index import Chunk, Entry, Index, KeyPath, RankFile, Value
from memcard.formats.safetensors import PLUGIN as SAFETENSORS
from memcard.training._tree import names_in, pack_all, spec_of
from memcard.training.saves import digest, lay_out, made_by


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one item went. It travels to the first process.

    Attributes:
        file: name of the file; None if the item has no tensors.
        tree: as ``_tree.pack`` gave it.
        size: of the file, in bytes.
        dtype: of a tensor, by its name in safetensors and ours; empty for other values.
        digests: of the tensors of this item.
    """

    file: str | None
    tree: Any
    size: int
    dtype: str
    digests: Mapping[str, str]


def name_of(rank: int) -> str:
    """Return the file name of a process."""
    return f"rank-{rank:05d}.safetensors"


def write_items(
    folder: Path, rank: int, items: Sequence[WriteItem], planner: SavePlanner
) -> list[WriteResult]:
    """Write the items; the file is durable when this returns.

    Raises:
        UnsupportedError: some of them cannot be stored; all are named.
        DiskError: the disk is full, read-only or failing.
    """
    packed = pack_all([(_root(item), _resolved(item, planner)) for item in items])
    path = folder / name_of(rank)
    digests, size = _write(path, packed.tensors, rank) if packed.tensors else ({}, 0)
    results = []
    for item, tree in zip(items, packed.tree, strict=True):
        own = {name: digests[name] for name in names_in(tree)}
        stored = Stored(
            path.name if own else None, tree, size, _dtype(item, tree, packed.tensors), own
        )
        nbytes = sum(packed.tensors[name].nbytes for name in own)
        results.append(WriteResult(item.index, nbytes, stored))
    return results


def _root(item: WriteItem) -> str:
    """Return the name of a tensor in the file: that of the whole, and where a part of it begins."""
    told = item.tensor_data
    if told is None or told.chunk.sizes == told.size:
        return item.index.fqn
    return f"{item.index.fqn}@{','.join(map(str, told.chunk.offsets))}"


def _resolved(item: WriteItem, planner: SavePlanner) -> Any:
    if item.type == WriteItemType.BYTE_IO:
        # resolve_data() would give it as a pickle
        look_up = getattr(planner, "lookup_object", None)
        if look_up is None:
            raise UnsupportedError(
                f"{item.index.fqn}: is no tensor, and {type(planner).__name__} offers it as a pickle only, which "
                "memcard never stores. Derive the planner from torch's DefaultSavePlanner, or save tensors only."
            )
        return look_up(item.index)
    found = planner.resolve_data(item)
    if not isinstance(found, Tensor) or item.tensor_data is None:
        raise UnsupportedError(
            f"{item.index.fqn}: {type(planner).__name__} gives a {type(found).__name__} for a tensor."
        )
    if found.shape != item.tensor_data.chunk.sizes:
        raise MismatchError(
            f"{item.index.fqn}: {type(planner).__name__} planned a chunk of {list(item.tensor_data.chunk.sizes)} and "
            f"gives one of {list(found.shape)}. Keep the shape when it is saved, and change it afterwards."
        )
    return found


def _dtype(item: WriteItem, tree: Any, tensors: Mapping[str, Tensor]) -> str:
    if item.type == WriteItemType.BYTE_IO:
        return ""
    return str(tree.get("as") or spec_of(tensors[tree["$tensor"]]).dtype.name)


def _write(path: Path, tensors: Mapping[str, Tensor], rank: int) -> tuple[dict[str, str], int]:
    """Write the file, each tensor hashed while it is written; return the digests and the size."""
    specs = lay_out({name: spec_of(tensor) for name, tensor in tensors.items()})
    digests = {}
    with SAFETENSORS.create(path) as sink, ThreadPoolExecutor(1) as hasher:
        sink.begin(specs, {"format": "pt", "memcard.dcp.rank": str(rank)})
        for name in specs:
            raw = _bytes(tensors[name])
            hashing = hasher.submit(digest, raw)
            if raw:
                sink.write(name, raw)
            digests[name] = hashing.result()
    return digests, sink.size


def _bytes(tensor: Tensor) -> memoryview:
    """Return the bytes as files have them; a copy only where the tensor is not on the CPU, or has gaps."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if not plain.numel():
        return memoryview(b"")
    flat: memoryview = plain.reshape(-1).view(torch.uint8).numpy().data
    return flat


def make_index(metadata: Metadata, results: Sequence[Sequence[WriteResult]]) -> Index:
    """Return the index of a save.

    Args:
        metadata: what the planner made.
        results: what each process wrote.

    Raises:
        MismatchError: the processes stored one tensor in several dtypes.
        UnsupportedError: the planner keeps something that is not to be stored.
    """
    found: dict[tuple[str, Any], Stored] = {
        (result.index.fqn, result.index.offset): result.storage_data
        for written in results
        for result in written
    }
    files = _files(found.values())
    number = {file.name: i for i, file in enumerate(files)}
    tensors: dict[str, Entry] = {}
    values: dict[str, Value] = {}
    for fqn, told in metadata.state_dict_metadata.items():
        if isinstance(told, TensorStorageMetadata):
            tensors[fqn] = _entry(fqn, told, found, number)
        else:
            stored = found[fqn, None]
            values[fqn] = Value(None if stored.file is None else number[stored.file], stored.tree)
    paths = _paths(metadata.planner_data)
    return Index(files, tensors, values, paths, len(results), time.time(), made_by())


def _files(stored: Iterable[Stored]) -> tuple[RankFile, ...]:
    digests: dict[str, dict[str, str]] = {}
    sizes: dict[str, int] = {}
    for one in stored:
        if one.file is not None:
            digests.setdefault(one.file, {}).update(one.digests)
            sizes[one.file] = one.size
    return tuple(RankFile(name, sizes[name], digests[name]) for name in sorted(sizes))


def _entry(
    fqn: str,
    told: TensorStorageMetadata,
    found: Mapping[tuple[str, Any], Stored],
    number: Mapping[str, int],
) -> Entry:
    dtypes: dict[str, None] = {}
    chunks = []
    for chunk in told.chunks:
        stored = found[fqn, chunk.offsets]
        dtypes[stored.dtype] = None
        place = number[str(stored.file)], stored.tree["$tensor"]
        chunks.append(Chunk(*place, tuple(chunk.offsets), tuple(chunk.sizes)))
    if len(dtypes) != 1:
        raise MismatchError(
            f"{fqn}: the processes stored it as {', '.join(dtypes) or 'nothing'}. Use one dtype on all."
        )
    return Entry(next(iter(dtypes)), tuple(told.size), tuple(chunks))


def _paths(kept: Any) -> dict[str, KeyPath] | None:
    if kept is None:
        return None
    if isinstance(kept, dict) and all(
        isinstance(path, tuple) and all(type(key) in (str, int) for key in path)
        for path in kept.values()
    ):
        return kept
    raise UnsupportedError(
        f"the planner keeps a {type(kept).__name__} that is no flattened state dict. Use torch's "
        "DefaultSavePlanner, or one derived from it that leaves planner_data alone."
    )
