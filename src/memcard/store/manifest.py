"""What one version of one checkpoint is made of; immutable, and named by the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from memcard.core.tensors import DTYPES, QUANTIZED, DType, Spec, Specs
from memcard.errors import CorruptError, IntegrityError, NotFoundError, UnsupportedError
from memcard.store.canonical import Fields, from_bytes, read_bytes, to_bytes
from memcard.store.layout import Layout
from memcard.store.writer import Writer

VERSION: Final = 1


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

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return to_bytes(
            {
                "manifest": VERSION,
                "digests": dict(self.digests),
                "format": self.format,
                "files": [_file_json(file) for file in self.files],
                "tensors": [_tensor_json(n, t) for n, t in self.tensors.items()],
                "metadata": dict(self.metadata),
                "kind": self.kind,
                "architecture": self.architecture,
                "made_by": dict(self.made_by),
                "parents": list(self.parents),
                "card": dict(self.card),
                "notes": list(self.notes),
            }
        )


def folder_digest(files: tuple[File, ...]) -> str:
    """Return the SHA-256 that stands for several files: of their digests, sizes and names."""
    lines = "".join(f"{file.sha256} {file.size} {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def put(writer: Writer, manifest: Manifest) -> str:
    """Store a manifest; return its id. Storing it twice is free."""
    raw = manifest.to_bytes()
    name = hashlib.sha256(raw).hexdigest()
    writer.keep(writer.layout.manifest(name), raw)
    return name


def get(layout: Layout, name: str) -> Manifest:
    """Return the manifest of this id.

    Raises:
        NotFoundError: it is not in the library.
        IntegrityError: its bytes are not those it was named by.
        UnsupportedError: a newer memcard wrote it.
        CorruptError: it is not what the specification says.
    """
    path = layout.manifest(name)
    try:
        raw = read_bytes(path)
    except FileNotFoundError:
        raise NotFoundError(
            f"{path}: the library lacks this manifest. Add the file again (`memcard add`), or look in "
            "the trash (`memcard undo --list`)."
        ) from None
    if (found := hashlib.sha256(raw).hexdigest()) != name:
        raise IntegrityError(
            f"{path}: its SHA-256 is {found}; the disk gave back other bytes than were stored. Add the "
            "checkpoint again to have it written anew."
        )
    return parse(raw, path)


def parse(raw: bytes, path: Path) -> Manifest:
    """Return the manifest in ``raw``; ``path`` is for messages.

    Raises:
        UnsupportedError, CorruptError: as ``get``.
    """
    fields = Fields(from_bytes(raw, path), str(path))
    if (version := fields.number("manifest")) > VERSION:
        raise UnsupportedError(
            f"{path}: is a manifest of version {version}; this memcard knows {VERSION}. "
            "Upgrade it: pip install --upgrade memcard."
        )
    files = tuple(_file(found, str(path)) for found in fields.list("files"))
    tensors: dict[str, Tensor] = {}
    for found in fields.list("tensors"):
        name, tensor = _tensor(found, files, str(path))
        tensors[name] = tensor
    digests = fields.text_mapping("digests")
    if "sha256" not in digests or not files or len(tensors) != len(fields.list("tensors")):
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


def _tensor_json(name: str, tensor: Tensor) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": tensor.spec.dtype.name,
        "shape": list(tensor.spec.shape),
        "file": tensor.file,
        "at": tensor.at,
        "blake3": tensor.blake3,
    }


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


def _tensor(found: object, files: tuple[File, ...], where: str) -> tuple[str, Tensor]:
    fields = Fields(found, where)
    name = fields.text("name")
    shape = fields.list("shape")
    file, at = fields.number("file"), fields.maybe_number("at")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise CorruptError(f"{where}: {name[:80]!r} has the shape {str(shape)[:60]}.")
    spec = Spec(_dtype(fields.text("dtype"), where), tuple(shape))
    if file >= len(files) or (at is not None and at + spec.nbytes > files[file].size):
        raise CorruptError(f"{where}: {name[:80]!r} lies outside of its file.")
    blake3 = None if fields.maybe_text("blake3") is None else fields.digest("blake3")
    return name, Tensor(spec, file, at, blake3)


def _dtype(name: str, where: str) -> DType:
    found = DTYPES.get(name) or QUANTIZED.get(name)
    if found is None:
        raise UnsupportedError(
            f"{where}: has a tensor of dtype {name[:40]!r}, which this memcard does not know. "
            "Upgrade it: pip install --upgrade memcard."
        )
    return found
