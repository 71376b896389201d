"""torch's zip files: ``.ckpt``, ``.pt``, ``.pth`` as ``torch.save`` writes them since 1.6.

The pickle inside is interpreted as data (``memcard.unpickle``); nothing is imported or called.
A ``.ckpt`` is written as ``{"state_dict": …, "memcard_metadata": {…}}``, a ``.pt`` or ``.pth`` as the
bare state dict, which has no place for metadata.

Source: torch 2.13 ``torch/serialization.py``, ``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from memcard.core.checkpoint import Extent
from memcard.core.limits import DEFAULT
from memcard.core.tensors import Spec, Specs
from memcard.errors import CorruptError, NotFoundError, UnsupportedError
from memcard.formats._planned import Plan, PlannedSink
from memcard.formats._source import Source, check_range, suffix_note
from memcard.formats._strided import gather
from memcard.formats._zip import Member, ZipReader
from memcard.formats._zip_layout import lay_out, plan, write_checksums
from memcard.unpickle.aliases import aliases
from memcard.unpickle.emit import can_store, state_dict_program
from memcard.unpickle.machine import Machine
from memcard.unpickle.nodes import Program, TensorView, shown
from memcard.unpickle.torch_dtypes import packed_shape
from memcard.unpickle.torch_rebuild import TorchRules
from memcard.unpickle.tree import Contents, flatten

_ROOT = (
    "archive"  # torch's own name for a nameless file; the same bytes whatever the file is called
)


class TorchZip:
    """An open torch zip file; its directory and its program were read, no tensor."""

    format = "torch_zip"

    def __init__(self, source: Source) -> None:
        self._source = source
        self._members = _torch_members(source, ZipReader(source).members)
        self._swap = self._byteorder() == "big"
        rules, program = self._run()
        contents = flatten(program.root, str(source.path))
        self._views = contents.tensors
        self._check_storages(rules)
        self.specs: Specs = {
            name: Spec(view.dtype, packed_shape(view.dtype, view.shape))
            for name, view in self._views.items()
        }
        self.metadata: Mapping[str, str] = contents.metadata
        self.training_state: Sequence[str] = tuple(contents.training)
        self.other: Sequence[str] = tuple(contents.other)
        self.notes: Sequence[str] = (
            *suffix_note(source.path, TITLE, SUFFIXES),
            *self._checksum_note(),
            *contents.notes,
            *_notes(contents, rules, self._views),
        )

    def read(self, name: str) -> memoryview:
        """Return one tensor's bytes, read-only."""
        view, start = self._view(name)
        if view.contiguous and not self._swap:
            return self._source.view(start + view.offset, view.nbytes)
        buffer = memoryview(bytearray(view.nbytes))
        self.readinto(name, buffer)
        return buffer.toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor from ``offset`` on."""
        view, start = self._view(name)
        check_range(self._source.path, name, view.nbytes, offset, into.nbytes)
        if not into.nbytes:
            return
        if view.contiguous and not self._swap:
            self._source.readinto(start + view.offset + offset, into)
        else:
            flat = into.cast("B")
            gather(self._source, start, view, swap=self._swap, into=flat, offset=offset)

    def extent(self, name: str) -> Extent | None:
        """Say where the bytes lie, unless they have to be gathered or turned around."""
        view, start = self._view(name)
        if not view.contiguous or self._swap:
            return None
        return self._source.extent(start + view.offset, view.nbytes)

    def check_unchanged(self) -> None:
        """Raise IntegrityError if the file was written to since it was opened."""
        self._source.check_unchanged()

    def close(self) -> None:
        """Give the handle back."""
        self._source.close()

    def _view(self, name: str) -> tuple[TensorView, int]:
        try:
            view = self._views[name]
        except KeyError:
            raise NotFoundError(f"{self._source.path}: has no tensor {name!r}.") from None
        return view, self._members[f"data/{view.storage.key}"].offset

    def _byteorder(self) -> str:
        member = self._members.get("byteorder")
        if member is None:
            return "little"
        order = self._source.bytes(member.offset, min(member.size, 16))
        if order not in (b"little", b"big"):
            raise CorruptError(
                f"{self._source.path}: byteorder is {order!r}, neither little nor big. "
                "Get the file again from its source."
            )
        return order.decode()

    def _run(self) -> tuple[TorchRules, Program]:
        member = self._members["data.pkl"]
        if member.size > DEFAULT.pickle_bytes:
            raise UnsupportedError(
                f"{self._source.path}: its pickle program has {member.size} bytes; the limit is "
                f"{DEFAULT.pickle_bytes}. Save only the state dict, or write .safetensors."
            )
        code = self._source.bytes(member.offset, member.size)
        self._crc_right = zlib.crc32(code) == member.crc
        rules = TorchRules()
        return rules, Machine(code, f"{self._source.path} (data.pkl)", rules).run()

    def _check_storages(self, rules: TorchRules) -> None:
        faults = []
        for key, storage in rules.storages.items():
            member = self._members.get(f"data/{key}")
            if member is None:
                faults.append(f"storage {key!r} is missing")
            elif member.size != storage.nbytes:
                faults.append(f"storage {key!r} has {member.size} bytes, not {storage.nbytes}")
        if faults:
            raise CorruptError(
                f"{self._source.path}: {'; '.join(faults[:3])}. The file is damaged; get it again "
                "from its source.",
                faults=faults,
            )

    def _checksum_note(self) -> tuple[str, ...]:
        if self._crc_right:
            return ()
        return ("The checksum of data.pkl does not match; torch can be told to write none.",)


def _torch_members(source: Source, members: Mapping[str, Member]) -> dict[str, Member]:
    """Return the members under the one root folder, without it.

    Raises:
        UnsupportedError: a zip archive of another kind.
        CorruptError: members outside of the root.
    """
    path = source.path
    roots = [n.removesuffix("/data.pkl") for n in members if n.endswith("/data.pkl")]
    roots = [root for root in roots if "/" not in root]
    if not roots:
        raise UnsupportedError(f"{path}: {_other_zip(members)}")
    root = roots[0] + "/"
    outside = [name for name in members if not name.startswith(root)]
    if outside:
        raise CorruptError(
            f"{path}: {outside[0]!r} lies outside of {root!r}, where torch keeps everything. "
            "The archive was put together by hand; get it again from its source.",
            faults=[f"{name!r} lies outside of {root!r}" for name in outside],
        )
    inside = {name.removeprefix(root): member for name, member in members.items()}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise UnsupportedError(
            f"{path}: is a TorchScript program, not a checkpoint. Load it with torch.jit where you "
            "trust it, and save its state_dict() as .safetensors."
        )
    return inside


def _other_zip(members: Mapping[str, Member]) -> str:
    if any(name.endswith(".npy") for name in members):
        return "is a numpy .npz archive. Save its arrays with safetensors.numpy.save_file."
    if "[Content_Types].xml" in members:
        return "is an office document, not a checkpoint."
    if any(n.endswith((".safetensors", ".ckpt", ".pt", ".pth")) for n in members):
        return "is a zip archive with a checkpoint in it. Unpack it first."
    return "is a zip archive without a data.pkl, so not a torch checkpoint. Look inside it first."


def _notes(contents: Contents, rules: TorchRules, views: Mapping[str, TensorView]) -> list[str]:
    notes = []
    if contents.training:
        notes.append(
            f"{len(contents.training)} tensors are training state (such as "
            f"{contents.training[0]!r}), not part of the model."
        )
    if contents.other:
        notes.append(f"Other content without tensors: {_few(contents.other)}.")
    if rules.inert:
        notes.append(f"Harmless names kept as data: {', '.join(sorted(rules.inert))}.")
    if rules.left_out:
        kinds = ", ".join(sorted(set(rules.left_out)))
        notes.append(
            f"{len(rules.left_out)} tensors that memcard cannot read are left out: {kinds}."
        )
    tied = [f"Share one storage (tied weights): {_few(group)}." for group in aliases(views)]
    return notes + tied


def _few(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


class _TorchSink(PlannedSink):
    """Plans the archive from the specs; the suffix decides what is around the state dict."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, self._layout, lambda sink, _: write_checksums(sink, self._slots))

    def _layout(self, specs: Specs, metadata: Mapping[str, str]) -> Plan:
        bad = [f"{name!r} is {spec}" for name, spec in specs.items() if not can_store(spec)]
        bad += [
            f"the text {text[:40]!r}" for text in (*specs, *chain(*metadata.items())) if _odd(text)
        ]
        if bad:
            raise UnsupportedError(
                f"{self.path}: torch cannot hold {'; '.join(bad[:5])}. Write .safetensors instead.",
                faults=bad,
            )
        bare = self.path.suffix.lower() in BARE_SUFFIXES
        if bare and metadata:
            note = (
                f"A bare {self.path.suffix} state dict has no place for metadata; "
                f"{len(metadata)} entries were left out. A .ckpt keeps them."
            )
            self.notes = (note,)
        keys = {name: str(i) for i, name in enumerate(specs)}
        program = state_dict_program(specs, keys, None if bare else metadata)
        small = {
            f"{_ROOT}/data.pkl": program,
            f"{_ROOT}/byteorder": b"little",
            f"{_ROOT}/version": b"3\n",
        }
        tensors = {name: f"{_ROOT}/data/{key}" for name, key in keys.items()}
        members = [(name, len(content)) for name, content in small.items()]
        members += [(tensors[name], spec.nbytes) for name, spec in specs.items()]
        self._slots = lay_out(members)
        return plan(self._slots, small, tensors)


def _odd(text: str) -> bool:
    """Whether the text has half a surrogate pair, which UTF-8 cannot hold."""
    return any("\ud800" <= char <= "\udfff" for char in text)


TITLE = "a torch zip file"
SUFFIXES = (".ckpt", ".pt", ".pth")
BARE_SUFFIXES = (".pt", ".pth")


class _Format:
    title = TITLE
    suffixes = SUFFIXES
    source = "https://github.com/pytorch/pytorch (2.13, torch/serialization.py)"

    def sniff(self, head: bytes) -> bool:
        """A zip archive; which kind shows only its directory."""
        return head.startswith(b"PK\x03\x04")

    def sniff_folder(self, names: frozenset[str]) -> bool:
        """Never: this format is one file."""
        return False

    def open(self, path: Path, *, salvage: bool = False) -> TorchZip:
        """Read the directory and interpret the program."""
        with Source(path) as source:
            return TorchZip(source)

    def create(self, path: Path) -> PlannedSink:
        """Return a sink that writes what ``torch.load(weights_only=True)`` reads."""
        return _TorchSink(path)


PLUGIN = _Format()
