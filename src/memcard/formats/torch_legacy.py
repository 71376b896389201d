"""torch's files from before 1.6 (and ``_use_new_zipfile_serialization=False``): five pickles, then bytes.

A magic number, a version, what the writer's machine was like, the object, the list of storage keys; then for
each key its number of elements and its values. All are interpreted as data (``memcard.unpickle``).

The values are little-endian on every machine: torch's writer turns them around on a big-endian one, and
its reader ignores what the third pickle says. Only the counts were once written as the machine has them.

Source: torch 2.13 ``torch/serialization.py`` (``_legacy_load``), ``torch/csrc/serialization.cpp``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from memcard.core.limits import DEFAULT
from memcard.errors import CorruptError, UnsafeError, UnsupportedError
from memcard.formats._source import Source, suffix_note
from memcard.formats._torch_file import Place, TorchFile
from memcard.formats._torch_notes import torch_notes
from memcard.unpickle.findings import Findings
from memcard.unpickle.machine import Machine
from memcard.unpickle.nodes import Storage, Value, short, shown
from memcard.unpickle.torch_dtypes import item_bytes
from memcard.unpickle.torch_rebuild import TorchRules
from memcard.unpickle.tree import flatten

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
_MAGIC_LONG = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")
_MAGIC_TEXT = b"L%dL\n." % MAGIC  # protocols 0 and 1
_FIRST_READ = 1 << 20  # programs of 8,000 tensors; longer ones are read again, 8 times as much
_COUNT = 8  # bytes before each storage

TITLE = "a torch file from before 1.6"
_SUFFIXES = (".ckpt", ".pt", ".pth")


class TorchLegacy(TorchFile):
    """An open file; its programs were read and its storages found, no tensor was read."""

    format = "torch_legacy"

    def __init__(self, source: Source, *, salvage: bool = False) -> None:
        path = str(source.path)
        findings = Findings(path)
        programs = _Programs(source, findings, salvage=salvage)
        root, keys, little = _five(programs)
        places: Mapping[str, Place] = {}
        if not programs.broken:
            places = _storages(source, programs, keys, little=little)
        findings.raise_any(salvage=salvage)
        contents = flatten(root, path)
        notes = (
            *suffix_note(source.path, TITLE, _SUFFIXES),
            *(() if little else (_BIG_ENDIAN,)),
            *torch_notes(contents, programs.rules, findings),
        )
        super().__init__(source, contents, places, notes)


_BIG_ENDIAN = (
    "Written on a big-endian machine. Files of this format hold little-endian values all the same, and are "
    "read so, as torch does."
)


class _Programs:
    """The programs at the start of the file, run one after the other; what is wrong is collected."""

    def __init__(self, source: Source, findings: Findings, *, salvage: bool) -> None:
        self.source = source
        self.findings = findings
        self.salvage = salvage
        self.rules = TorchRules()
        self.at = 0  # in the file, after the last program
        self.broken = False  # nothing can be read behind it
        self._code = source.bytes(0, _FIRST_READ)

    def next(self, *, is_object: bool = False) -> Value:
        """Run the next program and return what it built; None if one before was broken.

        Raises:
            UnsupportedError: it is longer than the limit.
        """
        while not self.broken:
            rules = TorchRules()
            machine = Machine(
                *(self._code, str(self.source.path), rules), start=self.at, salvage=self.salvage
            )
            root: Value = None
            with suppress(UnsafeError, CorruptError):
                root = machine.run_next().root
            if machine.read.ended and self._read_more():
                continue
            self.findings.merge(machine.findings)
            self.broken = bool(machine.findings.faults)
            self.at = machine.read.pos
            if is_object:
                self.rules = rules
            return root
        return None

    def _read_more(self) -> bool:
        size = len(self._code)
        if size >= self.source.size:
            return False
        if size >= DEFAULT.pickle_bytes:
            raise UnsupportedError(
                f"{self.source.path}: its pickle program is longer than {DEFAULT.pickle_bytes} bytes. "
                "Save only the state dict, or write .safetensors."
            )
        self._code = self.source.bytes(0, min(8 * size, DEFAULT.pickle_bytes))
        return True


def _five(programs: _Programs) -> tuple[Value, Value, bool]:
    """Run all five; return the object, the keys, and whether the writer's machine was little-endian."""
    faults = programs.findings.faults
    for what, right in (("magic number", MAGIC), ("version", VERSION)):
        found = programs.next()
        if not programs.broken and (type(found) is not int or found != right):
            faults.append(f"the {what} is {short(found)}, not {right}")
    system = programs.next()
    little = system.get("little_endian", True) if isinstance(system, dict) else None
    if not programs.broken and not isinstance(little, bool):
        faults.append(f"the third of five pickles has {short(little)} as little_endian, not a bool")
    root = programs.next(is_object=True)
    return root, programs.next(), little is not False


def _storages(
    source: Source, programs: _Programs, keys: Value, *, little: bool
) -> dict[str, Place]:
    """Walk from storage to storage; return where each lies."""
    faults, known = programs.findings.faults, programs.rules.storages
    places: dict[str, Place] = {}
    at = programs.at
    for storage in _in_order(keys, known, faults):
        item = item_bytes(storage.dtype) if storage.dtype else 1
        raw, key = source.bytes(at, _COUNT), shown(storage.key)
        at += _COUNT
        told = {int.from_bytes(raw, "little", signed=True)}
        if not little:
            told.add(int.from_bytes(raw, "big", signed=True))
        if len(raw) == _COUNT and storage.nbytes // item not in told:
            faults.append(f"storage {key!r} has {min(told)} elements, not {storage.nbytes // item}")
            return places
        if at + storage.nbytes > source.size:
            faults.append(
                f"the file ends at byte {source.size}, inside of storage {key!r}, which ends at byte "
                f"{at + storage.nbytes}"
            )
            return places
        places[storage.key] = Place(at, storage.nbytes)
        at += storage.nbytes
    if at != source.size and not faults:
        faults.append(f"{source.size - at} bytes follow the last storage")
    return places


def _in_order(keys: Value, known: Mapping[str, Storage], faults: list[str]) -> Iterator[Storage]:
    """Yield the storages in the order of the list, up to the first fault of it."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        faults.append(f"the last of five pickles is {short(keys)}, not a list of storage keys")
        return
    missing = known.keys() - set(keys)
    faults += [f"storage {shown(key)!r} is missing" for key in known if key in missing]
    seen = set[str]()
    for key in keys:
        if key in seen or key not in known:
            what = "is there twice" if key in seen else "belongs to no tensor"
            faults.append(f"storage {shown(key)!r} {what}")
            return
        seen.add(key)
        yield known[key]


class _Format:
    title = TITLE
    suffixes: tuple[str, ...] = ()  # nothing is written in it
    source = "https://github.com/pytorch/pytorch (2.13, torch/serialization.py, _legacy_load)"

    def sniff(self, head: bytes) -> bool:
        """The magic number, as any pickle protocol writes it."""
        return _MAGIC_LONG in head[:32] or head.startswith(_MAGIC_TEXT)

    def sniff_folder(self, names: frozenset[str]) -> bool:
        """Never: this format is one file."""
        return False

    def open(self, path: Path, *, salvage: bool = False) -> TorchLegacy:
        """Interpret the five programs and walk over the storages."""
        with Source(path) as source:
            return TorchLegacy(source, salvage=salvage)

    def create(self, path: Path) -> NoReturn:
        """Refuse: torch itself no longer writes it.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"{path}: the format from before torch 1.6 is only read. Write .safetensors or .ckpt."
        )


PLUGIN = _Format()
