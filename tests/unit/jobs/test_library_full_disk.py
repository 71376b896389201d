"""On a disk without a free byte names can still be removed, brought back, and the trash be emptied."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures import small
from memcard.errors import DiskError
from memcard.jobs.library import Library
from memcard.store import reserve
from memcard.store.writer import Writer

# Run in a namespace of its own, where a user may mount a small disk.
STORY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from fixtures import small
from memcard.errors import DiskError
from memcard.jobs.library import Library
from memcard.store import reserve
disk = Path(sys.argv[1])
reserve._PLENTY = 2 << 20
library = Library(disk / "home")
for seed in (1, 2):
    path = small.save(disk / f"m{seed}.safetensors", small.weights(seed, size=20000))
    library.add([path], how="move")
assert (library.path / "reserve").stat().st_size == reserve.SIZE
with open(disk / "filler", "wb", buffering=0) as file:
    try:
        while file.write(b"x" * 4096): pass
    except OSError: pass
try:
    library.add([disk / "filler"])
except Exception as error: print(type(error).__name__)
library.rm("m1")
assert not (library.path / "reserve").exists()
library.undo()
library.rm("m1", "m2")
before = os.statvfs(disk).f_bavail
library.gc(days=0)
library.gc(days=0)
assert os.statvfs(disk).f_bavail > before
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk")
def test_a_disk_without_a_free_byte(tmp_path: Path) -> None:
    disk, tests = tmp_path / "disk", Path(__file__).parents[2]
    disk.mkdir()
    shell = f'mount -t tmpfs -o size=6m none {disk} || exit 77; exec "$0" -c "$1" {disk} {tests}'

    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", shell, sys.executable, STORY],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no right to mount a disk here")
    assert done.stdout.endswith("done\n"), done.stderr


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "home")
    library.add([small.save(tmp_path / "neon.safetensors", small.weights(1))])
    return library


def test_the_reserve_is_made_once_and_again_by_gc(library: Library) -> None:
    path = reserve.path_of(library.layout)
    assert path.stat().st_size == reserve.SIZE
    assert reserve.spend(library.layout)
    assert not reserve.spend(library.layout)

    library.gc()

    assert path.stat().st_size == reserve.SIZE


def test_it_is_given_up_once_and_the_work_begun_again(library: Library) -> None:
    tried = []

    def work() -> str:
        tried.append(reserve.path_of(library.layout).exists())
        if tried[-1]:
            raise DiskError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return "done"

    assert reserve.with_space(library.layout, work) == "done"
    assert tried == [True, False]


def test_other_faults_and_a_second_one_are_raised(library: Library) -> None:
    def failing(number: int) -> None:
        raise DiskError(number, os.strerror(number))

    with pytest.raises(DiskError, match="Input/output"):
        reserve.with_space(library.layout, lambda: failing(errno.EIO))
    assert reserve.path_of(library.layout).exists()
    with pytest.raises(DiskError, match="No space"):
        reserve.with_space(library.layout, lambda: failing(errno.ENOSPC))


def test_no_reserve_is_made_where_space_is_short(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve.spend(library.layout)
    monkeypatch.setattr(reserve, "_PLENTY", 1 << 62)

    with Writer(library.layout) as writer:
        reserve.keep(writer)

    assert not reserve.path_of(library.layout).exists()
