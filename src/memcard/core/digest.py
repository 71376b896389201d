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
