"""What the bytes of plain files are, where the library knows it: for weights that are kept by content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from memcard.core.checkpoint import Extent
from memcard.core.identity import CONTENT, by_place
from memcard.errors import MemcardError
from memcard.store import manifest as manifests
from memcard.store import places
from memcard.store.layout import Layout, default_home, exists

_DIGITS = 64


class Contents:
    """Tells what an extent is; remembers what it found about each file.

    A tensor of a file that the library knows, and that is as it was when it was added, is known by its BLAKE3:
    the same one under another name, in another file or in a pack is the same.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int, int], Mapping[tuple[int, int], str]] = {}

    def __call__(self, extent: Extent) -> str:
        """Return what the bytes are."""
        stat = extent.path.stat()
        key = extent.path, stat.st_ino, stat.st_size, stat.st_mtime_ns
        if key not in self._known:
            self._known[key] = _digests(extent.path)
        return self._known[key].get((extent.offset, extent.size)) or by_place(extent)


def _digests(path: Path) -> dict[tuple[int, int], str]:
    """Return identities by offset and size; {} for a file the library does not know."""
    try:
        return _recorded(path.absolute())
    except (MemcardError, OSError):
        return {}  # `memcard doctor` is for that


def _recorded(path: Path) -> dict[tuple[int, int], str]:
    home = Layout(default_home())
    if not exists(home):
        return {}
    if path.parent.parent == home.shelf("files"):
        sha256: str | None = path.name
        record = places.get(home, path.name)
    else:
        record = places.unchanged(home, path)
        sha256 = places.known(home, path)
    if record is None or record.manifest is None:
        return {}
    manifest = manifests.get(home, record.manifest)
    return {
        (tensor.at, tensor.spec.nbytes): f"{CONTENT}{tensor.blake3}"
        for tensor in manifest.tensors.values()
        if tensor.at is not None
        and tensor.blake3 is not None
        and manifest.files[tensor.file].sha256 == sha256
    }
