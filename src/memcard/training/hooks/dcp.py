"""Storage for ``torch.distributed.checkpoint``: safetensors files and a JSON index, every byte checked.

    dcp.save(state, storage_writer=MemcardWriter("runs/a/step-000100"))
    dcp.load(state, storage_reader=MemcardReader("runs/a/step-000100"))

Any planner that derives from torch's own works, so it saves on n processes and loads on m. No pickle is
written or read. A save is a folder that appears whole or not at all, and never goes over another one. A byte
that was changed is found before any tensor of the state is touched. Specification: ``docs/spec/dcp.md``.

torch wraps what goes wrong, on any process, in a ``CheckpointException``; ``failures`` of that has the errors
named below.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from memcard.errors import MemcardError, NotFoundError, UnsupportedError, UsageError
from memcard.training.hooks._dcp_folder import Part, finished, part_of, refuse_taken
from memcard.training.hooks._dcp_read import OpenFolder
from memcard.training.hooks._dcp_write import make_index, write_items

__all__ = ["MemcardReader", "MemcardWriter", "saves", "verify"]


class MemcardWriter(StorageWriter):
    """Writes one save: each process one safetensors file, the first one the index and the final name.

    Values that are no tensors are stored as JSON. A tensor that is not on the CPU is copied there one at a
    time. Works with ``dcp.save`` and ``dcp.async_save``; not with ``use_collectives=False``.

    Raises, wrapped by torch:
        UsageError: the folder is there already.
        UnsupportedError: something in the state is neither a tensor nor plain values; all such are named.
        LockedError: another training is writing this save.
        DiskError: the disk is full, read-only or failing; the saves before are untouched.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Set where to save.

        Args:
            path: the folder to make, on a disk that all processes share. None: ``checkpoint_id`` tells.
        """
        super().__init__()
        self.checkpoint_id = path
        self._part: Part | None = None

    @property
    def path(self) -> Path:
        """The folder to make."""
        return _path(self.checkpoint_id)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Get ready for another save."""
        self._release()
        if checkpoint_id is not None:
            self.checkpoint_id = checkpoint_id

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Refuse what cannot be, before anyone plans."""
        del args
        self._release()
        if not kwargs.get("use_collectives", True):
            raise UnsupportedError(
                f"{self.path}: with use_collectives=False nobody could say when the save is whole. Leave it out."
            )
        if is_coordinator:
            refuse_taken(self.path)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Make the unfinished folder, and number the processes."""
        self._part = Part(self.path)
        return [dataclasses.replace(plan, storage_data=rank) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the share of this process; done when this returns."""
        folder = part_of(self.path)
        if not folder.is_dir():
            raise NotFoundError(
                f"{folder}: the first process made this folder, and this one cannot see it. All processes must "
                "save to one disk that they share."
            )
        future: Future[list[WriteResult]] = Future()
        future.set_result(write_items(folder, plan.storage_data, plan.items, planner))
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index and give the folder its name."""
        if self._part is None:
            raise RuntimeError("finish() without a plan")
        index = make_index(metadata, results)
        self._part.finish(index.to_bytes(), {file.name: file.size for file in index.files})
        self._part = None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether this names a folder, and no address."""
        return _is_local(checkpoint_id)

    def _release(self) -> None:
        if self._part is not None:
            self._part.release()
            self._part = None


class MemcardReader(StorageReader):
    """Reads a save of ``MemcardWriter``, on any number of processes.

    Each process reads the chunks it needs. All of them are compared with their digests before the first
    tensor of any process is changed. Values are set by a planner derived from torch's ``DefaultLoadPlanner``;
    another one needs a method ``load_value(read_item, value)``.

    Raises, wrapped by torch:
        NotFoundError: there is no such folder, or no finished save in it, or a file of it is missing.
        IntegrityError: bytes do not match their digest; names file and tensor.
        CorruptError: index and files do not fit together.
        UnsupportedError: it is of a newer version or of another program.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Set what to read.

        Args:
            path: the folder. None: ``checkpoint_id`` tells.
        """
        super().__init__()
        self.checkpoint_id = path
        self._open: OpenFolder | None = None
        self._error: MemcardError | OSError | None = None
        self._verified: set[tuple[int, str]] = set()

    @property
    def path(self) -> Path:
        """The folder to read."""
        return _path(self.checkpoint_id)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Get ready to read another save."""
        self._open = self._error = None
        self._verified.clear()
        if checkpoint_id is not None:
            self.checkpoint_id = checkpoint_id

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return what is in the save."""
        del args
        if self._error is not None and "rank" in kwargs:
            # torch asks a second time, for an index of this process alone, and would then hide the error
            # in the text of its own. The next method it calls is set_up_storage_reader; that raises it.
            return Metadata({})
        try:
            self.reset()
            self._open = OpenFolder(self.path)
        except (MemcardError, OSError) as error:
            self._error = error
            raise
        return self._open.metadata()

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Begin."""
        del metadata, is_coordinator, args, kwargs
        if self._error is not None:
            raise self._error

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Verify what this process will read; the others wait for it."""
        self._verify(plan)
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy everything to where the planner wants it; done when this returns."""
        self._verify(plan)  # nothing to do, unless someone changed the plan meanwhile
        opened = self._opened()
        for item in plan.items:
            opened.put(item, planner)
        self.reset()  # gives the files back
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether this names a folder, and no address."""
        return _is_local(checkpoint_id)

    def _verify(self, plan: LoadPlan) -> None:
        opened = self._opened()
        places = [place for place in opened.places(plan.items) if place not in self._verified]
        opened.verify(places)
        self._verified.update(places)

    def _opened(self) -> OpenFolder:
        if self._open is None:
            raise RuntimeError("read_metadata() comes first")
        return self._open


def saves(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the finished saves in a folder, the newest first.

    Newest is the one with the highest last number in its name (``step-000200``); names without one come last.
    An unfinished save is not listed. Nothing is verified.
    """

    def order(path: Path) -> tuple[int, str]:
        numbers = re.findall(r"\d+", path.name)
        return int(numbers[-1]) if numbers else -1, path.name

    return sorted(finished(Path(folder)), key=order, reverse=True)


def verify(path: str | os.PathLike[str]) -> None:
    """Read a whole save and compare every tensor with its digest.

    Raises:
        NotFoundError, IntegrityError, CorruptError, UnsupportedError: as ``MemcardReader``.
    """
    OpenFolder(Path(path)).verify_all()


def _path(checkpoint_id: str | os.PathLike[str] | None) -> Path:
    if checkpoint_id is None:
        raise UsageError(
            "nobody said where the save is: give MemcardWriter or MemcardReader a path, or pass checkpoint_id."
        )
    return Path(checkpoint_id)


def _is_local(checkpoint_id: str | os.PathLike[str]) -> bool:
    return "://" not in os.fspath(checkpoint_id)


class Storage(NamedTuple):
    """What ``torch.distributed.checkpoint`` takes: it has no trainer, and so no Checkpointer."""

    writer: type[StorageWriter]
    reader: type[StorageReader]


PLUGIN = Storage(MemcardWriter, MemcardReader)
