"""Entry point: runs a command and turns every ending into an exit code.

Results go to stdout; progress, advice and errors to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from memcard.cli._show import advise
from memcard.cli._spare import leave_out
from memcard.cli.app import app
from memcard.errors import DiskError, MemcardError, NotFoundError

INTERRUPTED = 130


def run() -> NoReturn:
    """Run the command line of this process and leave it."""
    leave_out(*sys.argv[1:2])
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code; never raises for a foreseen fault."""
    try:
        result = app.main(args=list(argv), prog_name="memcard", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("memcard: interrupted; nothing was left half-written.", err=True)
        return INTERRUPTED
    except MemcardError as error:
        advise(f"memcard: {error_text(error)}")
        return error.exit_code
    except BrokenPipeError:
        # The reader (head, less) went away: no fault. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        advise(f"memcard: {os_error_text(error)}")
        return os_error_code(error)
    return result if isinstance(result, int) else 0


def error_text(error: MemcardError) -> str:
    """Return the message; a DiskError carries it as strerror."""
    return error.strerror if isinstance(error, DiskError) and error.strerror else str(error)


def os_error_text(error: OSError) -> str:
    """Say which file and what the system said."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}."


def os_error_code(error: OSError) -> int:
    """A missing file is "not found"; all else of the file system is "disk"."""
    missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    return NotFoundError.exit_code if isinstance(error, missing) else DiskError.exit_code
