"""Every error memcard raises on purpose, and the exit code it becomes.

MemcardError                      exit 1
├── UsageError        ValueError   exit 2   an argument is out of its range
├── FormatError       ValueError            a file cannot be read as a checkpoint
│   ├── UnsafeError                exit 3   the file asks the reader to run code
│   ├── CorruptError               exit 4   the bytes break the rules of their format
│   └── UnsupportedError           exit 5   a lawful file that memcard cannot read or write
├── NotFoundError     LookupError  exit 6   no such file, checkpoint, tensor or method
├── MismatchError     ValueError   exit 7   inputs do not fit together
│   └── LicenseError               exit 7   licenses do not fit together
├── IntegrityError                 exit 8   stored bytes do not match their digest
├── LockedError                    exit 9   another process holds what is needed
└── DiskError         OSError      exit 10  disk full, I/O error, read-only

Callers catch a class, never a text. The numbers are frozen (``tests/unit/test_errors.py``).
130 is reserved for an interrupt (Ctrl-C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class MemcardError(Exception):
    """Base of every error memcard raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(MemcardError, ValueError):
    """An argument is out of its range."""

    exit_code = 2


class FormatError(MemcardError, ValueError):
    """A file cannot be read as a checkpoint.

    Attributes:
        faults: every fault found before giving up, one sentence each; never empty.
    """

    exit_code = 4

    def __init__(self, message: str, *, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.faults: tuple[str, ...] = tuple(faults) or (message,)


class UnsafeError(FormatError):
    """The file asks the reader to run code."""

    exit_code = 3


class CorruptError(FormatError):
    """The bytes break the rules of their format."""

    exit_code = 4


class UnsupportedError(FormatError):
    """A lawful file that memcard cannot read or write."""

    exit_code = 5


class NotFoundError(MemcardError, LookupError):
    """No file, checkpoint, tensor or method has this name."""

    exit_code = 6


class MismatchError(MemcardError, ValueError):
    """The inputs do not fit together."""

    exit_code = 7


class LicenseError(MismatchError):
    """The licenses of the inputs do not allow what was asked."""


class IntegrityError(MemcardError):
    """Stored bytes do not match their digest."""

    exit_code = 8


class LockedError(MemcardError):
    """Another process holds what is needed."""

    exit_code = 9


class DiskError(MemcardError, OSError):
    """The disk is full, read-only or failing."""

    exit_code = 10
