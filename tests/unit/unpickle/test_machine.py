from __future__ import annotations

import gc
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import pytest

from memcard.core.limits import Limits
from memcard.errors import CorruptError, UnsafeError
from memcard.unpickle.machine import Machine
from memcard.unpickle.nodes import Global, Mapped, Opaque
from memcard.unpickle.torch_rebuild import TorchRules


def run(code: bytes, limits: Limits | None = None) -> Any:
    return Machine(code, "x", TorchRules(), limits or Limits()).run().root


PLAIN: list[Any] = [
    None, True, False, 0, -1, 255, 256, 65535, 65536, -(1 << 31), 1 << 70, -(1 << 70), 2.5, -0.0,
    float("inf"), "", "text", "ünï\n\\'\"", "x" * 70_000, b"", b"\0\xff" * 200, b"b" * 70_000,
    [], [1, [2, [3]]], list(range(3000)), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, {"a": {1: 2}},
    {("a", 1): 2, None: 3, 2.5: 4, True: 5}, {str(i): i for i in range(3000)},
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("index", range(len(PLAIN)))
def test_plain_values_are_what_pickle_reads(index: int, protocol: int) -> None:
    value = PLAIN[index]

    found = run(pickle.dumps(value, protocol=protocol))

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("protocol", range(6))
def test_containers_of_the_library_become_plain_ones(protocol: int) -> None:
    value = [
        OrderedDict(b=1, a=2),
        defaultdict(list, x=[1]),
        Counter("aab"),
        deque([1, 2]),
        {3, 4},
        frozenset([5]),
    ]

    found = run(pickle.dumps(value, protocol=protocol))

    assert found == [{"b": 1, "a": 2}, {"x": [1]}, {"a": 2, "b": 1}, [1, 2], [3, 4], [5]]
    assert list(found[0]) == ["b", "a"]
    assert isinstance(found[0], Mapped)


@pytest.mark.parametrize("protocol", range(6))
def test_shared_values_stay_shared(protocol: int) -> None:
    shared: list[Any] = [1]

    found = run(pickle.dumps([shared, shared], protocol=protocol))

    assert found[0] is found[1]


def test_a_cycle_is_read() -> None:
    value: list[Any] = []
    value.append(value)

    found = run(pickle.dumps(value))

    assert found[0] is found


def test_a_class_is_a_node_and_the_same_name_the_same_node() -> None:
    found = run(b"\x80\x02(cargparse\nNamespace\ncargparse\nNamespace\nl.")

    assert found[0] is found[1]
    assert isinstance(found[0], Global)


def test_calls_of_inert_names_are_recorded() -> None:
    found = run(b"\x80\x02cargparse\nNamespace\n)\x81}U\x02lrK\x03sb.")

    assert isinstance(found, Opaque)
    assert (found.what, found.state) == ("argparse.Namespace", {"lr": 3})


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends without STOP"),
    "no_stop": (b"N", "ends without STOP"),
    "nothing_to_return": (b".", "empty stack"),
    "after_stop": (b"N.N.", "2 bytes follow"),
    "unknown_opcode": (b"\xff.", "unknown instruction 0xff"),
    "protocol_6": (b"\x80\x06N.", "protocol 6"),
    "no_mark": (b"t.", "no MARK"),
    "unended_line": (b"I12", "a line without end"),
    "bad_int": (b"Iab\n.", "not a whole number"),
    "bad_long": (b"Lab\n.", "not a whole number"),
    "bad_float": (b"Fab\n.", "not a number"),
    "bad_string": (b"Sabc\n.", "without quotes"),
    "bad_escape": (b"S'\\x1'\n.", "broken escape"),
    "bad_utf8": (b"X\1\0\0\0\xff.", "not UTF-8"),
    "half_a_surrogate": (b"X\3\0\0\0\xed\xa0\x80.", "not UTF-8"),
    "half_a_surrogate_escaped": (b"V\\ud800\n.", "broken escape"),
    "bad_name": (b"c\xff\n\xff\n.", "not UTF-8"),
    "name_of_numbers": (b"K\1K\2\x93.", "not text"),
    "negative_string": (b"T\xff\xff\xff\xff.", "negative length"),
    "short_tuple": (b"N\x87.", "more values than there are"),
    "odd_dict": (b"(Nd.", "sets items"),
    "list_as_key": (b"}]Ns.", "dict key"),
    "dict_in_tuple_key": (b"}}\x85Ns.", "dict key"),
    "args_not_a_tuple": (b"ccollections\nOrderedDict\n]R.", "no tuple"),
    "build_on_a_list": (b"]}b.", "plain value"),
    "long_of_2000_bytes": (b"\x8b\xd0\x07\0\0" + bytes(2000) + b".", "2000 bytes; the limit"),
    "obj_of_nothing": (b"(o.", "of nothing"),
    "newobj_ex_kwargs": (b"ccollections\nOrderedDict\n))\x92.", "wrong kind"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_program_is_corrupt_with_its_place(case: str) -> None:
    code, text = BROKEN[case]

    with pytest.raises(CorruptError, match=rf"x: byte \d+: .*{text}"):
        run(code)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(pickle_ops=10), b"N0" * 10 + b"N."),
        (Limits(pickle_stack=10), b"N" * 12 + b"."),
        (Limits(pickle_nodes=10), b"N0" * 12 + b"N."),
    ],
)
def test_limits_hold(limits: Limits, code: bytes) -> None:
    with pytest.raises(CorruptError, match="more"):
        run(code, limits)


def test_attributes_of_a_class_are_unsafe() -> None:
    with pytest.raises(UnsafeError, match=r"sets attributes of argparse\.Namespace at byte"):
        run(b"\x80\x02cargparse\nNamespace\n}b.")


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    with pytest.raises(UnsafeError) as caught:
        run(b"\x80\x02cos\nsystem\x1b[2J\n0c" + b"x" * 5000 + b"\ny\n.")

    assert str(caught.value).isprintable()
    assert r"os.system\x1b[2J" in caught.value.faults[0]
    assert len(str(caught.value)) < 1000


def test_calling_the_result_of_a_call_is_unsafe() -> None:
    with pytest.raises(UnsafeError, match="computed value"):
        run(b"\x80\x02cargparse\nNamespace\n)R)R.")


@pytest.mark.parametrize("code", [b"\x82\x01", b"\x83\x01\0", b"\x84\x01\0\0\0"])
def test_the_extension_registry_is_unsafe(code: bytes) -> None:
    with pytest.raises(UnsafeError, match="extension registry code 1"):
        run(code + b".")


def test_an_out_of_range_length_is_checked_before_it_is_allocated() -> None:
    with pytest.raises(CorruptError, match="claims 9223372036854775807 bytes where 1 are left"):
        run(b"\x8e" + struct.pack("<Q", (1 << 63) - 1) + b".")


def salvage(code: bytes) -> Machine:
    machine = Machine(code, "x", TorchRules(), salvage=True)
    machine.root = machine.run().root  # type: ignore[attr-defined]
    return machine


def test_salvage_keeps_calls_as_records_and_lists_what_was_asked() -> None:
    machine = salvage(b"\x80\x02}(U\x01acmy.mod\nThing\n)\x81}U\x01bK\x01sbU\x01cNu.")
    root = machine.root  # type: ignore[attr-defined]

    assert (root["a"].what, root["a"].state, root["c"]) == ("my.mod.Thing", {"b": 1}, None)
    assert list(machine.findings.asked) == ["my.mod.Thing at byte 7"]


def test_salvage_keeps_what_is_put_into_unknown_containers() -> None:
    root = salvage(b"\x80\x02cmy\nThing\n)R(K\x01K\x02uK\x03a(K\x04K\x05e.").root  # type: ignore[attr-defined]

    assert (root.pairs, root.items) == ([(1, 2)], [3, 4, 5])


@pytest.mark.parametrize(
    "code", [b"\x80\x02cos\nsystem\n0]Ns.", b"\x80\x02cos\nsystem\n0", b"cos\nx\n0g7\n."]
)
def test_salvage_refuses_a_broken_program_as_ever(code: bytes) -> None:
    with pytest.raises(CorruptError):
        salvage(code)


def test_several_programs_in_a_row() -> None:
    code = pickle.dumps([1], 2) + pickle.dumps("two", 4) + b"rest"
    first = Machine(code, "x", TorchRules())
    one = first.run_next().root
    second = Machine(code, "x", TorchRules(), start=first.read.pos)

    assert (one, second.run_next().root) == ([1], "two")
    assert code[second.read.pos :] == b"rest"


def test_a_persistent_id_that_is_no_storage_does_not_hide_what_follows() -> None:
    with pytest.raises(UnsafeError) as caught:
        run(b"\x80\x02Pnonsense\n0cos\nsystem\n.")

    assert caught.value.faults == (
        "os.system at byte 13",
        "byte 2: persistent id: not a storage: 'nonsense'",
    )


def test_names_computed_from_what_a_reader_would_supply_are_unsafe() -> None:
    with pytest.raises(UnsafeError, match="a computed name"):
        run(b"\x80\x04Pos\nPsystem\n\x93.")


@pytest.mark.parametrize("kind", ["__builtin__\nlist", "torch\nSize"])
def test_copying_the_same_values_again_and_again_is_counted(kind: str) -> None:
    big = b"](" + b"K\x01" * 1000 + b"e\x85q\x010"
    code = b"\x80\x02c" + kind.encode() + b"\nq\x000" + big + b"h\x00h\x01R0" * 500 + b"N."

    with pytest.raises(CorruptError, match="more values"):
        run(code, Limits(pickle_nodes=100_000))


@pytest.mark.parametrize("escape", [rb"\x41", rb"\101", b"A"])
def test_escapes_of_the_oldest_protocol(escape: bytes) -> None:
    assert run(b"S'" + escape + rb"\n\'\\" + b"'\n.") == "A\n'\\"
    assert run(rb"S'\y'" + b"\n.") == "\\y"  # no escape: kept, and no warning


@pytest.mark.parametrize("text", [rb"S'\x4'", rb"S'\'"])
def test_an_escape_that_is_cut_off_is_corrupt(text: bytes) -> None:
    with pytest.raises(CorruptError, match="broken escape"):
        run(text + b"\n.")


def test_the_collector_is_on_again_after_a_run() -> None:
    run(b"N.")
    with pytest.raises(CorruptError):
        run(b"\xff")

    assert gc.isenabled()
