"""Strikes one verb at every call that changes the disk, one after another, each in a process of its own.

Run as a program: ``strike.py STORY FAULT FOLDER [EACH FIRST]`` prints how many places there were and what went wrong;
with EACH only one of so many calls is struck, beginning with the FIRST.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults import stories
from faults.disk import KILLED, Disk, Fault
from faults.stories import STORIES, Story
from memcard.errors import DiskError, MemcardError
from memcard.jobs.library import Library

MOST = 2000
_FAILED = 1
_PREPARED = set[bool]()


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


class Stage:
    """A library before the verb, which can be had again for each strike."""

    def __init__(self, story: Story, root: Path) -> None:
        self.story, self.root = story, root
        self.folder, self.home = root / "models", root / "home"

    def set(self) -> None:
        """Make it as it was before the verb; files of the user's stay the very ones."""
        before = self.root / "before"
        if self.story.moves or not before.exists():
            shutil.rmtree(self.root, ignore_errors=True)
            stories.start(self.folder)
            assert in_child(lambda: self.story.prepare(Library(self.home), self.folder)) == 0
            stories.copied(self.home, before)
            return
        for path in self.folder.iterdir():
            if path.name.startswith((".", "out.")):
                path.unlink()
        stories.copied(before, self.home)

    def play(self, fault: Fault, at: int) -> tuple[list[str], bool]:
        """Strike at one call; return what went wrong, and whether the verb came to its end."""
        self.set()
        before = stories.states(self.folder)
        disk = Disk(at, fault)
        end = self.root / "reached the end"

        def struck() -> None:
            disk.install()
            self.story.verb(Library(self.home), self.folder)
            disk.over = True
            if disk.count < at:
                end.touch()

        code = in_child(struck)
        over = end.exists()
        end.unlink(missing_ok=True)
        wrong: list[str] = []
        if code not in (0, KILLED, DiskError.exit_code):
            wrong.append(f"exit code {code}")
        if fault in ("kill", "torn") and not over and code != KILLED:
            wrong.append(f"not killed, but {code}")

        def checked() -> None:
            stories.users_files(self.story, before, self.folder, self.home)
            stories.stored(self.story, self.home, self.folder)
            stories.whole(
                self.story, self.home, self.folder, done=code == 0 and not self.story.late
            )
            stories.again(self.story, code, self.home, self.folder)
            stories.stored(self.story, self.home, self.folder)

        if (after := in_child(checked)) != 0:
            wrong.append(f"check failed ({after}) after exit code {code}")
        return [f"{fault} at call {at}: {text}" for text in wrong], over


def warm(story: Story, root: Path) -> None:
    """Import and compile what the children need: 20 times as fast."""
    if story.packs:
        import torch

        torch.set_num_threads(1)  # threads of its own would not be there after a fork
    stage = Stage(story, root / "warm")
    stories.start(stage.folder)
    story.prepare(Library(stage.home), stage.folder)
    story.verb(Library(stage.home), stage.folder)
    if not (stage.home / "refs" / "old.json").exists():
        stories.begun(Library(stage.home), stage.folder)
    library = Library(stage.home)
    library.add([stage.folder / "old.safetensors"])
    library.rm("old")
    library.undo()
    library.gc()
    library.export("old", root / "warm.out", overwrite=True)
    shutil.rmtree(stage.root)


def main(name: str, fault: Fault, root: Path, each: int = 1, first: int = 1) -> None:
    """Strike at every call, or one of ``each`` from the ``first`` on; print the number of places and what went wrong."""
    warm(STORIES[name], root)
    gc.collect()
    gc.freeze()  # else a collection in a child would copy all of it
    stage = Stage(STORIES[name], root / "stage")
    wrong: list[str] = []
    places = 0
    for at in range(first, MOST, each):
        found, over = stage.play(fault, at)
        wrong += found
        if over:
            break
        places += 1
    print(json.dumps({"places": places, "wrong": wrong}))


def prepare(words: list[str]) -> None:
    """Import and compile once, in the server, what this story needs."""
    prepare_for(packs=STORIES[words[0]].packs)


def prepare_for(*, packs: bool) -> None:
    """Run a verb, of those that pack if asked for."""
    if packs not in _PREPARED:
        _PREPARED.add(packs)
        with tempfile.TemporaryDirectory(prefix="memcard-warm-") as folder:
            warm(STORIES["pack" if packs else "add"], Path(folder))


def command(words: list[str]) -> None:
    """Run the words of a command line."""
    main(words[0], cast("Fault", words[1]), Path(words[2]), *(int(n) for n in words[3:]))


if __name__ == "__main__":
    command(sys.argv[1:])
