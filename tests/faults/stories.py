"""What the fault tests do to a library, and what must be true afterwards whatever happened.

Run as a program in a fresh process: ``stories.py STORY FAULT FOLDER`` tries the story with the fault at every
call, one after another, each in a child, and prints what went wrong as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.disk import KILLED, Disk, Fault
from fixtures import small
from memcard.errors import DiskError, MemcardError, NotFoundError
from memcard.jobs.library import Library

OLD = small.weights(1, size=900)
NEW = small.weights(2, size=1100)
THIRD = small.weights(3, size=500)
_FAILED = 1


class Story(NamedTuple):
    """A verb, and what is asked of the library after it.

    Attributes:
        verb: what the fault strikes.
        gives: names that must be there when it was done, with the weights they mean.
        prepare: what comes before it, beside the library with ``old`` in it.
        moves: the verb takes ``new.safetensors`` away.
    """

    verb: Callable[[Library, Path], object]
    gives: Mapping[str, object]
    prepare: Callable[[Library, Path], object] = lambda library, folder: None
    moves: bool = False
    keeps: tuple[str, ...] = ("old",)


def _changed(library: Library, folder: Path) -> None:
    library.add([folder / "new.safetensors"])
    small.save(folder / "new.safetensors", THIRD)


def _removed(library: Library, folder: Path) -> None:
    library.add([folder / "new.safetensors"], how="copy")
    library.rm("new")


def _emptied(library: Library, folder: Path) -> None:
    _removed(library, folder)
    library.gc(days=0)


STORIES: dict[str, Story] = {
    "add": Story(lambda lib, f: lib.add([f / "new.safetensors"]), {"new": NEW}),
    "add_link": Story(lambda lib, f: lib.add([f / "new.safetensors"], how="link"), {"new": NEW}),
    "add_copy": Story(lambda lib, f: lib.add([f / "new.safetensors"], how="copy"), {"new": NEW}),
    "add_move": Story(
        lambda lib, f: lib.add([f / "new.safetensors"], how="move"), {"new": NEW}, moves=True
    ),
    "add_changed": Story(
        lambda lib, f: lib.add([f / "new.safetensors"]), {"new": THIRD}, prepare=_changed
    ),
    "rm": Story(lambda lib, f: lib.rm("old"), {}, keeps=()),
    "undo": Story(lambda lib, f: lib.undo(), {"new": NEW}, prepare=_removed),
    "gc": Story(lambda lib, f: lib.gc(days=0), {}, prepare=_removed),
    "gc_twice": Story(lambda lib, f: lib.gc(days=0), {}, prepare=_emptied),
    "export": Story(lambda lib, f: lib.export("old", f / "out.safetensors"), {}),
}


def states(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what can be seen of the user's files."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        stat = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.name] = (digest, stat.st_mtime_ns, stat.st_mode)
    return found


def sha_of(weights: object, folder: Path) -> str:
    """Return the SHA-256 of these weights as a file."""
    path = small.save(folder / "expected.tmp", cast("small.Arrays", weights))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    return digest


def in_child(task: Callable[[], object]) -> int:
    """Run a task in a child; return 0, the exit code of its error, or what killed it."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            task()
        except MemcardError as error:
            code = error.exit_code
        except BaseException:  # noqa: BLE001  # shown, and told by the exit code
            traceback.print_exc()
            code = _FAILED
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def play(story: Story, fault: Fault, at: int, root: Path) -> tuple[list[str], bool]:
    """Let the fault strike at one call; return what went wrong, and whether the story came to its end."""
    shutil.rmtree(root, ignore_errors=True)
    folder, home = root / "models", root / "home"
    folder.mkdir(parents=True)
    small.save(folder / "old.safetensors", OLD)
    small.save(folder / "new.safetensors", NEW)

    def prepared() -> None:
        Library(home).add([folder / "old.safetensors"], how="copy")
        story.prepare(Library(home), folder)

    assert in_child(prepared) == 0
    before = states(folder)
    disk = Disk(at, fault)

    def struck() -> None:
        disk.install()
        story.verb(Library(home), folder)
        disk.over = True
        if disk.count < at:
            (root / "reached the end").touch()

    code = in_child(struck)
    over = (root / "reached the end").exists()
    wrong: list[str] = []
    if code not in (0, KILLED, DiskError.exit_code):
        wrong.append(f"exit code {code}")
    if fault in ("kill", "torn") and not over and code != KILLED:
        wrong.append(f"not killed, but {code}")
    (root / "reached the end").unlink(missing_ok=True)

    def checked() -> None:
        _users_files(story, before, folder, home)
        _stored(story, home, root)
        _again(story, code, home, folder, root)

    if in_child(checked) != 0:
        wrong.append(f"check failed after exit code {code}")
    return [f"{fault} at call {at}: {text}" for text in wrong], over


def _users_files(
    story: Story, before: dict[str, tuple[object, ...]], folder: Path, home: Path
) -> None:
    after = states(folder)
    if story.moves and "new.safetensors" not in after:
        with Library(home).open("new") as checkpoint:  # the library has it, under its name
            assert set(checkpoint.specs) == set(NEW)
        del before["new.safetensors"]
    after.pop("out.safetensors", None)
    assert after == before, (before, after)


def _stored(story: Story, home: Path, root: Path) -> None:
    library = Library(home)
    assert library.ls().faults == ()
    for name in story.keeps:
        _exports(library, name, OLD, root)


def _again(story: Story, code: int, home: Path, folder: Path, root: Path) -> None:
    """The same command on a sound disk, unless it is done, ends as if nothing had happened."""
    library = Library(home)
    if code != 0:
        (folder / "out.safetensors").unlink(missing_ok=True)
        with suppress(NotFoundError):  # it was done but for its last words; nothing is left to do
            story.verb(library, folder)
    for name, weights in story.gives.items():
        _exports(library, name, weights, root)
    library.gc()  # a writer, which sweeps
    assert [list((home / f).iterdir()) for f in ("tmp", "leases")] == [[], []]
    assert [f for f in (home / "trash").glob("*") if not (f / "journal.json").exists()] == []


def _exports(library: Library, name: str, weights: object, root: Path) -> None:
    out = root / "exported.safetensors"
    library.export(name, out, overwrite=True)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == sha_of(weights, root)
    out.unlink()


def _warm(root: Path) -> None:
    library = Library(root / "warm")
    library.add([root / "models" / "old.safetensors"])
    library.rm("old")
    library.undo()
    library.gc()
    library.export("old", root / "warm.out", overwrite=True)


def main(name: str, fault: Fault, root: Path) -> None:
    """Play one story with the fault at every call; print the number of calls and what went wrong."""
    for _ in range(2):  # imports what the children need: 20 times as fast
        play(STORIES[name], fault, 1000, root)
        _warm(root)
    wrong: list[str] = []
    at, over = 0, False
    while not over and at < 1000:
        at += 1
        found, over = play(STORIES[name], fault, at, root)
        wrong += found
    print(json.dumps({"calls": at - 1, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], cast("Fault", sys.argv[2]), Path(sys.argv[3]))
