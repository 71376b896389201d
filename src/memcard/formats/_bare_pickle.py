"""Judge a pickle that is no checkpoint we read, alone or in a damaged container: a loader might run it."""

from __future__ import annotations

from pathlib import Path

from memcard.errors import CorruptError, UnsafeError
from memcard.unpickle.machine import Machine
from memcard.unpickle.nodes import Value, shown
from memcard.unpickle.torch_rebuild import TorchRules

_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
_READ = 16 << 20  # a program that hides its call behind more than this is refused as unsupported
_TAR_MAGIC_AT, _TAR_BLOCK, _TAR_MEMBERS = 257, 512, 16
_PROGRAMS = 8  # in a row; torch's oldest format has four before the tensors


class _Watched(Machine):
    """A run that remembers whether the program came to call anything."""

    called = False

    def call(self, target: Value, args: Value, *, bare: bool = False) -> Value:
        """Note the call, then treat it as ever."""
        self.called = True
        return super().call(target, args, bare=bare)


def refuse_hostile(path: Path, head: bytes) -> None:
    """Do nothing, unless the file holds a pickle that asks to run code.

    Raises:
        UnsafeError: names what it asks for.
    """
    if head[_TAR_MAGIC_AT:].startswith(b"ustar"):
        _refuse_hostile_tar(path)
        return
    framed = head[:1] == b"\x80" and head[1:2] <= b"\x05"
    if not framed and path.suffix.lower() not in _SUFFIXES:
        return  # any text can be taken for protocol 0; only a pickle's suffix makes it likely
    with path.open("rb") as file:
        code = file.read(_READ)
    if error := hostile(code, str(path)):
        raise error


def _refuse_hostile_tar(path: Path) -> None:
    """Torch before 0.1.10 kept its pickles in a tar archive, and torch still runs them."""
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        for _ in range(_TAR_MEMBERS):
            file.seek(at)
            head = file.read(_TAR_BLOCK)
            try:
                length = int(head[124:136].strip(b" \0") or b"0", 8)
            except ValueError:
                return
            if len(head) < _TAR_BLOCK or not head.strip(b"\0") or length < 0:
                return
            code = file.read(min(length, _READ // 4))
            name = head[:100].split(b"\0")[0].decode("utf-8", "replace")
            if error := hostile(code, f"{path} ({shown(name)})"):
                raise error
            at += _TAR_BLOCK + -(-length // _TAR_BLOCK) * _TAR_BLOCK
            if at >= size:
                return


def hostile(code: bytes, where: str) -> UnsafeError | None:
    """Return the refusal of the pickles that ``code`` begins with, if one of them asks to run code.

    Any bytes can be taken for a pickle, so a program must look like one: it begins as those of protocol 2
    and later do, or it comes to call something ("cat", newline, "dog" only names a thing). What follows
    a whole program, perhaps by accident, must look like one *and* get to its end.
    """
    at = 0
    for _ in range(_PROGRAMS):
        framed = code[at : at + 1] == b"\x80" and code[at + 1 : at + 2] <= b"\x05"
        machine = _Watched(code, where, TorchRules(), start=at)
        try:
            machine.run_next()
        except UnsafeError as error:
            whole = not machine.findings.faults
            if framed or (machine.called and (whole or not at)) or (whole and not at):
                return error
            return None
        except CorruptError:
            return None  # broken in the middle: no loader gets any further either
        at = machine.read.pos
        if at >= len(code):
            break
    return None
