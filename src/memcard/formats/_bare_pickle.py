"""Judge a pickle that stands alone: not a checkpoint we read, but a loader might run it.

Torch's format from before 1.6 is several pickles in a row, and ``torch.load`` runs the first one it meets.
"""

from __future__ import annotations

from pathlib import Path

from memcard.errors import CorruptError
from memcard.unpickle.machine import Machine
from memcard.unpickle.torch_rebuild import TorchRules

_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
_READ = 16 << 20  # a program that hides its call behind more than this is refused as unsupported
_PROGRAMS = 5  # magic, protocol, system, object, keys: torch's old format


def refuse_hostile(path: Path, head: bytes) -> None:
    """Do nothing, unless the file holds a pickle that asks to run code.

    Raises:
        UnsafeError: names what it asks for.
    """
    framed = head[:1] == b"\x80" and head[1:2] <= b"\x05"
    if not framed and path.suffix.lower() not in _SUFFIXES:
        return  # any text can be taken for protocol 0; only a pickle's suffix makes it likely
    with path.open("rb") as file:
        code = file.read(_READ)
    for _ in range(_PROGRAMS):
        machine = Machine(code, str(path), TorchRules())
        try:
            machine.run()
        except CorruptError:
            code = code[machine.read.pos :]
            if not machine.read.pos or not code:
                return
        else:
            return
