"""Files that others change while we read them, folders full of links, libraries that cannot be written, lost indexes."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from faults.disk import Calls
from faults.program import counted
from fixtures import small
from memcard.core.progress import Event, Progress
from memcard.errors import DiskError, IntegrityError, MemcardError, NotFoundError, UsageError
from memcard.jobs.library import Library

PAST = 1_600_000_000_000_000_000
SIZE = 3_000_000  # values: three of the chunks in which files are read
MINE, OTHER = small.weights(1, size=SIZE), small.weights(2, size=SIZE)
Change = Callable[[Path], object]


def saved(path: Path, arrays: small.Arrays) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small.save(path, arrays)
    os.utime(path, ns=(PAST, PAST))
    return path


def replaced(path: Path) -> None:
    saved(path.with_suffix(".new"), OTHER).replace(path)


def truncated(path: Path) -> None:
    os.truncate(path, 1 << 20)


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def edited(path: Path) -> None:
    """Write at the begin and the end, in place; the time tells."""
    with path.open("r+b") as file:
        for at in (300_000, path.stat().st_size - 300_000):
            file.seek(at)
            file.write(b"edited by someone")


def edited_in_secret(path: Path) -> None:
    """The same, and then the time is set back: nothing shows it."""
    edited(path)
    os.utime(path, ns=(PAST, PAST))


def removed(path: Path) -> None:
    path.unlink()


def linked(path: Path) -> None:
    """Another file takes the name, by a link."""
    other = saved(path.with_suffix(".other"), OTHER)
    path.unlink()
    path.symlink_to(other)


CHANGES: tuple[Change, ...] = (
    replaced, truncated, appended, edited, edited_in_secret, removed, linked,
)  # fmt: skip


class Once:
    """Changes a file once: when the first chunk of it was read, or all of it; or before the n-th change of the disk."""

    def __init__(self, change: Change, path: Path, when: str | int = "first") -> None:
        self._change, self._path, self._when = change, path, when
        self._calls, self._count = Calls(self._handle), 0
        self.after: bytes | None = None
        self.done = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and (self._when == "first" or event.done == event.total):
            self._strike()

    def _strike(self) -> None:
        if not self.done:
            self.done = True
            self._change(self._path)
            self.after = self._path.read_bytes() if self._path.exists() else None

    def _handle(self, name: str, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._count += 1
        if self._count == self._when:
            self._strike()
        return call(*args, **kwargs)

    def __enter__(self) -> Self:
        self._calls.install()
        return self

    def __exit__(self, *exc: object) -> None:
        self._calls.remove()


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home")


def exact_or_refused(library: Library, name: str, out: Path) -> None:
    """Whatever the library has by now under a name: the bytes of its digest, or an error."""
    entries = {entry.name: entry for entry in library.ls().entries}
    if name not in entries:
        return
    out.unlink(missing_ok=True)
    try:
        library.export(name, out)
    except MemcardError:
        assert not out.exists()
        return
    assert hashlib.sha256(out.read_bytes()).hexdigest() == entries[name].sha256


@pytest.mark.parametrize("when", ["first", "last"])
@pytest.mark.parametrize("how", ["in-place", "link", "copy", "move"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_a_file_that_changes_while_it_is_added(
    change: Change, how: Any, when: str, library: Library, tmp_path: Path
) -> None:
    path = saved(tmp_path / "models" / "a.safetensors", MINE)
    once = Once(change, path, when)

    try:
        library.add([path], how=how, progress=once)
    except (IntegrityError, NotFoundError):
        assert change is not edited_in_secret or how == "copy"
    else:
        assert change is edited_in_secret

    assert once.done
    if path.exists():
        assert path.read_bytes() == once.after  # what someone else wrote is still there
    elif once.after is not None:  # it was moved, as was asked for
        own = [p for p in (library.path / "files").rglob("*") if p.is_file()]
        assert once.after in [p.read_bytes() for p in own]
    if (library.path / "library.json").exists():
        exact_or_refused(library, "a", tmp_path / "out.safetensors")
    counted("file changed while it is read", 1)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_a_file_that_changes_while_it_is_exported(
    change: Change, library: Library, tmp_path: Path
) -> None:
    path = saved(tmp_path / "models" / "a.safetensors", MINE)
    (added,) = library.add([path])
    once, out = Once(change, path), tmp_path / "out.safetensors"

    try:
        library.export("a", out, progress=once)
    except MemcardError:
        assert not out.exists()
    else:
        assert hashlib.sha256(out.read_bytes()).hexdigest() == added.sha256

    assert once.done
    assert (path.read_bytes() if path.exists() else None) == once.after
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    counted("file changed while it is read", 1)


@pytest.mark.parametrize("when", [3, 6, 9])
@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_a_file_that_changes_while_it_is_packed(
    change: Change, when: int, library: Library, tmp_path: Path
) -> None:
    path = saved(tmp_path / "models" / "a.safetensors", MINE)
    library.add([path])

    with Once(change, path, when) as once, suppress(IntegrityError, NotFoundError):
        library.pack(threads=1)

    assert once.done
    assert (path.read_bytes() if path.exists() else None) == once.after
    exact_or_refused(library, "a", tmp_path / "out.safetensors")
    path.unlink(missing_ok=True)
    exact_or_refused(library, "a", tmp_path / "out.safetensors")
    counted("file changed while it is read", 1)


def seen(folder: Path) -> dict[Path, object]:
    """Return all that can be seen of what lies in a folder, links as links."""
    found: dict[Path, object] = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        found[path] = (content, state.st_mode, state.st_mtime_ns, state.st_ino)
    return found


def web(tmp_path: Path) -> tuple[Path, Path]:
    """Make a folder with links of all kinds, and what they lead to outside of it."""
    models, outside = tmp_path / "models", tmp_path / "outside"
    small_ones = small.weights(3, size=400), small.weights(4, size=500)
    saved(models / "sub" / "a.safetensors", small_ones[0])
    saved(outside / "b.safetensors", small_ones[1])
    (models / "loop").symlink_to(models)
    (models / "sub" / "up").symlink_to("..")
    (models / "itself").symlink_to("itself")
    (models / "itself.safetensors").symlink_to("itself.safetensors")
    (models / "nowhere.safetensors").symlink_to(tmp_path / "nothing")
    (models / "out").symlink_to(outside)
    (models / "b-link.safetensors").symlink_to(outside / "b.safetensors")
    (models / "twin.safetensors").hardlink_to(models / "sub" / "a.safetensors")
    return models, outside


@pytest.mark.parametrize("how", ["in-place", "link", "copy"])
def test_links_in_a_folder_are_followed_once_and_nothing_is_touched(
    how: Any, library: Library, tmp_path: Path
) -> None:
    models, outside = web(tmp_path)
    before = seen(models), seen(outside)

    library.scan([models])
    added = library.add([models], how=how)
    library.pack(threads=1)
    library.rm(*{one.name for one in added})
    library.gc(days=0)
    library.gc(days=0)

    assert len(added) == 4
    after = seen(models), seen(outside)
    assert after == before
    counted("links in a folder", len(before[0]))


def test_a_link_is_not_moved_and_not_the_library_itself(library: Library, tmp_path: Path) -> None:
    models, outside = web(tmp_path)
    library.add([models / "sub" / "a.safetensors"], how="copy")
    before = seen(models), seen(outside), seen(library.path / "files")

    with pytest.raises(UsageError, match="is a link"):
        library.add([models / "b-link.safetensors"], how="move")
    (models / "into").symlink_to(library.path / "files")
    with pytest.raises(UsageError, match="lies in the library itself"):
        library.add([next((library.path / "files").glob("??/*[!n]"))])
    with pytest.raises(UsageError, match="lies in the library itself"):
        library.export("a", models / "into" / "x.safetensors")

    (models / "into").unlink()
    models_now = {p: s for p, s in seen(models).items() if p.name != "into"}
    assert (models_now, seen(outside), seen(library.path / "files")) == before


class ReadOnly:
    """Refuses every change below a folder, as a disk does that is mounted read-only."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.refused = str(folder), 0
        self._calls = Calls(self._handle)

    def _handle(self, name: str, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        where = args[1] if name in ("rename", "replace", "link") else args[0]
        if isinstance(where, int):
            where = Path(f"/proc/self/fd/{where}").readlink()
        existing = name == "open" and Path(where).exists() and not args[1] & 3
        if str(where).startswith(self._folder) and name != "fsync" and not existing:
            self.refused += 1
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(where))
        return call(*args, **kwargs)

    def __enter__(self) -> Self:
        self._calls.install()
        return self

    def __exit__(self, *exc: object) -> None:
        self._calls.remove()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of handles are in /proc")
def test_a_library_on_a_read_only_disk_is_read_and_says_so_when_it_should_change(
    library: Library, tmp_path: Path
) -> None:
    arrays = small.weights(3, size=4000)
    path = saved(tmp_path / "models" / "a.safetensors", arrays)
    library.add([path], how="copy")
    library.pack(threads=1, keep_files=True)
    library.add([saved(tmp_path / "models" / "b.safetensors", small.weights(4, size=400))])
    library.rm("b")
    new = saved(tmp_path / "models" / "c.safetensors", small.weights(5, size=400))
    before = seen(library.path)

    with ReadOnly(library.path) as disk:
        assert [e.name for e in library.ls().entries] == ["a"]
        assert library.show("a") is not None
        assert library.verify().ok
        with library.open("a") as checkpoint:
            assert bytes(checkpoint.read("b.bias")) == arrays["b.bias"].tobytes()
        library.export("a", tmp_path / "out.safetensors")
        for change in (
            lambda: library.add([new]), lambda: library.add([new], how="move"), lambda: library.rm("a"),
            library.undo, lambda: library.gc(days=0),
        ):  # fmt: skip
            with pytest.raises(DiskError):
                change()
        assert disk.refused >= 5

    assert seen(library.path) == before
    assert new.exists()
    counted("read-only library", disk.refused)


@pytest.mark.parametrize(
    "how", ["deleted", "empty", "half", "garbage", "of another version", "a folder"]
)
def test_a_lost_index_changes_no_answer(
    how: str, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("MEMCARD_CACHE", str(cache))
    for number in range(3):
        path = saved(tmp_path / "m" / f"n{number}.safetensors", small.weights(number, size=300))
        library.add([path])
    expected = library.ls(), library.ls("n1")
    (index,) = cache.glob("index-*.sqlite")

    harm(index, how)

    assert (library.ls(), library.ls("n1")) == expected
    library.rm("n1")
    assert [e.name for e in library.ls().entries] == ["n0", "n2"]
    counted("index lost", 1)


def harm(index: Path, how: str) -> None:
    raw = index.read_bytes()
    index.unlink()
    if how == "a folder":
        index.mkdir()
    elif how == "of another version":
        import sqlite3

        with sqlite3.connect(index) as connection:
            connection.execute("CREATE TABLE row (other TEXT)")
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    elif how != "deleted":
        index.write_bytes({"empty": b"", "half": raw[: len(raw) // 2]}.get(how, bytes(len(raw))))
