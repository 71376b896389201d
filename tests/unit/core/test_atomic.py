import errno
import os
from pathlib import Path

import pytest

from memcard.core.atomic import (
    Together,
    disk_errors,
    nameless,
    replacing,
    replacing_folder,
    scratch_folder,
    sweep,
)
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


def staged(folder: Path, content: bytes) -> Together:
    together = Together()
    for name in ("a", "b", "index"):
        with together.stage(folder / name) as file:
            file.write(content)
    return together


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    together = staged(tmp_path, b"new")
    assert not (tmp_path / "a").exists()

    together.commit(tmp_path / "index")

    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == dict.fromkeys(
        ("a", "b", "index"), b"new"
    )


def test_files_that_are_discarded_leave_the_old_ones(tmp_path: Path) -> None:
    staged(tmp_path, b"old").commit(tmp_path / "index")

    staged(tmp_path, b"new").discard()

    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == dict.fromkeys(
        ("a", "b", "index"), b"old"
    )


def test_an_error_in_one_of_them_leaves_no_part_of_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Together().stage(tmp_path / "a"):
        raise KeyboardInterrupt

    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "m") as part:
        (part / "x").write_bytes(b"new")
        assert not (tmp_path / "m").exists()

    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / "x").read_bytes() == b"new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_folder_that_failed_leaves_the_old_one(
    error: type[BaseException], tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x").write_bytes(b"old")

    with (  # noqa: PT012  # the file before the error is the point
        pytest.raises(error),
        replacing_folder(tmp_path / "m", overwrite=True) as part,
    ):
        (part / "x").write_bytes(b"half")
        raise error

    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / "x").read_bytes() == b"old"


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x").write_bytes(b"old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == tmp_path / "m" and self.suffix == ".part":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DiskError), replacing_folder(tmp_path / "m", overwrite=True) as part:
        (part / "y").write_bytes(b"new")

    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["m", "m/x"]


@pytest.mark.parametrize("is_file", [True, False])
def test_what_is_there_is_not_replaced_unasked(is_file: bool, tmp_path: Path) -> None:
    path = tmp_path / "m"
    if is_file:
        path.write_bytes(b"old")
    else:
        path.mkdir()
        (path / "x").write_bytes(b"old")

    with pytest.raises(FileExistsError), replacing_folder(path, overwrite=is_file):
        raise AssertionError

    assert (path if is_file else path / "x").read_bytes() == b"old"


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_dead_process_left_is_swept_by_the_next_writer(folder: bool, tmp_path: Path) -> None:
    path, litter = tmp_path / "x.bin", tmp_path / ".x.bin.0123abcd.part"
    if folder:
        litter.mkdir()
        (litter / "half").write_bytes(b"half")
    else:
        litter.write_bytes(b"half")

    with replacing(path) as file:
        file.write(b"new")

    assert list(tmp_path.iterdir()) == [path]


def test_parts_that_are_written_or_staged_are_not_swept(tmp_path: Path) -> None:
    together = staged(tmp_path, b"new")

    with replacing(tmp_path / "a") as file, replacing_folder(tmp_path / "m"):
        file.write(b"one")
        swept = [sweep(tmp_path / name) for name in ("a", "b", "index", "m")]
        assert swept == [(), (), (), ()]

    together.commit(tmp_path / "index")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "index", "m"]


def test_parts_that_were_discarded_are_no_longer_held(tmp_path: Path) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])

    staged(tmp_path, b"new").discard()
    staged(tmp_path, b"new").commit(tmp_path / "index")

    assert len([*Path("/proc/self/fd").iterdir()]) == before


@pytest.mark.parametrize(
    "name",
    ["x.bin.0123abcd.part", ".y.bin.0123abcd.part", ".x.bin.0123abcd.old", ".x.bin.keep.part", ".xxbin.0123abcd.part"],
)  # fmt: skip
def test_what_is_no_part_of_this_file_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"mine")

    assert sweep(tmp_path / "x.bin") == ()
    assert (tmp_path / name).read_bytes() == b"mine"


def test_a_link_in_the_name_of_a_part_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / ".x.bin.0123abcd.part").symlink_to(tmp_path / "precious")

    assert sweep(tmp_path / "x.bin") == ()
    assert (tmp_path / "precious").read_bytes() == b"mine"


def test_a_folder_that_is_not_there_has_no_litter(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nowhere" / "x.bin") == ()


def test_a_scratch_folder_is_gone_afterwards_whatever_happens(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "large").write_bytes(b"x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path / "out") as folder:
        fail(folder)

    assert list(tmp_path.iterdir()) == []


def test_a_file_may_get_its_name_at_its_end(tmp_path: Path) -> None:
    with nameless(tmp_path, "pack") as (file, settle):
        file.write(b"contents")
        settle(tmp_path / "ab" / "ab12.pack")

    assert (tmp_path / "ab" / "ab12.pack").read_bytes() == b"contents"
    assert [p.name for p in tmp_path.iterdir()] == ["ab"]


def test_a_file_without_a_name_leaves_nothing_and_removes_what_the_killed_left(
    tmp_path: Path,
) -> None:
    (tmp_path / ".pack.0123abcd.part").write_bytes(b"left by a killed process")

    with nameless(tmp_path, "pack") as (file, _):
        file.write(b"contents")
        assert len(list(tmp_path.iterdir())) == 1

    assert list(tmp_path.iterdir()) == []
