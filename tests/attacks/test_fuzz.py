"""Damaged files: whatever the damage, only typed errors leave the readers."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from fixtures.torch_archive import ONE_DATA, name, pack, state_dict, tensor, text
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import FormatError
from memcard.formats import FORMATS, open_file
from memcard.unpickle.machine import Machine
from memcard.unpickle.torch_rebuild import TorchRules
from memcard.unpickle.tree import flatten


def _torch_file() -> bytes:
    program = state_dict({"w": tensor("0", [2, 2], [1, 2]), "v": tensor("0", [4], [1])})
    members = [("archive/data.pkl", program), ("archive/byteorder", b"big")]
    return pack([*members, ("archive/data/0", ONE_DATA["0"]), ("archive/version", b"3\n")])


def _written(format_name: str, suffix: str, folder: Path) -> bytes:
    path = folder / f"seed{suffix}"
    specs = {n: Spec(DTYPES[n], (2, 4)) for n in ("F32", "F16", "F8_E4M3", "BOOL", "F4", "U64")}
    with FORMATS[format_name].create(path) as sink:
        sink.begin(specs, {"title": "x", "ü": "y"})
        for key, spec in specs.items():
            sink.write(key, memoryview(bytes(range(spec.nbytes))))
    return path.read_bytes()


def damage(raw: bytes, rng: random.Random) -> bytes:
    parts = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(parts))
        match rng.randrange(5):
            case 0:
                parts[at] ^= 1 << rng.randrange(8)
            case 1:
                parts[at] = rng.randrange(256)
            case 2:
                del parts[at : at + rng.randrange(1, 9)]
            case 3:
                parts[at:at] = rng.randbytes(rng.randrange(1, 9))
            case _:
                parts[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4))
    return bytes(parts)


def refusal(path: Path) -> FormatError | None:
    """Read every tensor; return the typed error that stopped it."""
    try:
        checkpoint = open_file(path)
        small = [n for n, spec in checkpoint.specs.items() if spec.nbytes < 1 << 20]
        sizes = {name: checkpoint.read(name).nbytes for name in small}
    except FormatError as error:
        return error
    assert sizes == {name: checkpoint.specs[name].nbytes for name in small}
    checkpoint.close()
    return None


@pytest.mark.parametrize("seed", ["torch", "ckpt", "safetensors"])
def test_a_damaged_file_is_read_or_refused_with_a_typed_error(seed: str, tmp_path: Path) -> None:
    raw = {
        "torch": _torch_file,
        "ckpt": lambda: _written("torch_zip", ".ckpt", tmp_path),
        "safetensors": lambda: _written("safetensors", ".safetensors", tmp_path),
    }[seed]()
    rng, file, refusals = random.Random(seed), tmp_path / "damaged", list[FormatError]()

    for _ in range(250):
        file.write_bytes(damage(raw, rng))
        if error := refusal(file):
            refusals.append(error)

    assert len(refusals) > 125
    assert [e for e in refusals if str(file) not in str(e) or not e.faults] == []


def _programs() -> list[bytes]:
    plain = {"a": [1, -5, 1 << 70, 2.5, None, True], "b": ("x", b"y", {"k": {1, 2}}), 3: "ü" * 300}
    made = [pickle.dumps(plain, protocol=p) for p in range(6)]
    views = state_dict({"w": tensor("0", [2, 2], [1, 2])})
    inert = b"\x80\x02}(" + text("args") + name("argparse", "Namespace") + b")\x81}b" + b"u."
    made += [views, inert, pickle.dumps(np.random.default_rng(0).bit_generator.state, protocol=4)]
    return made


@pytest.mark.parametrize("index", range(9))
def test_a_damaged_program_gives_a_typed_error(index: int) -> None:
    raw, rng, refused = _programs()[index], random.Random(index), 0

    for _ in range(250):
        try:
            flatten(Machine(damage(raw, rng), "x", TorchRules()).run().root, "x")
        except FormatError:
            refused += 1

    assert refused > 60


def test_every_two_instruction_program_gives_a_typed_error() -> None:
    for first in range(256):
        for second in range(256):
            code = b"}]()(" + bytes([first, 0, second]) + b"\0\n0\n."
            try:
                flatten(Machine(code, "x", TorchRules()).run().root, "x")
            except FormatError:
                continue
