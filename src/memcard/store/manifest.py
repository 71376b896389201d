"""What one version of one checkpoint is made of; immutable, and named by the SHA-256 of its canonical JSON.

On the disk it lies in the short form (``_manifest_short``); memcard 0.1 wrote the canonical JSON itself, which
is read for ever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from memcard.core.tensors import Spec, Specs
from memcard.errors import (
    CorruptError,
    IntegrityError,
    MemcardError,
    NotFoundError,
    UnsupportedError,
)
from memcard.store._manifest_short import Row, dtype_named, head_of, restored, shortened
from memcard.store.canonical import Fields, from_bytes, is_digest, read_bytes, to_bytes
from memcard.store.layout import Layout, raise_version
from memcard.store.writer import Writer

VERSION: Final = 1
_ID: Final = 64  # hex digits
_QUOTE: Final = json.JSONEncoder(ensure_ascii=True).encode
_KEYS: Final = ("name", "dtype", "shape", "file", "at", "blake3")  # of a tensor, as in ``Row``


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The bytes of a file that are no values of tensors.

    Attributes:
        blake3: their digest.
        size: how many they are.
        stored: whether the library keeps them.
    """

    blake3: str
    size: int
    stored: bool


@dataclass(frozen=True, slots=True)
class File:
    """One file of a checkpoint. ``name`` is empty for the only one, else a path below its folder."""

    name: str
    sha256: str
    size: int
    skeleton: Skeleton


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where the values of a tensor lie.

    Attributes:
        spec: dtype and shape.
        file: index into the files of the manifest.
        at: offset in that file; None if the values do not lie there as they are.
        blake3: of the values; None without ``at``, and where tensors overlap in part.
    """

    spec: Spec
    file: int
    at: int | None
    blake3: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """See ``docs/spec/library.md``; every attribute is described there."""

    digests: Mapping[str, str]
    format: str
    files: tuple[File, ...]
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    kind: str = "unknown"
    architecture: str | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """The digest by which people know the checkpoint."""
        return self.digests["sha256"]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def specs(self) -> Specs:
        """Name to dtype and shape, in file order."""
        return {name: tensor.spec for name, tensor in self.tensors.items()}

    @property
    def is_folder(self) -> bool:
        """Whether it is several files, or one in a folder."""
        return len(self.files) != 1 or self.files[0].name != ""

    def head(self) -> dict[str, Any]:
        """Return the JSON object of the specification without its tensors."""
        return {
            "manifest": VERSION,
            "digests": dict(self.digests),
            "format": self.format,
            "files": [_file_json(file) for file in self.files],
            "metadata": dict(self.metadata),
            "kind": self.kind,
            "architecture": self.architecture,
            "made_by": dict(self.made_by),
            "parents": list(self.parents),
            "card": dict(self.card),
            "notes": list(self.notes),
        }

    def to_bytes(self) -> bytes:
        """Return the canonical JSON, whose SHA-256 is the id."""
        return _canonical(self.head(), self.tensors)


def folder_digest(files: tuple[File, ...]) -> str:
    """Return the SHA-256 that stands for several files: of their digests, sizes and names."""
    lines = "".join(f"{file.sha256} {file.size} {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def put(writer: Writer, manifest: Manifest) -> str:
    """Store a manifest; return its id. Storing it twice is free.

    A library of an older version becomes one of this version first, so that a memcard that does not know the
    short form refuses it and does not miss what it cannot see.
    """
    layout, raw = writer.layout, manifest.to_bytes()
    name = hashlib.sha256(raw).hexdigest()
    if _is_there(layout, name):
        return name
    short = shortened(manifest.head(), [_row(n, t) for n, t in manifest.tensors.items()])
    if short is None:
        writer.keep(layout.manifest(name), raw)
    else:
        raise_version(layout)
        writer.keep(layout.short_manifest(name), short)
    return name


def _is_there(layout: Layout, name: str) -> bool:
    """Whether the facts of this id are there and whole, in either form."""
    try:
        get(layout, name)
    except (MemcardError, OSError):
        return False
    return True


def path_of(layout: Layout, name: str) -> Path:
    """Return the file of a manifest, in whichever form it is there; where it would be if it is not."""
    short, plain = layout.short_manifest(name), layout.manifest(name)
    return plain if plain.is_file() and not short.is_file() else short


def every(layout: Layout) -> Iterator[str]:
    """Yield the ids of all manifests that are there, in order, each once."""
    found = layout.shelf("manifests").glob("[0-9a-f][0-9a-f]/*")
    names = {path.stem for path in found if path.suffix in (".json", ".zst")}
    yield from sorted(name for name in names if len(name) == _ID)


def get(layout: Layout, name: str) -> Manifest:
    """Return the manifest of this id.

    Raises:
        NotFoundError: it is not in the library.
        IntegrityError: its bytes are not those it was named by.
        UnsupportedError: a newer memcard wrote it.
        CorruptError: it is not what the specification says.
    """
    path = path_of(layout, name)
    raw, found = _read(path), None
    if path.suffix == ".zst":
        head, rows = restored(raw, path)
        found = _parsed(head, rows, path)
        raw = _canonical(head, found.tensors)
    if (digest := hashlib.sha256(raw).hexdigest()) != name:
        raise IntegrityError(
            f"{path}: its SHA-256 is {digest}; the disk gave back other bytes than were stored. Add the "
            "checkpoint again to have it written anew."
        )
    return parse(raw, path) if found is None else found


def outline(layout: Layout, name: str) -> dict[str, Any]:
    """Return the JSON object of a manifest without its tensors, five times as fast as ``get``.

    That it is the manifest of this id is not checked, nor what its values are.

    Raises:
        NotFoundError, UnsupportedError, CorruptError: as ``get``.
    """
    path = path_of(layout, name)
    raw = _read(path)
    if path.suffix == ".zst":
        return head_of(raw, path)
    head = from_bytes(raw, path)
    head.pop("tensors", None)
    return head


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise NotFoundError(
            f"{path}: the library lacks this manifest. Add the file again (`memcard add`), or look in "
            "the trash (`memcard undo --list`)."
        ) from None


def parse(raw: bytes, path: Path) -> Manifest:
    """Return the manifest in ``raw``, its canonical JSON; ``path`` is for messages.

    Raises:
        UnsupportedError, CorruptError: as ``get``.
    """
    head = from_bytes(raw, path)
    tensors = Fields(head, str(path)).list("tensors")
    return _parsed(head, [_row_of(found, str(path)) for found in tensors], path)


def _parsed(head: dict[str, Any], rows: list[Row], path: Path) -> Manifest:
    fields = Fields(head, str(path))
    if (version := fields.number("manifest")) > VERSION:
        raise UnsupportedError(
            f"{path}: is a manifest of version {version}; this memcard knows {VERSION}. "
            "Upgrade it: pip install --upgrade memcard."
        )
    files = tuple(_file(found, str(path)) for found in fields.list("files"))
    tensors = _tensors(rows, files, str(path))
    digests = fields.text_mapping("digests")
    if "sha256" not in digests or not files or len(tensors) != len(rows):
        raise CorruptError(f"{path}: has no SHA-256, no file, or two tensors of one name.")
    return Manifest(
        digests=digests,
        format=fields.text("format"),
        files=files,
        tensors=tensors,
        metadata=fields.text_mapping("metadata"),
        kind=fields.text("kind", "unknown"),
        architecture=fields.maybe_text("architecture"),
        made_by=fields.mapping("made_by"),
        parents=fields.texts("parents"),
        card=fields.mapping("card"),
        notes=fields.texts("notes"),
    )


def _file_json(file: File) -> dict[str, Any]:
    bones = file.skeleton
    skeleton = {"blake3": bones.blake3, "size": bones.size, "stored": bones.stored}
    return {"name": file.name, "sha256": file.sha256, "size": file.size, "skeleton": skeleton}


def _canonical(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return ``to_bytes({**head, "tensors": [...]})``, in half the time: it is made for each that is read."""
    ends: dict[Spec, str] = {}
    rows = list[str]()
    for name, tensor in tensors.items():
        spec, at = tensor.spec, "null" if tensor.at is None else tensor.at
        blake3 = "null" if tensor.blake3 is None else f'"{tensor.blake3}"'
        if spec not in ends:
            ends[spec] = ",".join(map(str, spec.shape))
        rows.append(
            f'{{"at":{at},"blake3":{blake3},"dtype":"{spec.dtype.name}","file":{tensor.file},'
            f'"name":{_QUOTE(name)},"shape":[{ends[spec]}]}}'
        )
    before = to_bytes({key: value for key, value in head.items() if key < "tensors"})
    after = to_bytes({key: value for key, value in head.items() if key > "tensors"})
    text = f',"tensors":[{",".join(rows)}]'.encode("ascii")
    return before[:-2] + text + (b"}\n" if after == b"{}\n" else b"," + after[1:])


def _row(name: str, tensor: Tensor) -> Row:
    spec = tensor.spec
    return name, spec.dtype.name, list(spec.shape), tensor.file, tensor.at, tensor.blake3


def _row_of(found: object, where: str) -> Row:
    if not isinstance(found, dict):
        raise CorruptError(f"{where}: a tensor is no JSON object.")
    get = found.get
    name, dtype, shape, file, at, blake3 = _KEYS
    return get(name), get(dtype), get(shape), get(file), get(at), get(blake3)


def _file(found: object, where: str) -> File:
    fields = Fields(found, where)
    bones = Fields(fields.mapping("skeleton"), f"{where}, skeleton")
    name = fields.text("name")
    if not _is_inside(name):
        raise CorruptError(f"{where}: names the file {name[:80]!r}, which leads out of its folder.")
    return File(
        name,
        fields.digest("sha256"),
        fields.number("size"),
        Skeleton(bones.digest("blake3"), bones.number("size"), bones.flag("stored")),
    )


def _is_inside(name: str) -> bool:
    """Whether a name is empty or a plain relative path, on every system."""
    parts = name.split("/")
    if set(name) & set("\\:\0") or name.startswith("/"):
        return False
    return name == "" or all(part not in ("", ".", "..") for part in parts)


def _tensors(rows: list[Row], files: tuple[File, ...], where: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    known: dict[tuple[object, ...], tuple[Spec, int]] = {}  # a checkpoint has few of them
    for row in rows:
        name, dtype, shape, file, at, blake3 = row
        if not _is_lawful(row):
            raise CorruptError(f"{where}: a tensor is {str(row)[:120]}, which none can be.")
        key = (dtype, *shape)
        if key not in known:
            spec = Spec(dtype_named(dtype, where), tuple(shape))
            known[key] = spec, spec.nbytes
        spec, size = known[key]
        if file >= len(files) or (at is not None and at + size > files[file].size):
            raise CorruptError(f"{where}: {name[:80]!r} lies outside of its file.")
        tensors[name] = Tensor(spec, file, at, blake3)
    return tensors


def _is_lawful(row: Row) -> bool:
    """Whether the values of a tensor are of the types of the specification."""
    name, dtype, shape, file, at, blake3 = row
    return (
        type(name) is str
        and type(dtype) is str
        and type(shape) is list
        and (not shape or (set(map(type, shape)) == {int} and min(shape) >= 0))
        and type(file) is int
        and file >= 0
        and (at is None or (type(at) is int and at >= 0))
        and (blake3 is None or (type(blake3) is str and is_digest(blake3)))
    )
