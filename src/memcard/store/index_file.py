"""The file of an index: where it lies, who may write it, and whether it is what was written.

SQLite notices many kinds of damage and overlooks others: a flipped bit in a word is a word that is never
found. So a BLAKE3 of the file lies beside it, and is checked when the index is opened (15 MB: 10 ms).
A writer that was killed leaves a file that no longer fits; then it is built anew from the library.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from memcard.store.index_rows import SCHEMA
from memcard.store.writer import unlock

_CHUNK: Final = 1 << 20
_NAME: Final = re.compile(r"[0-9a-zA-Z-]{1,80}")


class IndexFile:
    """The files of one index.

    Args:
        folder: where they lie; made when it is missing. None: there is no place for them.
        library_id: names them; a library that was copied and got another id has an index of its own.
    """

    def __init__(self, folder: Path | None, library_id: str) -> None:
        if not _NAME.fullmatch(library_id):
            raise ValueError(f"{library_id!r} is no id of a library: letters, digits and - only.")
        self._has_place = folder is not None
        self.path = (folder or Path()) / f"index-{SCHEMA}-{library_id}.sqlite"
        self._sum = self._beside("blake3")
        self._wal = self.path.with_name(f"{self.path.name}-wal")

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{suffix}")

    @contextmanager
    def locked(self, *, alone: bool) -> Iterator[None]:
        """Wait until nobody writes, or with ``alone`` until nobody opens the index either.

        Raises:
            OSError: there is no folder, or it cannot be written to.
        """
        if not self._has_place:
            raise FileNotFoundError(errno.ENOENT, "there is no cache folder")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._beside("lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if (
                os.name != "nt"
            ):  # there a file that is open cannot be replaced, which protects as well
                import fcntl

                fcntl.flock(fd, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            unlock(fd)

    def intact(self) -> bool:
        """Whether the file is, to the last bit, what its last writer left. The lock is held."""
        try:
            return self._sum.read_text("ascii") == self._digest()
        except (OSError, ValueError):
            return False

    def seal(self) -> None:
        """Note what the file is now; nothing is synced, a torn write does not fit and is noticed."""
        new = self._beside("blake3.new")
        new.write_text(self._digest(), "ascii")
        new.replace(self._sum)

    def _digest(self) -> str:
        from blake3 import blake3

        found = blake3()
        logged = (self._wal,) if self._wal.exists() else ()
        for path in (self.path, *logged):
            with path.open("rb") as file:
                while part := file.read(_CHUNK):
                    found.update(part)
        return found.hexdigest()

    @contextmanager
    def replaced(self) -> Iterator[Path]:
        """Yield a new empty name whose file takes the place of the index. The lock is held, alone."""
        new = self._beside("new")
        leftovers = [new.with_name(f"{new.name}{end}") for end in ("", "-wal", "-shm", "-journal")]
        for path in leftovers:
            path.unlink(missing_ok=True)
        try:
            yield new
        except BaseException:
            for path in leftovers:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        # The log of the old file beside the new one would be played into it.
        for end in ("-wal", "-shm"):
            self.path.with_name(f"{self.path.name}{end}").unlink(missing_ok=True)
        new.replace(self.path)
        self.seal()

    def identity(self) -> tuple[int, int] | None:
        """Return which file has the name now; another process may have built a new one."""
        try:
            state = self.path.stat()
        except OSError:
            return None
        return state.st_dev, state.st_ino
