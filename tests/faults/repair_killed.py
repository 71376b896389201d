"""Kill `repair` or `gc` at every n-th call that changes the disk; nothing that could be read before may be lost.

Run as a program in a fresh process: ``repair_killed.py VERB FOLDER STEP``. It prints faults as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.disk import KILLED, Disk
from fixtures.packed_library import PackedLibrary, flip
from memcard.errors import MemcardError
from memcard.jobs.library import Library
from memcard.store.pack import Pack

_DONE = 0


def prepare(verb: str, root: Path) -> PackedLibrary:
    kept = PackedLibrary(root)
    if verb == "repair":
        with Pack.open(kept.packs[-1]) as pack:
            at = [o.blocks[0].offset for o in pack.objects.values() if o.size > 1000]
        flip(kept.packs[-1], at[0] + 3)
    else:
        kept.library.rm("tune")
        kept.hide("base", "mix")
    return kept


def act(verb: str, library: Library) -> None:
    if verb == "repair":
        library.repair()
    else:
        library.gc(days=0)
        library.gc(days=0)


def strike(verb: str, library: Library, at: int) -> int:
    """Do it in a child that dies at a call; return how the child ended."""
    child = os.fork()
    if child == 0:
        try:
            Disk(at, "kill").install()
            act(verb, library)
        except BaseException:  # noqa: BLE001  # shown, and told by the exit code
            traceback.print_exc()
            os._exit(1)
        os._exit(_DONE)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def faults_of(verb: str, kept: PackedLibrary, library: Library, at: int) -> list[str]:
    found = []
    names = ("base", "mix") if verb == "gc" else tuple(kept.arrays)
    for name in names:
        try:
            done = library.export(name, kept.root / "out", overwrite=True)
            if done.sha256 != kept.digests[name]:
                found.append(f"{at}: {name} has other bytes")
        except MemcardError as error:
            found.append(f"{at}: {name}: {error}")
    act(verb, library)
    for name in names:
        if verb == "repair":
            shutil.move(kept.file(name), kept.file(name).with_suffix(".hidden"))
    if not (after := library.verify(*names)).ok:
        found.append(f"{at}: afterwards: {after.faults} {after.lost}")
    for name in names:
        if verb == "repair":
            shutil.move(kept.file(name).with_suffix(".hidden"), kept.file(name))
    return found


def main(verb: str, root: Path, step: int) -> None:
    kept, at, found = prepare(verb, root), 1, []
    home, saved = kept.library.path, root / "saved"
    shutil.copytree(home, saved)
    while True:
        shutil.rmtree(home)
        shutil.copytree(saved, home)
        ended = strike(verb, Library(home), at)
        if ended not in (KILLED, _DONE):
            found.append(f"{at}: the child ended with {ended}")
        found += faults_of(verb, kept, Library(home), at)
        if ended == _DONE:
            break
        at += step
    print(json.dumps({"places": at, "faults": found}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
