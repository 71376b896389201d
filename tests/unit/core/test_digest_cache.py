"""Digests that are kept: right after every kind of change, by several processes, on a broken disk file."""

import os
import sqlite3
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

from memcard.core import digest_cache
from memcard.core.digest_cache import DigestCache, State, cache_folder

OLD = 1_700_000_000
READ = []


@pytest.fixture(autouse=True)
def reads(monkeypatch):
    """List the files that are really read."""
    READ.clear()
    real = digest_cache.digests_file
    monkeypatch.setattr(
        digest_cache, "digests_file", lambda path, **m: READ.append(path.name) or real(path, **m)
    )
    # Ten ticks of the clock of Linux: a test cannot wait two seconds, and nobody can set a ctime.
    monkeypatch.setattr(digest_cache, "MARGIN", 40_000_000)
    return READ


def settled(path, content):
    path.write_bytes(content)
    time.sleep(0.05)
    return path


@pytest.fixture
def file(tmp_path):
    return settled(tmp_path / "model.safetensors", b"one" * 1000)


def cache(tmp_path):
    return DigestCache(tmp_path / "cache", fewest=0)


def test_a_second_question_reads_nothing(file, tmp_path):
    one = cache(tmp_path)

    assert one.sha256(file) == one.sha256(file) == sha256(file.read_bytes()).hexdigest()
    assert READ == ["model.safetensors"]


def test_another_run_reads_nothing_either(file, tmp_path):
    first = cache(tmp_path).sha256(file)

    assert cache(tmp_path).sha256(file) == first
    assert READ == ["model.safetensors"]


def test_a_digest_that_is_missing_is_computed_beside_those_that_are_known(file, tmp_path):
    one = cache(tmp_path)
    one.sha256(file)

    found = one.digests(file, only=("sha256", "blake3"))

    assert list(found) == ["sha256", "blake3"]
    assert cache(tmp_path).digests(file, only=("blake3", "sha256")) == found
    assert len(READ) == 2


def test_fresh_reads_what_is_known_and_keeps_what_it_finds(file, tmp_path):
    one = cache(tmp_path)
    one.sha256(file)

    found = one.fresh(file, only=("sha256", "blake3"))

    assert READ == ["model.safetensors"] * 2
    assert cache(tmp_path).digests(file, only=("sha256", "blake3")) == found
    assert len(READ) == 2


def rewritten(path):
    path.write_bytes(b"two" * 1000)


def rewritten_with_the_old_time(path):
    """What ``cp -p`` and archives do: only the ctime tells."""
    before = path.stat()
    path.write_bytes(b"two" * 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path):
    other = path.with_name("other")
    other.write_bytes(b"two" * 1000)
    other.replace(path)


def appended(path):
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("change", [rewritten, rewritten_with_the_old_time, replaced, appended])
def test_changed_contents_are_noticed(file, tmp_path, change):
    one = cache(tmp_path)
    one.sha256(file)

    change(file)

    wanted = sha256(file.read_bytes()).hexdigest()
    assert one.sha256(file) == wanted
    assert cache(tmp_path).sha256(file) == wanted


def test_a_file_that_has_just_changed_is_not_trusted(file, tmp_path, monkeypatch):
    """Two writes within one tick of the clock look like one."""
    monkeypatch.setattr(digest_cache, "MARGIN", 2_000_000_000)
    one = cache(tmp_path)

    one.sha256(file)
    one.sha256(file)

    assert len(READ) == 2
    assert not (tmp_path / "cache").exists()


def test_a_time_in_the_future_is_not_trusted(file):
    os.utime(file, (OLD * 2, OLD * 2))

    assert not State.of(file).is_settled()


def test_a_write_while_it_is_read_is_not_kept(file, tmp_path, monkeypatch):
    def racing(path, **more):
        rewritten_with_the_old_time(path)
        return {"sha256": "0" * 64}

    monkeypatch.setattr(digest_cache, "digests_file", racing)
    cache(tmp_path).sha256(file)

    assert cache(tmp_path).find(file, ("sha256",)) == {}


def test_two_files_of_the_same_state_but_name_do_not_meet(file, tmp_path):
    """Hard links share everything but the name; each is asked for itself."""
    link = tmp_path / "link.safetensors"
    link.hardlink_to(file)
    time.sleep(0.05)

    one = cache(tmp_path)

    assert one.sha256(link) == one.sha256(file)
    assert READ == ["link.safetensors", "model.safetensors"]


def test_small_files_stay_off_the_disk(file, tmp_path):
    one = DigestCache(tmp_path / "cache")

    one.sha256(file)
    one.sha256(file)

    assert len(READ) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "junk", [b"", b"not a database" * 99, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_broken_cache_is_replaced(file, tmp_path, junk):
    cache(tmp_path).sha256(file)
    kept = tmp_path / "cache" / "digests-1.sqlite"
    kept.write_bytes(junk)

    cache(tmp_path).sha256(file)
    cache(tmp_path).sha256(file)

    assert len(READ) == 2
    assert kept.read_bytes()[:15] == b"SQLite format 3"


def test_a_value_that_is_no_digest_is_not_believed(file, tmp_path):
    cache(tmp_path).sha256(file)
    database = sqlite3.connect(tmp_path / "cache" / "digests-1.sqlite")
    database.execute("UPDATE digests SET value = 'oops'")
    database.commit()
    database.close()

    assert len(cache(tmp_path).sha256(file)) == 64


def test_a_cache_that_cannot_be_written_is_done_without(file, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")

    assert cache(tmp_path).sha256(file) == sha256(file.read_bytes()).hexdigest()


def test_a_cache_that_someone_holds_is_done_without(file, tmp_path, monkeypatch):
    cache(tmp_path).sha256(file)
    monkeypatch.setattr(digest_cache, "_PATIENCE", 0.01)
    holder = sqlite3.connect(tmp_path / "cache" / "digests-1.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")

    found = cache(tmp_path).sha256(file)
    holder.close()

    assert found == sha256(file.read_bytes()).hexdigest()
    assert len(READ) == 2


def test_the_oldest_rows_go(file, tmp_path, monkeypatch):
    monkeypatch.setattr(digest_cache, "_MOST", 2)
    others = [file.with_name(f"{n}.safetensors") for n in range(3)]
    for number, other in enumerate(others):
        settled(other, bytes([number]))

    for path in (file, *others):
        cache(tmp_path).sha256(path)

    assert cache(tmp_path).find(file, ("sha256",)) == {}
    assert cache(tmp_path).find(others[2], ("sha256",))


WORKER = """
import sys
from pathlib import Path
from memcard.core import digest_cache
digest_cache.MARGIN = 0
files = sorted(Path(sys.argv[1]).glob("*.bin"))
for path in files:
    digest_cache.DigestCache(Path(sys.argv[2]), fewest=0).sha256(path)
"""


def test_two_processes_fill_one_cache(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 100)
    command = [sys.executable, "-c", WORKER, str(tmp_path), str(tmp_path / "cache")]

    both = [subprocess.Popen(command) for _ in range(2)]

    assert [one.wait() for one in both] == [0, 0]
    known = [cache(tmp_path).find(path, ("sha256",)) for path in sorted(tmp_path.glob("*.bin"))]
    wanted = [sha256(p.read_bytes()).hexdigest() for p in sorted(tmp_path.glob("*.bin"))]
    assert [found["sha256"] for found in known] == wanted


def test_names_that_are_no_unicode_are_kept_too(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        settled(path, b"x")
    except OSError:
        pytest.skip("this file system takes Unicode names only")

    cache(tmp_path).sha256(path)

    assert cache(tmp_path).find(path, ("sha256",))


def test_the_folder_is_where_the_platform_and_the_user_want_it(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMCARD_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("MEMCARD_CACHE", "")
    assert cache_folder() is None
    monkeypatch.delenv("MEMCARD_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "memcard"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG rules say: ignore
    assert cache_folder() == Path.home() / ".cache" / "memcard"
