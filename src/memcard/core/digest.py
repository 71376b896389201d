"""Digests by which the ecosystem knows a file.

sha256 names a file on Civitai, Hugging Face and in A1111 (which shows its first 10 digits, AutoV2).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from memcard.core.progress import Listener, Progress, silent

CHUNK = 8 << 20


def sha256_file(path: Path, progress: Listener = silent) -> str:
    """Return the SHA-256 of a whole file in hex; memory stays at 8 MiB."""
    digest, total, done = hashlib.sha256(), path.stat().st_size, 0
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while n := file.readinto(buffer):
            digest.update(view[:n])
            done += n
            progress(Progress("sha256", done, total))
    return digest.hexdigest()


def digests_file(
    path: Path, *, data_offset: int | None = None, progress: Listener = silent
) -> dict[str, str]:
    """Return the digests by which a file is known, from one read; memory stays at 8 MiB.

    Args:
        path: the file.
        data_offset: where the tensors of a safetensors file begin; adds ``autov3``, which stays the
            same when the header is edited.
        progress: hears how far it is.

    Returns:
        ``sha256`` in hex, ``autov2`` (its first 10 digits), ``autov3`` (12 digits of the SHA-256 of
        everything after the header).
    """
    whole, tail = hashlib.sha256(), hashlib.sha256()
    total, done = path.stat().st_size, 0
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while n := file.readinto(buffer):
            whole.update(view[:n])
            if data_offset is not None and done + n > data_offset:
                tail.update(view[max(0, data_offset - done) : n])
            done += n
            progress(Progress("sha256", done, total))
    found = {"sha256": whole.hexdigest(), "autov2": whole.hexdigest()[:10]}
    if data_offset is not None:
        found["autov3"] = tail.hexdigest()[:12]
    return found
