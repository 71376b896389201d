"""The instruction table of pickle protocols 0 to 5, in the order of ``pickletools``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcard.unpickle.machine import Machine

Step = Callable[["Machine"], None]

# The escapes of Python's repr; codecs.escape_decode would warn of those that are none.
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.|$)", re.DOTALL)
_ESCAPES = {
    **{bytes([c]): bytes([v]) for c, v in zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True)},
    **{bytes([c]): bytes([c]) for c in b"\\'\""},
    b"\n": b"",
}


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    if code[:1] == b"x" and len(code) == 3:
        return bytes([int(code[1:], 16)])
    if code[:1] in b"01234567" and code:
        return bytes([int(code, 8) & 0xFF])
    if code in (b"x", b""):
        raise ValueError("an escape that is cut off")
    return _ESCAPES.get(code, b"\\" + code)


def _int(m: Machine) -> None:
    line = m.read.line()
    if line in (b"00", b"01"):
        m.push(line == b"01")
        return
    try:
        m.push(int(line))
    except ValueError:
        raise m.read.corrupt(f"{line[:20]!r} is not a whole number") from None


def _float(m: Machine) -> None:
    line = m.read.line()
    try:
        m.push(float(line))
    except ValueError:
        raise m.read.corrupt(f"{line[:20]!r} is not a number") from None


def _string(m: Machine) -> None:
    line = m.read.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise m.read.corrupt("a string without quotes")
    escapes = line.count(b"\\")
    m.nodes += escapes
    if m.nodes > m.limits.pickle_nodes:
        raise m.read.corrupt("a string of more escapes than any real checkpoint has")
    if escapes:
        try:
            line = line[:1] + _unescape(line[1:-1]) + line[-1:]
        except ValueError:
            raise m.read.corrupt("a string with a broken escape") from None
    m.push(line[1:-1].decode("latin-1"))


def _unescape(text: bytes) -> bytes:
    """Resolve the escapes; piece by piece, because ``re.sub`` takes 60 times the size of the text."""
    done, at = bytearray(), 0
    for found in _ESCAPE.finditer(text):
        done += text[at : found.start()]
        done += _unescaped(found)
        at = found.end()
    done += text[at:]
    return bytes(done)


def _unicode(m: Machine) -> None:
    try:
        text = m.read.line().decode("raw-unicode-escape")
        text.encode("utf-8")  # half a surrogate pair can be neither printed nor written
        m.push(text)
    except UnicodeError:
        raise m.read.corrupt("text with a broken escape") from None


def _old_bytes(m: Machine, n: int) -> None:
    if n < 0:
        raise m.read.corrupt("a negative length")
    m.push(m.read.take(n).decode("latin-1"))  # Python 2 str; torch reads it as text too


def _tuple_of(m: Machine, n: int) -> None:
    if len(m.stack) < n:
        raise m.read.corrupt("a tuple of more values than there are")
    items = tuple(m.stack[len(m.stack) - n :])
    del m.stack[len(m.stack) - n :]
    m.push(items)


def _dict(m: Machine) -> None:
    items = m.pop_mark()
    m.push_dict()
    m.setitems(items)


def _append(m: Machine) -> None:
    m.append([m.pop()])


def _appends(m: Machine) -> None:
    items = m.pop_mark()
    m.append(items)


def _setitem(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.setitems([key, value])


def _setitems(m: Machine) -> None:
    items = m.pop_mark()
    m.setitems(items)


def _frozenset(m: Machine) -> None:
    m.push(m.pop_mark())  # sets stay lists: no member is ever hashed


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _pop_mark(m: Machine) -> None:
    m.pop_mark()


def _dup(m: Machine) -> None:
    m.push(m.peek())


def _global(m: Machine) -> None:
    module, name = m.read.name(), m.read.name()
    m.push(m.name(module, name))


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.push(m.name(module, name))


def _reduce(m: Machine) -> None:
    args, target = m.pop(), m.pop()
    m.push(m.call(target, args))


def _newobj(m: Machine) -> None:
    args, target = m.pop(), m.pop()
    m.push(m.call(target, args, bare=True))


def _newobj_ex(m: Machine) -> None:
    kwargs, args, target = m.pop(), m.pop(), m.pop()
    if not isinstance(kwargs, dict) or not isinstance(args, tuple):
        raise m.read.corrupt("makes an object with arguments of the wrong kind")
    m.push(m.call(target, (*args, kwargs) if kwargs else args, bare=True))


def _inst(m: Machine) -> None:
    target = m.name(m.read.name(), m.read.name())
    args = tuple(m.pop_mark())
    m.push(m.call(target, args))


def _obj(m: Machine) -> None:
    items = m.pop_mark()
    if not items:
        raise m.read.corrupt("makes an object of nothing")
    m.push(m.call(items[0], tuple(items[1:])))


def _proto(m: Machine) -> None:
    if (version := m.read.u1()) > 5:
        raise m.read.corrupt(f"pickle protocol {version}; the newest is 5")


def _frame(m: Machine) -> None:
    size = m.read.u8()
    if size > len(m.read.code) - m.read.pos:
        raise m.read.past_end(f"claims a frame of {size} bytes")


def _out_of_band(m: Machine) -> None:
    raise m.read.corrupt("asks for a buffer from outside the file")


_STEPS: dict[int, Step] = {
    ord(code): step
    for code, step in {
        "I": _int,
        "J": lambda m: m.push(m.read.i4()),
        "K": lambda m: m.push(m.read.u1()),
        "M": lambda m: m.push(m.read.u2()),
        "L": lambda m: m.push(m.read.decimal()),
        "\x8a": lambda m: m.push(m.read.long(m.read.u1())),
        "\x8b": lambda m: m.push(m.read.long(m.read.i4())),
        "S": _string,
        "T": lambda m: _old_bytes(m, m.read.i4()),
        "U": lambda m: _old_bytes(m, m.read.u1()),
        "B": lambda m: m.push(m.read.take(m.read.u4())),
        "C": lambda m: m.push(m.read.take(m.read.u1())),
        "\x8e": lambda m: m.push(m.read.take(m.read.u8())),
        "\x96": lambda m: m.push(m.read.take(m.read.u8())),
        "\x97": _out_of_band,
        "\x98": _out_of_band,
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "V": _unicode,
        "\x8c": lambda m: m.push(m.read.text(m.read.u1())),
        "X": lambda m: m.push(m.read.text(m.read.u4())),
        "\x8d": lambda m: m.push(m.read.text(m.read.u8())),
        "F": _float,
        "G": lambda m: m.push(m.read.f8()),
        "]": lambda m: m.push([]),
        "a": _append,
        "e": _appends,
        "l": lambda m: m.push(m.pop_mark()),
        ")": lambda m: m.push(()),
        "t": lambda m: m.push(tuple(m.pop_mark())),
        "\x85": lambda m: _tuple_of(m, 1),
        "\x86": lambda m: _tuple_of(m, 2),
        "\x87": lambda m: _tuple_of(m, 3),
        "}": lambda m: m.push_dict(),
        "d": _dict,
        "s": _setitem,
        "u": _setitems,
        "\x8f": lambda m: m.push([]),
        "\x90": _appends,
        "\x91": _frozenset,
        "0": _pop,
        "2": _dup,
        "(": lambda m: m.mark(),
        "1": _pop_mark,
        "g": lambda m: m.get(m.read.decimal()),
        "h": lambda m: m.get(m.read.u1()),
        "j": lambda m: m.get(m.read.u4()),
        "p": lambda m: m.put(m.read.decimal()),
        "q": lambda m: m.put(m.read.u1()),
        "r": lambda m: m.put(m.read.u4()),
        "\x94": lambda m: m.put(len(m.memo)),
        "\x82": lambda m: m.extension(m.read.u1()),
        "\x83": lambda m: m.extension(m.read.u2()),
        "\x84": lambda m: m.extension(m.read.i4()),
        "c": _global,
        "\x93": _stack_global,
        "R": _reduce,
        "b": lambda m: m.build(),
        "i": _inst,
        "o": _obj,
        "\x81": _newobj,
        "\x92": _newobj_ex,
        "\x80": _proto,
        "\x95": _frame,
        "P": lambda m: m.persistent(m.read.name()),
        "Q": lambda m: m.persistent(m.pop()),
    }.items()
}

# A list, because every instruction looks here.
OPCODES: list[Step | None] = [_STEPS.get(code) for code in range(256)]
