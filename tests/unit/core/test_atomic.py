import errno
import os
from pathlib import Path

import pytest

from memcard.core.atomic import disk_errors, replacing
from memcard.errors import DiskError


def test_a_clean_exit_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"

    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def interrupted_write() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_write()

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_does_not_stop_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    (tmp_path / f".x.bin.{os.getpid()}.part").write_bytes(b"left behind")

    with replacing(path) as first, replacing(path) as second:
        first.write(b"one")
        second.write(b"two")

    assert path.read_bytes() == b"one"


def test_a_full_disk_becomes_a_disk_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"

    with pytest.raises(DiskError, match=r"x\.bin") as caught, replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_other_system_errors_pass_unchanged() -> None:
    with pytest.raises(PermissionError), disk_errors(Path("x")):
        raise PermissionError(errno.EACCES, "denied")
