"""What a power cut may leave of a verb, at every moment of it, and whether the library is whole there.

A verb runs once while every call that changes the disk is recorded. Then each prefix of the record is played
into a folder as a disk may have it that keeps only what was synced:

- ``lost``: no data and no name that was not synced (names by the sync of their folder).
- ``named``, ``zeros``, ``torn``: all names, but data only where it was synced; else the file is short, has
  zeros, or has half of each write.
- ``all``: everything, as after a kill.
- ``without``: everything but one name that was not synced, each of these in turn.

A rename is atomic, as on every file system with a journal: the file has its old name or its new one.
The model is that of Pillai et al. 2014, "All File Systems Are Not Created Equal" (ALICE).

Run as a program: ``replay.py STORY quick|some|wide FOLDER [fsync|syncdir]`` prints the number of states and what went wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults import stories
from faults.disk import Call, Calls
from faults.stories import STORIES, Story
from faults.strike import prepare, warm
from memcard.jobs.library import Library

Op = tuple[Any, ...]
QUICK = ("lost", "torn")
WIDE = ("lost", "named", "zeros", "torn", "all")
SOME = 3  # of so many states of the wide extent ``some`` takes one, and all after the last call


class Recorder:
    """Notes what is done to the files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = str(root) + os.sep
        self.ops: list[Op] = []
        self.files: dict[int, str] = {}  # inode to what the file is called here
        self._made = 0

    def know(self, path: Path) -> str:
        """Return what a file that was there before is called."""
        return self.files.setdefault(path.stat().st_ino, str(path))

    def handle(self, name: str, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        note = getattr(self, f"_{name}", None)
        if note is None:
            return call(*args, **kwargs)
        return note(call, args, kwargs)

    def _open(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        path = _full(args[0], kwargs.get("dir_fd"))
        was = os.path.lexists(path)
        fd: int = call(*args, **kwargs)
        if not path.startswith(self.root):
            return fd
        if not was:
            self._made += 1
            self.files[os.fstat(fd).st_ino] = f"made {self._made}"
            self.ops.append(("create", path, self._of(fd)))
        elif args[1] & os.O_TRUNC:
            self.ops.append(("truncate", self._of(fd), 0))
        return fd

    def _of(self, fd: int) -> str | None:
        return self.files.get(os.fstat(fd).st_ino)

    def _write(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        at = os.lseek(args[0], 0, os.SEEK_CUR)
        done: int = call(*args, **kwargs)
        self._data(args[0], at, bytes(memoryview(args[1]).cast("B")[:done]))
        return done

    def _pwrite(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        done: int = call(*args, **kwargs)
        self._data(args[0], args[2], bytes(memoryview(args[1]).cast("B")[:done]))
        return done

    def _copy_file_range(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        at = os.lseek(args[1], 0, os.SEEK_CUR)
        begin = os.lseek(args[0], 0, os.SEEK_CUR)
        done: int = call(*args, **kwargs)
        self._data(args[1], at, os.pread(args[0], done, begin))
        return done

    def _data(self, fd: int, at: int, raw: bytes) -> None:
        if (file := self._of(fd)) is not None:
            self.ops.append(("write", file, at, raw))

    def _ftruncate(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call(*args, **kwargs)
        if (file := self._of(args[0])) is not None:
            self.ops.append(("truncate", file, args[1]))

    def _fsync(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call(*args, **kwargs)
        path = os.readlink(f"/proc/self/fd/{args[0]}")  # noqa: PTH115
        if Path(path).is_dir():
            self.ops.append(("syncdir", path))
        elif (file := self._of(args[0])) is not None:
            self.ops.append(("fsync", file))

    def _renamed(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call(*args, **kwargs)
        self._names("rename", _full(args[0]), _full(args[1]))

    _rename = _replace = _renamed

    def _link(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call(*args, **kwargs)
        self._names("link", _full(args[0]), _full(args[1]))

    def _unlink(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = _full(args[0], kwargs.get("dir_fd"))
        call(*args, **kwargs)
        self._names("unlink", path)

    _remove = _unlink

    def _mkdir(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call(*args, **kwargs)
        self._names("mkdir", _full(args[0], kwargs.get("dir_fd")))

    def _rmdir(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = _full(args[0], kwargs.get("dir_fd"))
        call(*args, **kwargs)
        self._names("rmdir", path)

    def _names(self, name: str, *paths: str) -> None:
        if all(path.startswith(self.root) for path in paths):
            self.ops.append((name, *paths))


def _full(path: Any, dir_fd: int | None = None) -> str:
    text = os.fspath(path)
    if dir_fd is not None:
        return os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)  # noqa: PTH115, PTH118
    return os.path.abspath(text)  # noqa: PTH100


@dataclass
class State:
    """A disk: folders, the file behind each name, and what is in each file."""

    folders: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)
    contents: dict[str, bytearray] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, recorder: Recorder) -> State:
        """Read what is there now."""
        found = cls({str(root)})
        for path in root.rglob("*"):
            if path.is_dir():
                found.folders.add(str(path))
            else:
                file = recorder.know(path)
                found.names[str(path)] = file
                found.contents[file] = bytearray(path.read_bytes())
        return found

    def copy(self) -> State:
        contents = {file: bytearray(raw) for file, raw in self.contents.items()}
        return State(set(self.folders), dict(self.names), contents)

    def key(self) -> object:
        files = {path: bytes(self.contents[file]) for path, file in self.names.items()}
        return frozenset(self.folders), frozenset(files.items())

    def name(self, op: Op) -> None:
        """Play a change of names; what it needs and is not there makes it nothing."""
        kind, path = op[0], op[1]
        target = op[2] if kind in ("rename", "link") else path
        if str(Path(target).parent) not in self.folders:
            self.names.pop(path, None) if kind == "rename" else None
        elif kind == "create":
            self.names[path] = op[2]
            self.contents.setdefault(op[2], bytearray())
        elif kind in ("rename", "link") and path in self.names:
            self.names[target] = self.names[path]
            if kind == "rename":
                del self.names[path]
        elif kind == "unlink":
            self.names.pop(path, None)
        elif kind == "mkdir":
            self.folders.add(path)
        elif kind == "rmdir" and not any(n.startswith(path + os.sep) for n in self.names):
            self.folders.discard(path)

    def data(self, op: Op, how: str) -> None:
        """Play a change of the bytes of a file; ``how`` much of it came to the disk."""
        file = op[1]
        content = self.contents.setdefault(file, bytearray())
        if op[0] == "truncate":
            del content[op[2] :]
            content.extend(bytes(op[2] - len(content)))
            return
        at, raw = op[2], op[3]
        if how == "torn":
            raw = raw[: len(raw) // 2]
        if how == "zeros":
            raw = bytes(len(raw))
        if len(content) < at:
            content.extend(bytes(at - len(content)))
        content[at : at + len(raw)] = raw


NAMES = ("create", "rename", "link", "unlink", "mkdir", "rmdir")
DATA = ("write", "truncate")


def _durable(ops: list[Op], end: int) -> set[int]:
    """Return which of the first ``end`` operations surely are on the disk."""
    files, folders, needed = set[str](), set[str](), set[str]()
    found = set()
    for at in reversed(range(end)):
        op = ops[at]
        if op[0] == "fsync":
            files.add(op[1])
        elif op[0] == "syncdir":
            folders.add(op[1])
        elif op[0] in DATA:
            found |= {at} if op[1] in files else set()
        else:
            gives = op[2] if op[0] in ("rename", "link") else op[1]
            if str(Path(gives).parent) in folders or gives in needed:
                found.add(at)
                needed.discard(gives)
                needed |= (
                    {op[1]} if gives != op[1] else set()
                )  # nothing is renamed that is not there
    return found


def disks(start: State, ops: list[Op], *, wide: bool) -> Iterator[tuple[int, str, State]]:
    """Yield every state a disk may be in after each prefix; equal ones once."""
    seen: set[object] = set()
    for end in range(len(ops) + 1):
        done = end == len(ops)
        durable = _durable(ops, end)
        for mode in WIDE if wide else QUICK:
            yield from _new(seen, end, mode, _played(start, ops[:end], durable, mode), done=done)
        loose = [i for i in range(end) if ops[i][0] in NAMES and i not in durable]
        for skipped in loose if wide else loose[-1:]:
            state = _played(start, ops[:end], durable, "all", skipped)
            yield from _new(seen, end, f"without {ops[skipped][0]}", state, done=done)


def _new(
    seen: set[object], end: int, mode: str, state: State, *, done: bool
) -> Iterator[tuple[int, str, State]]:
    key = done, state.key()  # when success was reported, more must be there
    if key not in seen:
        seen.add(key)
        yield end, mode, state


def _played(start: State, ops: list[Op], durable: set[int], mode: str, skipped: int = -1) -> State:
    state = start.copy()
    for at, op in enumerate(ops):
        sure = at in durable
        if op[0] in DATA and (sure or mode in ("torn", "zeros", "all")):
            state.data(op, "all" if sure else mode)
        elif op[0] in NAMES and at != skipped and (sure or mode != "lost"):
            state.name(op)
    return state


class Replay:
    """One story: recorded, then looked at in every state."""

    def __init__(self, story: Story, root: Path) -> None:
        self.story, self.root = story, root / "stage"
        self.folder, self.home = self.root / "models", self.root / "home"
        self.vault = root / "vault"
        self._kept: dict[str, tuple[Path, int]] = {}  # the user's files, and their modes
        self.before: dict[str, tuple[object, ...]] = {}

    def record(self) -> tuple[State, list[Op]]:
        """Run the verb and return what the disk was before, and what was done to it."""
        stories.start(self.folder)
        self.story.prepare(Library(self.home), self.folder)
        recorder = Recorder(self.root)
        start = State.of(self.root, recorder)
        self.before = stories.states(self.folder)
        modes = {f: Path(p).stat().st_mode for p, f in start.names.items()}
        calls = Calls(recorder.handle)
        calls.install()
        try:
            self.story.verb(Library(self.home), self.folder)
        finally:
            calls.remove()
        self._keep(start, recorder, modes)
        return start, recorder.ops

    def _keep(self, start: State, recorder: Recorder, modes: dict[str, int]) -> None:
        """Give the user's files a second name: the very ones come back, inode, time and all."""
        self.vault.mkdir()
        inodes = {file: inode for inode, file in recorder.files.items()}
        paths = {p.stat().st_ino: p for p in self.root.rglob("*") if p.is_file()}
        for path, file in start.names.items():
            # also what came back from the trash: it was there under another name
            now = paths.get(inodes[file], Path())
            if path.startswith(f"{self.folder}{os.sep}") or self.folder in now.parents:
                kept = self.vault / str(inodes[file])
                os.link(paths[inodes[file]], kept)
                self._kept[file] = kept, modes[file]

    def make(self, state: State) -> None:
        """Make a state real."""
        shutil.rmtree(self.root)
        for folder in sorted(state.folders):
            Path(folder).mkdir()
        made: dict[str, Path] = {}
        for kept, mode in self._kept.values():
            kept.chmod(mode)
        for path, file in state.names.items():
            source = self._kept[file][0] if file in self._kept else made.get(file)
            if source is not None:
                os.link(source, path)
            else:
                made[file] = Path(path)
                made[file].write_bytes(state.contents[file])

    def wrong(self, *, done: bool, repeat: bool) -> str:
        """Return what is wrong with the state that was made; "" for nothing."""
        try:
            stories.users_files(self.story, self.before, self.folder, self.home)
            stories.stored(self.story, self.home, self.folder)
            stories.whole(self.story, self.home, self.folder, done=done)
            if repeat:
                stories.again(self.story, 1, self.home, self.folder)
                stories.stored(self.story, self.home, self.folder)
        except Exception:  # noqa: BLE001  # shown
            traceback.print_exc()
            return traceback.format_exc(limit=0).splitlines()[-1][:300]
        return ""


def main(name: str, extent: str, root: Path, forgotten: str = "") -> None:
    """Record, replay, print; as if the syncs called ``forgotten`` had not been done."""
    story = STORIES[name]
    warm(story, root)
    replay = Replay(story, root)
    start, recorded = replay.record()
    ops = [op for op in recorded if op[0] != forgotten]
    wrong: list[str] = []
    states = 0
    wide = extent != "quick"
    for number, (end, mode, state) in enumerate(disks(start, ops, wide=wide)):
        if extent == "some" and number % SOME and end < len(ops):
            continue
        states += 1
        replay.make(state)
        found = replay.wrong(
            done=end == len(ops) and not story.late, repeat=wide or states % 4 == 0
        )
        if found:
            wrong.append(f"after {end} of {len(ops)} calls, {mode}: {found}")
    print(json.dumps({"places": states, "calls": len(ops), "wrong": wrong}))


def command(words: list[str]) -> None:
    """Run the words of a command line."""
    main(words[0], words[1], Path(words[2]), *words[3:])


__all__ = ["command", "prepare"]

if __name__ == "__main__":
    command(sys.argv[1:])
