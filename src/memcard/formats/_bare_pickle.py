"""Judge a pickle that stands alone: not a checkpoint we read, but a loader might run it.

Torch's format from before 1.6 is several pickles in a row, and ``torch.load`` runs the first one it meets.
"""

from __future__ import annotations

from pathlib import Path

from memcard.errors import CorruptError, UnsafeError
from memcard.unpickle.machine import Machine
from memcard.unpickle.nodes import Value
from memcard.unpickle.torch_rebuild import TorchRules

_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
_READ = 16 << 20  # a program that hides its call behind more than this is refused as unsupported
_PROGRAMS = 5  # magic, protocol, system, object, keys: torch's old format


class _Watched(Machine):
    """A run that remembers whether the program came to call anything."""

    called = False

    def call(self, target: Value, args: Value) -> Value:
        """Note the call, then treat it as ever."""
        self.called = True
        return super().call(target, args)


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
        machine = _Watched(code, str(path), TorchRules())
        try:
            machine.run()
        except UnsafeError as error:
            broken = isinstance(error.__cause__, CorruptError)
            if framed or machine.called or not broken:
                raise
            return  # "cat", newline, "dog" names a global too: a list of words, not a program
        except CorruptError:
            at_stop = code[machine.read.pos - 1 : machine.read.pos] == b"."
            code = code[machine.read.pos :]
            if not at_stop or not code:
                return  # broken in the middle: no loader gets any further either
        else:
            return
