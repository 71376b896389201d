"""The bytes of a pickle program, handed out only when they are there."""

from __future__ import annotations

import struct

from memcard.errors import CorruptError

_U4 = struct.Struct("<I")
_I4 = struct.Struct("<i")
_U8 = struct.Struct("<Q")
_F8 = struct.Struct(">d")
_LONG_BYTES = 1024  # an honest file has no number of more than 8000 bits


class Cursor:
    """A position in ``code``; every claimed length is checked before anything is allocated."""

    __slots__ = ("code", "ended", "op", "pos", "where")

    def __init__(self, code: bytes, where: str, start: int = 0) -> None:
        self.code = code
        self.where = where
        self.pos = start
        self.op = start  # where the running instruction began
        self.ended = False  # it asked for more than there is

    def corrupt(self, what: str) -> CorruptError:
        """Return the error for the running instruction."""
        fault = f"byte {self.op}: {what}"
        return CorruptError(
            f"{self.where}: {fault}. The pickle program is damaged or was made to "
            "mislead; get the file again from its source.",
            faults=[fault],
        )

    def past_end(self, what: str) -> CorruptError:
        """Return the error of a program that goes on behind the last byte."""
        self.ended = True
        return self.corrupt(what)

    def take(self, n: int) -> bytes:
        """Return the next ``n`` bytes."""
        if n > len(self.code) - self.pos:
            left = len(self.code) - self.pos
            raise self.past_end(f"claims {n} bytes where {left} are left")
        self.pos += n
        return self.code[self.pos - n : self.pos]

    def line(self) -> bytes:
        """Return the bytes up to the next newline."""
        end = self.code.find(b"\n", self.pos)
        if end < 0:
            raise self.past_end("a line without end")
        line = self.code[self.pos : end]
        self.pos = end + 1
        return line

    def u1(self) -> int:
        """Read one byte."""
        return self.take(1)[0]

    def u2(self) -> int:
        """Read two bytes, little-endian."""
        return int.from_bytes(self.take(2), "little")

    def u4(self) -> int:
        """Read four bytes, little-endian."""
        return int(_U4.unpack(self.take(4))[0])

    def i4(self) -> int:
        """Read four bytes, little-endian, signed."""
        return int(_I4.unpack(self.take(4))[0])

    def u8(self) -> int:
        """Read eight bytes, little-endian."""
        return int(_U8.unpack(self.take(8))[0])

    def f8(self) -> float:
        """Read a double, big-endian as pickle has it."""
        return float(_F8.unpack(self.take(8))[0])

    def text(self, n: int) -> str:
        """Read ``n`` bytes of UTF-8."""
        raw = self.take(n)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.corrupt("text that is not UTF-8") from None

    def name(self) -> str:
        """Read a line as a name."""
        try:
            return self.line().decode("utf-8")
        except UnicodeDecodeError:
            raise self.corrupt("a name that is not UTF-8") from None

    def long(self, n: int) -> int:
        """Read a signed number of ``n`` bytes."""
        if n < 0 or n > _LONG_BYTES:
            raise self.corrupt(f"a number of {n} bytes; the limit is {_LONG_BYTES}")
        return int.from_bytes(self.take(n), "little", signed=True)

    def decimal(self) -> int:
        """Read a line as a decimal number."""
        line = self.line().rstrip(b"L")
        try:
            return int(line)
        except ValueError:
            raise self.corrupt(f"{line[:20]!r} is not a whole number") from None
