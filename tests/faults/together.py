"""Writers, a packer, a collector and a reader with one library, for some seconds, each in its own process.

Run as a program: ``together.py SECONDS FOLDER`` prints how often each did its work and what went wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults import stories
from faults.stories import BASE, NEW, OLD, THIRD, TRIO
from fixtures import small
from memcard.errors import IntegrityError, LockedError, NotFoundError, UsageError
from memcard.jobs.library import Library

STAYS = {"old": OLD, **TRIO}  # these are never removed: a reader must find them at every moment
COMES = {"new": NEW, "third": THIRD}
Round = Callable[[Library, Path, int], None]


def writer(library: Library, folder: Path, number: int) -> None:
    """Add, remove, take back."""
    how = ("in-place", "link", "copy")[number % 3]
    library.add([folder / "new.safetensors"], how=how)  # type: ignore[arg-type]
    library.rm("new")
    if number % 2:
        library.undo()


def other_writer(library: Library, folder: Path, number: int) -> None:
    """As a writer, with files that change."""
    path = folder / "third.safetensors"
    if number % 4 == 0:
        small.save(path, {n: a + number for n, a in THIRD.items()})
    elif number % 4 == 2:
        small.save(path, THIRD)
    library.add([path], how="copy" if number % 2 else "in-place")
    library.add([folder / "old.safetensors"], how="copy")


def packer(library: Library, folder: Path, number: int) -> None:
    """Pack what is there."""
    library.pack(threads=1)


def collector(library: Library, folder: Path, number: int) -> None:
    """Put away and remove for good, with no time of grace at all."""
    library.gc(days=0)
    library.verify(sample=0.5, seed=number)


def reader(library: Library, folder: Path, number: int) -> None:
    """Read what must be there, and what may be."""
    assert library.ls().faults == ()
    for name, weights in STAYS.items():
        with library.open(name) as checkpoint:
            for tensor, array in weights.items():
                assert bytes(checkpoint.read(tensor)) == array.tobytes(), (name, tensor)
    name = list(STAYS)[number % len(STAYS)]
    out = folder.parent / "read.safetensors"
    library.export(name, out, overwrite=True)
    found = hashlib.sha256(out.read_bytes()).hexdigest()
    assert found == stories.sha_of(STAYS[name], folder.parent)


ROLES: dict[str, Round] = {
    "writer": writer, "other writer": other_writer, "packer": packer, "collector": collector, "reader": reader,
}  # fmt: skip
# What may happen to one of them because of the others: the thing it wanted is removed by now, or has come back.
LAWFUL = {
    "writer": (NotFoundError, UsageError),
    "other writer": (UsageError,),
    "packer": (IntegrityError,),  # what it packed was put away in between: it says to do it again
    "collector": (),
    "reader": (),
}


def _run(role: str, root: Path, seconds: float) -> Iterator[tuple[int, int, str]]:
    library, folder = Library(root / "home"), root / "models"
    end, rounds, refused = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        try:
            ROLES[role](library, folder, rounds)
        except LAWFUL[role]:
            refused += 1
        except LockedError as error:
            yield rounds, refused, repr(error)
            return
        except Exception as error:  # noqa: BLE001  # shown
            traceback.print_exc()
            yield rounds, refused, f"round {rounds}: {error!r}"
            return
        rounds += 1
    yield rounds, refused, ""


def _child(role: str, root: Path, seconds: float) -> int:
    pid = os.fork()
    if pid == 0:
        for found in _run(role, root, seconds):
            (root / f"told {role}").write_text(json.dumps(found))
        os._exit(0)
    return pid


def _end(root: Path) -> list[str]:
    """What must hold when all is quiet again."""
    library, wrong = Library(root / "home"), []
    for path in (root / "models").iterdir():
        if path.name != "old.safetensors":
            path.unlink()
    library.gc(days=0)
    for name, weights in STAYS.items():
        stories.exports(library, name, weights, root)
    if not library.verify(*STAYS).ok:
        wrong.append(str(library.verify(*STAYS).faults))
    litter = [p.name for f in ("tmp", "leases") for p in (root / "home" / f).iterdir()]
    litter += [p.name for p in (root / "home" / "packs").glob(".*")]
    return wrong + [f"litter: {name}" for name in litter]


def main(seconds: float, root: Path) -> None:
    """Begin all, wait, look."""
    import torch

    torch.set_num_threads(1)
    library, folder = Library(root / "home"), root / "models"
    stories.start(folder)
    stories.packed(library, folder)
    for name in TRIO:
        (folder / f"{name}.safetensors").unlink()
    library.add([folder / "old.safetensors"], how="copy")
    before = stories.states(folder)
    small.save(folder / "third.safetensors", THIRD)
    children = [_child(role, root, seconds) for role in ROLES]
    crashed = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    told = {role: json.loads((root / f"told {role}").read_text()) for role in ROLES}
    wrong = [f"{role}: {error}" for role, (_, _, error) in told.items() if error]
    wrong += [f"exit code {code}" for code in crashed if code]
    after = stories.states(folder)
    after.pop("third.safetensors", None)
    wrong += [] if after == before else [f"a user's file is another: {before} {after}"]
    wrong += _end(root)
    shutil.rmtree(root)
    rounds = Counter({role: done for role, (done, _, _) in told.items()})
    print(json.dumps({"rounds": rounds, "places": rounds.total(), "wrong": wrong}))


if __name__ == "__main__":
    assert BASE is STAYS["base"]
    main(float(sys.argv[1]), Path(sys.argv[2]))
