"""A loader that does everything wrong. Run in a process of its own: careless.py READER PATH…

Each reader is how some real program finds pickles in a file; it runs whatever it finds.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import posixpath
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Programs = Iterable[bytes]


class Careless(pickle.Unpickler):  # noqa: TID251  # the point of this file: payloads must be live
    def persistent_load(self, pid: object) -> object:
        """An empty storage where torch would read one; anything else comes back as it is."""
        if isinstance(pid, tuple) and pid[0] == "storage" and isinstance(pid[1], type):
            return pid[1](pid[4])
        return pid


def run(program: bytes, *, repeat: bool = False) -> None:
    file = io.BytesIO(program)
    Careless(file).load()
    while repeat and file.tell() < len(program):
        Careless(file).load()


def local_programs(raw: bytes) -> Iterator[bytes]:
    """Every data.pkl by its local header, from the start of the file."""
    at = raw.find(b"PK\x03\x04")
    while at >= 0:
        size, n, x = struct.unpack_from("<I4xHH", raw, at + 18)
        start = at + 30 + n + x
        if raw[at + 30 : at + 30 + n].endswith(b"data.pkl"):
            yield raw[start : start + size]
        at = raw.find(b"PK\x03\x04", start + size)


def contents(
    path: Path | io.BytesIO, wanted: Callable[[str], bool], end: int | None = None
) -> Iterator[bytes]:
    """Members as the directory tells them; ``end`` picks one."""
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if wanted(info.filename)]
        for info in infos if end is None else [infos[end]]:
            yield archive.open(info).read()


def is_program(name: str) -> bool:
    return name.endswith("data.pkl")


def tidy(name: str) -> bool:
    """As a program that unpacks on Windows or macOS sees names."""
    return is_program(posixpath.normpath(name.replace("\\", "/")).lower())


def every_member(path: Path) -> Iterator[bytes]:
    yield from (raw for raw in contents(path, lambda _: True) if raw[:1] == b"\x80")


def archives_inside(path: Path) -> Iterator[bytes]:
    for raw in contents(path, lambda _: True):
        if raw[:2] == b"PK":
            yield from contents(io.BytesIO(raw), is_program)


def tar_members(path: Path) -> Iterator[bytes]:
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if file := archive.extractfile(member):
                yield file.read()


def carved(path: Path) -> Iterator[bytes]:
    """What looks like a pickle anywhere."""
    raw = path.read_bytes()
    yield raw[raw.index(b"\x80\x02c") :]


def one_file(path: Path) -> Programs:
    """As torch.load decides: a zip by its first bytes, else pickles in a row."""
    raw = path.read_bytes()
    return contents(path, is_program, 0) if raw[:4] == b"PK\x03\x04" else [raw]


def shards(path: Path) -> Iterator[bytes]:
    for name in sorted(set(json.loads(path.read_text())["weight_map"].values())):
        yield from one_file(path.parent / name)


def beside(path: Path) -> Programs:
    """With the folder of the file on the path, as in a clone of somebody's repository."""
    sys.path.insert(0, str(path.parent))
    return one_file(path)


READERS: dict[str, Callable[[Path], Programs]] = {
    "zipfile": lambda path: contents(path, is_program, -1),
    "first": lambda path: contents(path, is_program, 0),
    "tidy": lambda path: contents(path, tidy, -1),
    "every_member": every_member,
    "inner": archives_inside,
    "stream": lambda path: [next(local_programs(path.read_bytes()))],
    "stream_all": lambda path: local_programs(path.read_bytes()),
    "repeat": lambda path: contents(path, is_program, -1),
    "rows": lambda path: [path.read_bytes()],
    "gzip": lambda path: [gzip.decompress(path.read_bytes())],
    "tar": tar_members,
    "carve": carved,
    "torch": one_file,
    "shards": shards,
    "folder": lambda path: (p for f in sorted(path.rglob("*.bin")) for p in one_file(f)),
    "beside": beside,
}
IN_A_ROW = ("repeat", "rows", "torch", "shards", "folder")


def load(reader: str, path: Path) -> None:
    if reader == "numpy":
        import numpy as np

        found = np.load(path, allow_pickle=True)
        _ = [found[name] for name in found] if hasattr(found, "files") else found
        return
    for program in READERS[reader](path):
        run(program, repeat=reader in IN_A_ROW)


if __name__ == "__main__":
    for file in sys.argv[2:]:
        try:
            load(sys.argv[1], Path(file))
        except BaseException as error:  # noqa: BLE001  # one payload must not stop the others
            print(file, repr(error), file=sys.stderr)
