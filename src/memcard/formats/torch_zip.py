"""torch's zip files: ``.ckpt``, ``.pt``, ``.pth`` as ``torch.save`` writes them since 1.6.

The pickle inside is interpreted as data (``memcard.unpickle``); nothing is imported or called.
A ``.ckpt`` is written as ``{"state_dict": …, "memcard_metadata": {…}}``, a ``.pt`` or ``.pth`` as the
bare state dict, which has no place for metadata.

Source: torch 2.13 ``torch/serialization.py``, ``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path

from memcard.core.limits import DEFAULT
from memcard.core.tensors import Specs
from memcard.errors import CorruptError, UnsafeError, UnsupportedError
from memcard.formats._bare_pickle import hostile
from memcard.formats._planned import Plan, PlannedSink
from memcard.formats._source import Source, suffix_note
from memcard.formats._torch_file import Place, TorchFile
from memcard.formats._torch_members import inside_root, judge_inside, member_notes
from memcard.formats._torch_notes import torch_notes
from memcard.formats._zip import Member, ZipReader
from memcard.formats._zip_content import content, local_programs
from memcard.formats._zip_layout import lay_out, plan, write_checksums
from memcard.unpickle.emit import can_store, state_dict_program
from memcard.unpickle.findings import Findings
from memcard.unpickle.machine import Machine
from memcard.unpickle.nodes import Value, shown
from memcard.unpickle.torch_rebuild import TorchRules
from memcard.unpickle.tree import flatten

_ROOT = (
    "archive"  # torch's own name for a nameless file; the same bytes whatever the file is called
)


class TorchZip(TorchFile):
    """An open torch zip file; its directory and its program were read, no tensor."""

    format = "torch_zip"

    def __init__(self, source: Source, *, salvage: bool = False) -> None:
        path = str(source.path)
        findings = Findings(path)
        members = inside_root(source, _members(source), findings)
        swap = _byteorder(source, members, findings) == "big"
        rules, note = TorchRules(), list[str]()
        root: Value = None
        try:
            code = _program(source, members["data.pkl"])
        except CorruptError as error:
            findings.add(error)
        else:
            if zlib.crc32(code) != members["data.pkl"].crc:
                note = ["The checksum of data.pkl does not match; torch can be told to write none."]
            machine = Machine(code, f"{path} (data.pkl)", rules, salvage=salvage)
            with suppress(UnsafeError, CorruptError):
                root = machine.run().root
            findings.merge(machine.findings)
            if machine.findings.faults and not findings.asked and (more := hostile(code, path)):
                findings.add(more)  # a second program, behind the end of the first
        judge_inside(source, members, rules.storages, findings)
        places = _storages(members, rules, findings)
        findings.raise_any(salvage=salvage)
        contents = flatten(root, path)
        notes = (
            *suffix_note(source.path, TITLE, SUFFIXES),
            *note,
            *member_notes(members, rules.storages),
            *torch_notes(contents, rules, findings),
        )
        super().__init__(source, contents, places, notes, swap=swap)


def _members(source: Source) -> Mapping[str, Member]:
    """Return the members; a damaged archive is unsafe if what is left of it asks for code.

    Raises:
        UnsafeError, CorruptError, UnsupportedError: see ``ZipReader``.
    """
    try:
        return ZipReader(source).members
    except (CorruptError, UnsupportedError) as error:
        findings = Findings(str(source.path))
        for code in local_programs(source):
            if found := hostile(code, str(source.path)):
                findings.add(found)
        if not findings.asked:
            raise
        findings.add(error)
        raise findings.unsafe() from error


def _byteorder(source: Source, members: Mapping[str, Member], findings: Findings) -> str:
    member = members.get("byteorder")
    if member is None:
        return "little"
    order = content(source, member, 16)
    if order not in (b"little", b"big"):
        findings.faults.append(f"byteorder is {order!r}, neither little nor big")
    return order.decode("latin-1")


def _program(source: Source, member: Member) -> bytes:
    most = DEFAULT.inflated_program_bytes if member.deflated else DEFAULT.pickle_bytes
    if member.size > most:
        raise UnsupportedError(
            f"{source.path}: its pickle program has {member.size} bytes; the limit is {most}. "
            "Save only the state dict, or write .safetensors."
        )
    return content(source, member, most)


def _storages(
    members: Mapping[str, Member], rules: TorchRules, findings: Findings
) -> dict[str, Place]:
    """Return where each storage lies, after comparing what the program and the archive say of it."""
    places = {}
    for key, storage in rules.storages.items():
        member = members.get(f"data/{key}")
        if member is None:
            findings.faults.append(f"storage {shown(key)!r} is missing")
        elif member.size != storage.nbytes:
            findings.faults.append(
                f"storage {shown(key)!r} has {member.size} bytes, not {storage.nbytes}"
            )
        else:
            packed = member.packed if member.deflated else None
            places[key] = Place(member.offset, member.size, packed)
    return places


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
            return TorchZip(source, salvage=salvage)

    def create(self, path: Path) -> PlannedSink:
        """Return a sink that writes what ``torch.load(weights_only=True)`` reads."""
        return _TorchSink(path)


PLUGIN = _Format()
