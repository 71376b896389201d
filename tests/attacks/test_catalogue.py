"""The catalogues are as large as promised, and reach every format and every route."""

from __future__ import annotations

import pytest

from attacks import gadgets, routes, spellings
from attacks.damaged import DAMAGED
from attacks.honest import HONEST
from attacks.hostile import HOSTILE
from attacks.test_bombs import FILES, PROGRAMS
from memcard.formats import FORMATS

# Everything an unpickler can do besides putting plain values together.
ROUTES = {
    *("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1", "EXT2", "EXT4"),
    *("PERSID", "BINPERSID", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "DUP", "POP", "POP_MARK"),
    *("APPEND", "APPENDS", "ADDITEMS", "FROZENSET", "SETITEM", "UNICODE", "STRING", "SHORT_BINSTRING"),
    *("BINUNICODE", "BINUNICODE8", "FRAME", "PROTO"),
}  # fmt: skip


def test_the_catalogues_are_as_large_as_promised() -> None:
    bombs = len(PROGRAMS) + len(FILES)

    assert len(HOSTILE) >= 60
    assert len(HOSTILE) + bombs >= 200
    assert len(DAMAGED) >= 200
    assert len(HONEST) >= 100


def test_every_opcode_that_can_lead_to_a_call_is_used() -> None:
    import pickletools

    used = set()
    for shelf in (routes, spellings, gadgets):
        for make in shelf.PROGRAMS.values():
            program = make("/tmp/marker")
            used |= {op.name for op, _, _ in pickletools.genops(b"\x80\x02" + program + b".")}

    assert used >= ROUTES


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_has_honest_files(format_name: str) -> None:
    assert sum(odd.format == format_name for odd in HONEST.values()) >= 4


def test_no_case_has_the_name_of_another() -> None:
    assert not set(HOSTILE) & set(DAMAGED)
    assert not set(DAMAGED) & set(HONEST)
