"""What is fuzzed: a reader each, how its seeds are changed, and how a change becomes files."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fixtures.zip_bytes import Entry, zipped
from fuzz.mutate_bytes import EDGES, mutate_bytes
from fuzz.mutate_json import mutate_json
from fuzz.mutate_pickle import mutate_pickle

SEEDS = Path(__file__).parent / "seeds"
Mutate = Callable[[bytes, Random, Sequence[bytes]], bytes]
LIES = ("flags", "method", "crc", "packed", "size", "header", "disk")


def members(raw: bytes) -> list[Entry]:
    """The members of a sound archive."""
    found = []
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for info in archive.infolist():
            method = 8 if info.compress_type == 8 else 0
            found.append(Entry(info.filename.encode(), archive.read(info), method))
    return found


def mutate_zip(raw: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Change a member's content and pack it truthfully, or let one field of the archive lie."""
    kind = rng.randrange(10)
    try:
        parts = members(raw)
    except Exception:  # noqa: BLE001  # a seed that is already broken is changed as bytes
        kind = 9
        parts = []
    if kind == 9 or not parts:
        return mutate_bytes(raw, rng, others)
    entry = rng.choice(parts) if kind > 4 else parts[0]
    if kind <= 4:
        programs = [m.content for other in others[:8] for m in _quiet(other)[:1]]
        entry.content = mutate_pickle(entry.content, rng, programs)
    elif kind <= 6:
        lies = rng.choice((entry.in_header, entry.in_directory))
        field = rng.choice(LIES)
        lies[field] = rng.choice(EDGES) & (
            0xFFFF if field in ("flags", "method", "disk") else 0xFFFFFFFF
        )
    elif kind == 7:
        entry.content = mutate_bytes(entry.content, rng)
        entry.method = rng.choice((0, 8))
    else:
        entry.extra = struct.pack("<HH", 1, 8 * rng.randrange(4)) + struct.pack(
            "<2Q", *rng.choices(EDGES, k=2)
        )
        entry.gap = rng.choice((b"", b"", b"x"))
        lies = {rng.choice(("total", "size", "start", "here")): rng.choice(EDGES) & 0xFFFF}
        return zipped(parts, **(lies if rng.random() < 0.3 else {}))
    return zipped(parts)


def _quiet(raw: bytes) -> list[Entry]:
    try:
        return members(raw)
    except Exception:  # noqa: BLE001  # as above
        return []


def mutate_legacy(raw: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Change instructions of one of the five programs, or bytes anywhere."""
    if rng.random() < 0.3:
        return mutate_bytes(raw, rng, others)
    ends, at = [], 0
    for _ in range(5):
        at = raw.find(b".", at) + 1
        ends.append(at)
    # The real ends are unknown without a parser; any cut at a STOP will do.
    start, end = sorted(rng.sample([0, *ends, len(raw)], 2))
    return raw[:start] + mutate_pickle(raw[start:end], rng, ()) + raw[end:]


def mutate_safetensors(raw: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Change the header as JSON and keep its length true, or bytes anywhere."""
    if rng.random() < 0.3 or len(raw) < 10:
        return mutate_bytes(raw, rng, others)
    length = int.from_bytes(raw[:8], "little")
    header = mutate_json(raw[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + raw[8 + length :]


def tree(folder: Path) -> bytes:
    """A folder as one seed."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return json.dumps(
        {str(f.relative_to(folder)): base64.b64encode(f.read_bytes()).decode() for f in files}
    ).encode()


def mutate_tree(raw: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Change one file of a folder, most often a JSON file; or lose it, or rename it."""
    files = {name: base64.b64decode(content) for name, content in json.loads(raw).items()}
    texts = [name for name in files if name.endswith(".json")]
    name = rng.choice((texts if rng.random() < 0.8 else []) or list(files) or ["x.json"])
    files.setdefault(name, b"{}")
    match rng.randrange(8):
        case 0:
            files.pop(name)
        case 1:
            files[name + rng.choice((".fp16", ".x", "2"))] = files.pop(name)
        case _ if name.endswith(".json"):
            files[name] = mutate_json(files[name], rng)
        case _ if files[name][:2] == b"PK":
            files[name] = mutate_zip(files[name], rng, ())
        case _:
            files[name] = mutate_safetensors(files[name], rng, ())
    return json.dumps({n: base64.b64encode(c).decode() for n, c in files.items()}).encode()


def put_file(raw: bytes, folder: Path) -> Path:
    path = folder / "input.bin"
    path.write_bytes(raw)
    return path


def put_tree(raw: bytes, folder: Path) -> Path:
    """Write the files; open the index if there is one at the top, else the folder.

    Raises:
        ValueError: the input is no tree of files, or would leave the folder.
    """
    files = json.loads(raw)
    if not isinstance(files, dict) or not all(isinstance(c, str) for c in files.values()):
        raise ValueError("no map of names to contents")
    for name, content in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name!r} leaves the folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))
    index = sorted(folder.glob("*.index.json"))
    return index[0] if index else folder


@dataclass(frozen=True)
class Target:
    """One reader under attack; its seeds lie in ``seeds/<name>``."""

    name: str
    mutate: Mutate
    put: Callable[[bytes, Path], Path] = put_file

    def seeds(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((SEEDS / self.name).iterdir())]


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("torch_zip", mutate_zip),
        Target("torch_legacy", mutate_legacy),
        Target("bare_pickle", mutate_pickle),
        Target("safetensors", mutate_safetensors),
        Target("gguf", mutate_bytes),
        Target("sharded", mutate_tree, put_tree),
        Target("diffusers_folder", mutate_tree, put_tree),
    )
}
