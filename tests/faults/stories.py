"""The verbs that faults strike, what comes before each, and what must be true afterwards whatever happened."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fixtures import small
from memcard.errors import NotFoundError
from memcard.jobs._stored import bones
from memcard.jobs.library import Library

OLD = small.weights(1, size=900)
NEW = small.weights(2, size=1100)
THIRD = small.weights(3, size=500)


def _near(arrays: small.Arrays, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {n: (a + rng.standard_normal(a.shape) * 1e-3).astype(a.dtype) for n, a in arrays.items()}


BASE = small.weights(5, "F32", size=4000)
TUNE = _near(BASE, 6)
MERGE = {n: ((BASE[n].astype("f8") + TUNE[n]) / 2).astype("f4") for n in BASE}
TRIO = {"base": BASE, "tune": TUNE, "merge": MERGE}


class Story(NamedTuple):
    """A verb, and what is asked of the library after it.

    Attributes:
        verb: what the fault strikes.
        gives: names that must be there when it was done, with the weights they mean.
        prepare: what comes before it.
        keeps: names, with their weights, that must be there at every moment, without any file of the user's.
        moves: names, with their weights, of files of the user's that the verb takes away.
        packs: torch and the codecs are needed.
        brings: names, with their weights, of files of the user's that the verb puts back.
        late: what it gives was there before, and is served only afterwards. It mends what it can and is no
            failure if it cannot write, so it is given again in any case.
        proof: what else must hold when it was done.
    """

    verb: Callable[[Library, Path], object]
    gives: Mapping[str, small.Arrays]
    prepare: Callable[[Library, Path], object]
    keeps: Mapping[str, small.Arrays]
    moves: Mapping[str, small.Arrays] = {}
    packs: bool = False
    brings: Mapping[str, small.Arrays] = {}
    late: bool = False
    proof: Callable[[Library], object] = lambda library: True


def start(folder: Path) -> None:
    """Make the user's files."""
    folder.mkdir(parents=True, exist_ok=True)
    small.save(folder / "old.safetensors", OLD)
    small.save(folder / "new.safetensors", NEW)


def begun(library: Library, folder: Path) -> None:
    library.add([folder / "old.safetensors"], how="copy")


def _changed(library: Library, folder: Path) -> None:
    begun(library, folder)
    library.add([folder / "new.safetensors"])
    small.save(folder / "new.safetensors", THIRD)


def _removed(library: Library, folder: Path) -> None:
    begun(library, folder)
    library.add([folder / "new.safetensors"], how="copy")
    library.rm("new")


def _emptied(library: Library, folder: Path) -> None:
    _removed(library, folder)
    library.gc(days=0)


def _touched(library: Library, folder: Path) -> None:
    begun(library, folder)
    library.add([folder / "new.safetensors"])
    os.utime(folder / "new.safetensors", ns=(10**18, 10**18))


def _trio(library: Library, folder: Path) -> None:
    for number, (name, arrays) in enumerate(TRIO.items()):
        path = small.save(folder / f"{name}.safetensors", arrays)
        os.utime(path, ns=(10**18, 10**18 + number))
        library.add([path], how="copy")


def packed(library: Library, folder: Path) -> None:
    _trio(library, folder)
    library.pack(threads=1)


def _twice(library: Library, folder: Path) -> None:
    """All is packed, and plain copies have come since."""
    packed(library, folder)
    for name in TRIO:
        library.add([folder / f"{name}.safetensors"], how="copy")


def _alone(library: Library, folder: Path) -> None:
    """Files of the user's, where they are."""
    for name, arrays in TRIO.items():
        path = small.save(folder / f"{name}.safetensors", arrays)
        os.utime(path, ns=(10**18, 10**18))
        library.add([path])


def _replaced(library: Library, folder: Path) -> None:
    library.pack("base", threads=1, replace_originals=True)


def _gone(library: Library, folder: Path) -> None:
    """A file of the user's is packed and in the trash."""
    _alone(library, folder)
    _replaced(library, folder)


def _half(library: Library, folder: Path) -> None:
    """All is packed; a name and its pack are to go."""
    packed(library, folder)
    library.rm("tune", "merge")


def _rotten(library: Library, folder: Path) -> None:
    """All is packed, and a pack has rotted; the user's files are there to mend it from."""
    packed(library, folder)
    pack = max(library.layout.packs.rglob("*.pack"), key=lambda path: path.stat().st_size)
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 3] ^= 4
    pack.chmod(0o644)
    pack.write_bytes(raw)


def _is_mended(library: Library) -> bool:
    with hidden(library.path.parent / "models"):
        for name, weights in TRIO.items():
            exports(library, name, weights, library.path.parent)
    return True


def _beheaded(library: Library, folder: Path) -> None:
    """The file that says that it is a library is lost, and an unfinished file lies about."""
    packed(library, folder)
    library.layout.card.unlink()
    (library.layout.tmp / ("a" * 16 + "-1")).write_bytes(b"litter")


def _card(library: Library, folder: Path) -> None:
    from memcard.jobs.card import set_card

    os.environ["MEMCARD_HOME"] = str(library.path)
    set_card("old", [("title", "Neon"), ("tags", "one, two")])


def _has_card(library: Library) -> bool:
    from memcard.jobs.card import card

    os.environ["MEMCARD_HOME"] = str(library.path)
    found = card("old")
    return (found.title, found.tags) == ("Neon", ("one", "two"))


def _add(how: Any = "in-place") -> Callable[[Library, Path], object]:
    return lambda library, folder: library.add([folder / "new.safetensors"], how=how)


def _out(name: str) -> Callable[[Library, Path], object]:
    return lambda library, folder: library.export(name, folder / "out.safetensors")


_KEEPS: Mapping[str, small.Arrays] = {"old": OLD}
STORIES: dict[str, Story] = {
    "first": Story(_add(), {"new": NEW}, lambda lib, f: None, {}),
    "add": Story(_add(), {"new": NEW}, begun, _KEEPS),
    "add_link": Story(_add("link"), {"new": NEW}, begun, _KEEPS),
    "add_copy": Story(_add("copy"), {"new": NEW}, begun, _KEEPS),
    "add_move": Story(_add("move"), {"new": NEW}, begun, _KEEPS, moves={"new": NEW}),
    "add_changed": Story(_add(), {"new": THIRD}, _changed, _KEEPS),
    "rm": Story(lambda lib, f: lib.rm("old"), {}, begun, {}),
    "undo": Story(lambda lib, f: lib.undo(), {"new": NEW}, _removed, _KEEPS),
    "gc": Story(lambda lib, f: lib.gc(days=0), {}, _removed, _KEEPS),
    "gc_twice": Story(lambda lib, f: lib.gc(days=0), {}, _emptied, _KEEPS),
    "undo_gc": Story(lambda lib, f: lib.undo(), {}, _emptied, _KEEPS),
    "export": Story(_out("old"), {}, begun, _KEEPS),
    "verify": Story(lambda lib, f: lib.verify(), {"new": NEW}, _touched, _KEEPS, late=True),
    "card": Story(_card, {}, begun, _KEEPS, proof=_has_card),
    "pack": Story(lambda lib, f: lib.pack(threads=1), {}, _trio, TRIO, packs=True),
    "pack_replace": Story(_replaced, TRIO, _alone, {}, packs=True, moves={"base": BASE}),
    "undo_pack": Story(lambda lib, f: lib.undo(), {"base": BASE}, _gone, {"base": BASE}, packs=True, brings={"base": BASE}),
    "pack_again": Story(lambda lib, f: lib.pack(threads=1), {}, _twice, TRIO, packs=True),
    "export_packed": Story(_out("merge"), {}, packed, TRIO, packs=True),
    "repair": Story(lambda lib, f: lib.repair(), TRIO, _rotten, {}, packs=True, late=True, proof=_is_mended),
    "doctor": Story(lambda lib, f: lib.doctor(fix=True), TRIO, _beheaded, {}, packs=True, late=True, proof=_is_mended),
    "gc_packed": Story(lambda lib, f: lib.gc(days=0), {}, _half, {"base": BASE}, packs=True),
}  # fmt: skip


def states(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what can be seen of the user's files."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        stat = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.name] = (digest, stat.st_mtime_ns, stat.st_mode)
    found.pop("out.safetensors", None)
    return found


def _mode(folder: Path) -> tuple[object]:
    """Return the mode that all files of the user's have."""
    (mode,) = {path.stat().st_mode for path in folder.glob("*.safetensors")}
    return (mode,)


_SHA: dict[int, str] = {}


def sha_of(weights: small.Arrays, root: Path) -> str:
    """Return the SHA-256 of these weights as a file."""
    if id(weights) not in _SHA:
        path = small.save(root / "expected.tmp", weights)
        _SHA[id(weights)] = hashlib.sha256(path.read_bytes()).hexdigest()
        path.unlink()
    return _SHA[id(weights)]


@contextmanager
def hidden(folder: Path) -> Iterator[None]:
    """Take the user's files away for a moment: what the library owns must not need them."""
    aside = folder.with_name("hidden")
    folder.rename(aside)
    try:
        yield
    finally:
        aside.rename(folder)


def users_files(
    story: Story, before: Mapping[str, tuple[object, ...]], folder: Path, home: Path
) -> None:
    """No byte, time or mode of a user's file is another; what was moved is in the library."""
    after, expected = states(folder), dict(before)
    for name, weights in story.moves.items():
        if f"{name}.safetensors" not in after:
            del expected[f"{name}.safetensors"]
            with hidden(folder):
                exports(Library(home), name, weights, folder.parent)
    for name, weights in story.brings.items():
        if f"{name}.safetensors" in after:  # whole, and with the time and mode it had
            sha256 = sha_of(weights, folder.parent)
            expected[f"{name}.safetensors"] = (sha256, 10**18, *_mode(folder))
    assert after == expected, (expected, after)
    out = folder / "out.safetensors"
    if out.exists():  # there whole or not at all
        name = "old" if "old" in story.keeps else "merge"
        assert hashlib.sha256(out.read_bytes()).hexdigest() == sha_of(
            story.keeps[name], folder.parent
        )


def stored(story: Story, home: Path, folder: Path) -> None:
    """What was in the library before is there, exact, without a file of the user's."""
    bones.cache_clear()  # what an earlier state had must not help this one
    library = Library(home)
    assert not story.keeps or library.ls().faults == ()
    with hidden(folder):
        for name, weights in story.keeps.items():
            exports(library, name, weights, folder.parent)


def whole(story: Story, home: Path, folder: Path, *, done: bool) -> None:
    """What the verb gives is there whole, or not at all; if it was ``done``, it is there."""
    library = Library(home)
    if not done and (story.late or not (home / "library.json").exists()):
        return
    assert not done or story.proof(library)
    for name, weights in story.gives.items():
        if not done and name not in {entry.name for entry in library.ls().entries}:
            continue
        if not done and _means_before(library, name, weights):
            continue
        exports(library, name, weights, folder.parent)


def _means_before(library: Library, name: str, weights: small.Arrays) -> bool:
    """Whether a name means still what it meant before the verb."""
    entry = next(e for e in library.ls().entries if e.name == name)
    return entry.sha256 != sha_of(weights, library.path.parent)


def exports(library: Library, name: str, weights: small.Arrays, root: Path) -> None:
    """Export a name and compare what comes with what was added."""
    out = root / "exported.safetensors"
    library.export(name, out, overwrite=True)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == sha_of(weights, root), name
    out.unlink()


def again(story: Story, code: int, home: Path, folder: Path) -> None:
    """The same command on a sound disk, unless it is done, ends as if nothing had happened."""
    library = Library(home)
    if code != 0 or story.late:
        (folder / "out.safetensors").unlink(missing_ok=True)
        try:
            story.verb(library, folder)
        except NotFoundError:
            if story.gives:  # it was done but for its last words
                whole(story, home, folder, done=True)
    whole(story, home, folder, done=True)
    library.gc()  # a writer, which sweeps
    assert [list((home / f).iterdir()) for f in ("tmp", "leases")] == [[], []]
    assert [f for f in (home / "trash").glob("*") if not (f / "journal.json").exists()] == []
    assert list((home / "packs").glob(".*")) == []
    assert [p for p in folder.iterdir() if p.name.startswith(".")] in ([], _parts(folder))


def _parts(folder: Path) -> list[Path]:
    """Unfinished exports of killed processes: the next export of the same name removes them."""
    return list(folder.glob(".out.safetensors.*.part"))


def copied(home: Path, to: Path) -> None:
    """Copy a library; links between its files and the user's stay links."""
    shutil.rmtree(to, ignore_errors=True)
    home.mkdir(exist_ok=True)
    shutil.copytree(home, to, copy_function=_copy)


def _copy(source: str, target: str) -> None:
    if os.stat(source).st_nlink > 1:  # noqa: PTH116
        os.link(source, target)
    else:
        shutil.copy2(source, target)
