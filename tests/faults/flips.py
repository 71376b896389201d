"""Flips one bit anywhere in a library, and asks for everything: an error or the right bytes, nothing else.

Run as a program: ``flips.py PLACES SEED FOLDER`` prints what was flipped how often and what went wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults import stories
from faults.stories import NEW, OLD, THIRD, TRIO
from faults.strike import prepare_for
from fixtures import small
from memcard.errors import MemcardError
from memcard.jobs._stored import bones
from memcard.jobs.card import card, set_card
from memcard.jobs.library import Library

ALL = {"old": OLD, "new": NEW, "third": THIRD, **TRIO}
ROTTING = ("files", "models")  # plain files: `open` reads them as they are, by design


def build(root: Path) -> Library:
    """Make a library that has one of everything: packs, a recipe, own and other files, a card, a trash."""
    folder, library = root / "models", Library(root / "home")
    os.environ["MEMCARD_HOME"] = str(root / "home")
    stories.start(folder)
    stories.packed(library, folder)
    for name in TRIO:
        (folder / f"{name}.safetensors").unlink()
    library.add([folder / "old.safetensors"], how="copy")
    library.add([folder / "new.safetensors"])
    library.add([small.save(folder / "third.safetensors", THIRD)], how="link")
    set_card("old", [("title", "Neon")])
    library.add([small.save(folder / "gone.safetensors", small.weights(9, size=300))], how="move")
    library.rm("gone")
    return library


def everything(library: Library, root: Path, *, opened: bool) -> int:
    """Ask for everything; count the errors.

    Raises:
        AssertionError: a wrong byte was handed on.
    """
    bones.cache_clear()
    faults, truth = 0, {name: stories.sha_of(w, root) for name, w in ALL.items()}
    try:
        listing = library.ls()
        faults += len(listing.faults)
        assert {e.name: e.sha256 for e in listing.entries}.items() <= truth.items(), listing
    except MemcardError:
        faults += 1
    try:
        assert card("old").title == "Neon"
    except MemcardError:
        faults += 1
    for name, weights in ALL.items():
        for ask in (_export, _open) if opened else (_export,):
            try:
                ask(library, name, weights, root)
            except MemcardError:
                faults += 1
    return faults


def _export(library: Library, name: str, weights: small.Arrays, root: Path) -> None:
    out = root / "out.safetensors"
    out.unlink(missing_ok=True)
    library.export(name, out)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == stories.sha_of(weights, root), name


def _open(library: Library, name: str, weights: small.Arrays, root: Path) -> None:
    with library.open(name) as checkpoint:
        assert set(checkpoint.specs) == set(weights), name
        for tensor, array in weights.items():
            assert checkpoint.specs[tensor] == small.spec_of(array), (name, tensor)
            assert bytes(checkpoint.read(tensor)) == array.tobytes(), (name, tensor)


def flip(path: Path, at: int, bit: int) -> None:
    """Flip one bit as a disk does: size and time stay."""
    stat = path.stat()
    path.chmod(0o644)
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def shelf_of(root: Path, path: Path) -> str:
    """Return which part of the library a file belongs to."""
    parts = path.relative_to(root).parts
    return parts[0] if parts[0] != "home" else parts[1]


def undone(library: Library, root: Path) -> int:
    """Take back the last removal in a copy of the library; what comes back must be what went."""
    copy = root / "copy"
    stories.copied(library.path, copy)
    try:
        told = Library(copy).undo()
    except MemcardError:
        return 1
    finally:
        found = Library(copy).ls()
    names = {entry.name for entry in found.entries}
    assert "gone" in names or found.faults, (told, names)
    return len(found.faults)


def main(places: int, seed: int, root: Path) -> None:
    """Flip, ask, flip back."""
    import torch

    torch.set_num_threads(1)
    library = build(root)
    assert everything(library, root, opened=True) == 0
    shelves: dict[str, list[Path]] = {}
    for path in sorted([*library.path.rglob("*"), *(root / "models").rglob("*")]):
        if path.is_file() and path.stat().st_size:
            shelves.setdefault(shelf_of(root, path), []).append(path)
    chance = random.Random(seed)
    counts, told, wrong = Counter[str](), Counter[str](), []
    for number in range(places):
        shelf = list(shelves)[number % len(shelves)]
        path = chance.choice(shelves[shelf])
        at, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
        counts[shelf] += 1
        flip(path, at, bit)
        try:
            faults = everything(library, root, opened=shelf not in ROTTING)
            if shelf in ROTTING:
                faults += not library.verify().ok
            if shelf == "trash":
                faults += undone(library, root)
            told[shelf] += faults > 0
        except Exception as error:  # noqa: BLE001  # shown
            traceback.print_exc()
            wrong.append(f"{path.relative_to(root)} byte {at} bit {bit}: {error!r}"[:300])
        flip(path, at, bit)
    assert everything(library, root, opened=True) == 0  # reading damaged what was whole?
    shutil.rmtree(root)
    print(json.dumps({"places": places, "shelves": counts, "told": told, "wrong": wrong}))


def prepare(words: list[str]) -> None:
    """Import and compile once, in the server, what packs need."""
    prepare_for(packs=True)


def command(words: list[str]) -> None:
    """Run the words of a command line."""
    main(int(words[0]), int(words[1]), Path(words[2]))


if __name__ == "__main__":
    command(sys.argv[1:])
