"""A loader that does everything wrong. Run in a process of its own: careless.py READER FILE…"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path


class Careless(pickle.Unpickler):  # noqa: TID251  # the point of this file: payloads must be live
    def persistent_load(self, pid: object) -> object:
        return pid


def streamed(raw: bytes) -> Iterator[bytes]:
    """Every data.pkl by its local header, from the start of the file."""
    at = raw.find(b"PK\x03\x04")
    while at >= 0:
        size, n, x = struct.unpack_from("<I4xHH", raw, at + 18)
        start = at + 30 + n + x
        if raw[at + 30 : at + 30 + n].endswith(b"data.pkl"):
            yield raw[start : start + size]
        at = raw.find(b"PK\x03\x04", start + size)


def programs(reader: str, path: Path) -> Iterator[bytes]:
    raw = path.read_bytes()
    if reader.startswith("stream"):
        found = list(streamed(raw))
        yield from found if reader == "stream_all" else found[:1]
        return
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if info.filename.endswith("data.pkl")]
        info = infos[0] if reader == "first" else infos[-1]
        yield archive.open(info).read()


def load(reader: str, path: Path) -> None:
    for program in programs(reader, path):
        file = io.BytesIO(program)
        while file.tell() < len(program):
            Careless(file).load()
            if reader != "repeat":
                break


if __name__ == "__main__":
    for file in sys.argv[2:]:
        try:
            load(sys.argv[1], Path(file))
        except BaseException as error:  # noqa: BLE001  # one payload must not stop the others
            print(file, repr(error), file=sys.stderr)
