"""The SHA-256 a picture names a checkpoint by, whether it is one file or a folder of several."""

from __future__ import annotations

import hashlib
from pathlib import Path

from memcard.jobs.digests import files_of
from memcard.jobs.resolve import digest, known_digests, locate


def sha256_of(ref: str | Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of the names and digests of all its files."""
    path = locate(ref)
    if not path.is_dir():
        return digest(path)
    found = [
        f"{file.relative_to(path).as_posix()} {known_digests().sha256(file)}"
        for file in files_of(path)
    ]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()
