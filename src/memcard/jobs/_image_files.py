"""From the names and hashes in a picture to files: in the library, the starter, or beside the picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from memcard.errors import FormatError, IntegrityError
from memcard.generation.image_info import Used, UsedLora, stem
from memcard.jobs._library_refs import stored
from memcard.jobs.digests import data_offset
from memcard.jobs.resolve import known_digests, label, locate, names
from memcard.store import refs
from memcard.store.layout import Layout, exists

_FEWEST: Final = 8  # digits
# AutoV2 and AutoV3 are the first digits of two of them.
_ASKED: Final = ("sha256", "autov1", "tensors_sha256", "blake3")
_ENDINGS: Final = (".safetensors", ".ckpt", ".gguf", ".sft", ".pt")
# What a file of the library may be to be taken by its name alone.
_KINDS: Final = {
    "checkpoint": frozenset({"checkpoint", "denoiser", "delta", "unknown"}),
    "LoRA": frozenset({"lora", "unknown"}),
    "VAE": frozenset({"vae", "checkpoint", "unknown"}),
    "part": frozenset({"text_encoder", "vae", "checkpoint", "unknown"}),
    "embedding": frozenset({"embedding", "unknown"}),
}


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a picture names.

    Attributes:
        ref: what to call it here.
        by: ``hash`` or ``name``.
        architecture: its family; None if it is not known without opening it.
        differs: it has the name, but not the hash.
    """

    ref: str
    by: str
    architecture: str | None = None
    differs: bool = False


@dataclass
class Shelf:
    """Where files are looked for.

    Attributes:
        home: the library; it need not be there.
        folders: where else, not below them; only whole names and, if the picture says one, equal hashes.
    """

    home: Layout
    folders: Sequence[Path] = field(default_factory=tuple)

    @cached_property
    def _stored(self) -> tuple[tuple[refs.Ref, refs.Version], ...]:
        if not exists(self.home):
            return ()
        return tuple((ref, v) for ref in refs.every(self.home, []) for v in ref.versions)

    def find(self, kind: str, used: Used | UsedLora) -> Found | None:
        """Return a file: by its hash, else by its name; None if there is none, or several differ.

        Args:
            kind: ``checkpoint``, ``LoRA``, ``VAE`` or ``embedding``.
            used: what the picture says.
        """
        return self._by_hash(used) or self._by_name(kind, used) or self._in_folders(used)

    def _by_hash(self, used: Used | UsedLora) -> Found | None:
        fits = [
            (ref, version)
            for ref, version in self._stored
            if fit(used.hashes, version.digests.values())
        ]
        if len({version.sha256 for _, version in fits}) > 1:  # AutoV1 is shared by many
            fits = [(ref, version) for ref, version in fits if _called(used, ref, version)]
        if fits and len({version.sha256 for _, version in fits}) == 1:
            fits.sort(key=lambda pair: (pair[1] is not pair[0].version, pair[0].name != used.stem))
            return _of(*fits[0], by="hash")
        for name in names():
            if used.hashes and _is_file(locate(name), used.hashes):
                return Found(name, "hash", "starter")
        return None

    def _by_name(self, kind: str, used: Used | UsedLora) -> Found | None:
        if used.name in names():
            return Found(used.name, "name", "starter", differs=bool(used.hashes))
        fits = [
            (ref, version)
            for ref, version in self._stored
            if version is ref.version
            and version.kind in _KINDS[kind]
            and _called(used, ref, version)
        ]
        if len({version.sha256 for _, version in fits}) != 1:
            return None
        return _of(*fits[0], by="name", differs=bool(used.hashes))

    def _in_folders(self, used: Used | UsedLora) -> Found | None:
        for path in _files(used.name, self.folders):
            if not used.hashes:
                return Found(str(path), "name")
            if _is_file(path, used.hashes):
                return Found(str(path), "hash")
        return None


def fit(hashes: Iterable[str], digests: Iterable[str]) -> bool:
    """Whether one of the hashes is one of the digests, as far as both go."""
    return any(
        len(digits) >= _FEWEST and len(known) >= _FEWEST
        and (known.startswith(digits) or digits.startswith(known))
        for known in digests
        for digits in hashes
    )  # fmt: skip


def digests_at(ref: str | Path) -> tuple[str, ...]:
    """Return the digests of a checkpoint that pictures name it by; reads a file that is not known yet.

    Raises:
        NotFoundError: nothing has this name.
        IntegrityError: the file changed while it was read.
    """
    if (kept := stored(ref)) is not None:
        return tuple(kept[2].digests.values())
    path = locate(ref)
    if path.is_dir():
        return ()  # no tool names a folder by a hash
    found = known_digests().digests(path, only=_ASKED, data_offset=data_offset(path))
    return tuple(found.values())


def short_digests(ref: str | Path) -> tuple[str, str]:
    """Return the SHA-256 of a LoRA and what A1111 names it by: the digest of what follows its header.

    A .ckpt has no such header, so the whole file counts.
    """
    if (kept := stored(ref)) is not None:
        found = kept[2].digests
    else:
        path = locate(ref)
        found = known_digests().digests(
            path, only=("sha256", "autov3"), data_offset=data_offset(path)
        )
    return found["sha256"], found.get("autov3", found["sha256"][:12])


def stems_of(ref: str | Path) -> frozenset[str]:
    """Return what people may call a checkpoint, in lower case."""
    return frozenset(stem(name).casefold() for name in (str(ref), label(str(locate(ref)))))


def _is_file(path: Path, hashes: Sequence[str]) -> bool:
    try:
        return fit(hashes, digests_at(path))
    except (OSError, FormatError, IntegrityError):
        return False


def _called(used: Used | UsedLora, ref: refs.Ref, version: refs.Version) -> bool:
    wanted = used.stem.casefold()
    return wanted in (stem(name).casefold() for name in (ref.name, version.origin))


def _of(ref: refs.Ref, version: refs.Version, *, by: str, differs: bool = False) -> Found:
    name = ref.name if version is ref.version else f"{ref.name}@{version.sha256[:8]}"
    return Found(name, by, version.architecture, differs)


def _files(name: str, folders: Sequence[Path]) -> Iterator[Path]:
    """Yield files of this name in the folders; no folder of a stranger's name is followed."""
    plain = name.replace("\\", "/").rpartition("/")[2]
    if plain in ("", ".", "..") or "\0" in plain:
        return
    endings = ("",) if Path(plain).suffix in _ENDINGS else ("", *_ENDINGS)
    for folder in folders:
        for ending in endings:
            path = folder / f"{plain}{ending}"
            try:
                if path.is_file():
                    yield path
            except OSError:  # a name too long
                return
