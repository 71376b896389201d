"""Ways to make a careless loader run code. Every payload only creates an empty marker file."""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable

from fixtures.torch_archive import name, stack_name, text

Program = Callable[[str], bytes]
EMPTY = b"\x80\x02}."


PROTOCOL_4 = b"\x80\x04"  # from here on, names with dots are resolved step by step


def touch(marker: str) -> bytes:
    return text(f"touch '{marker}'")


def python(marker: str) -> bytes:
    return text(f"open({marker!r}, 'w').close()")


def call(target: bytes, *args: bytes) -> bytes:
    return target + b"(" + b"".join(args) + b"tR"


def raw(payload: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(payload)) + payload


def system(marker: str) -> bytes:
    return call(name("os", "system"), touch(marker))


def _nested(marker: str) -> bytes:
    return b"\x80\x02" + system(marker) + b"."


def _map_of(marker: str, new: bytes) -> bytes:
    """``bytes(map(os.system, [command]))``: the iteration runs the command."""
    lazy = (
        name("builtins", "map") + b"(" + name("os", "system") + b"(" + touch(marker) + b"lt" + new
    )
    return name("builtins", "bytes") + b"(" + lazy + b"t" + new


def _setstate(marker: str) -> bytes:
    made = name("argparse", "Namespace") + b")\x81"
    return made + b"}" + text("__setstate__") + name("os", "system") + b"sb" + touch(marker) + b"b"


def _extension(marker: str) -> bytes:
    register = call(name("copyreg", "add_extension"), text("os"), text("system"), b"K\xef")
    return register + b"0" + call(b"\x82\xef", touch(marker))


def _persistent(marker: str) -> bytes:
    pid = b"(" + text("storage") + system(marker) + text("0") + text("cpu") + b"K\x04t"
    return pid + b"Q"


def _memo(marker: str) -> bytes:
    benign = name("collections", "OrderedDict") + b"q\x070"
    return benign + name("os", "system") + b"r\x07\x00\x00\x000" + call(b"h\x07", touch(marker))


def _imported(marker: str) -> bytes:
    module = call(name("builtins", "__import__"), text("os"))
    return call(call(name("builtins", "getattr"), module, text("system")), touch(marker))


def _object_array(marker: str) -> bytes:
    empty = call(
        name("numpy._core.multiarray", "_reconstruct"),
        name("numpy", "ndarray"),
        b"K\x00\x85",
        b"C\x01b",
    )
    dtype = call(name("numpy", "dtype"), text("O8"), b"\x89", b"\x88")
    return empty + b"(K\x01K\x01\x85" + dtype + b"\x89(" + system(marker) + b"ltb"


def _numpy_load(marker: str) -> bytes:
    inner = call(name("_io", "BytesIO"), raw(_nested(marker)))
    return call(name("numpy", "load"), inner, b"N", b"\x88")


def _codec_chain(marker: str) -> bytes:
    hidden = codecs.encode(_nested(marker), "hex").decode()
    return call(name("pickle", "loads"), call(name("_codecs", "decode"), text(hidden), text("hex")))


def _codec_chain_legit_encode(marker: str) -> bytes:
    shown = _nested(marker).decode("latin-1")
    return call(
        name("_pickle", "loads"), call(name("_codecs", "encode"), text(shown), text("latin1"))
    )


def _dict_key(marker: str) -> bytes:
    return b"}" + system(marker) + b"K\x01s"


def _partial(marker: str) -> bytes:
    made = call(name("functools", "partial"), name("os", "system"), touch(marker))
    return made + b")R"


def _attrgetter(marker: str) -> bytes:
    getter = call(name("operator", "attrgetter"), text("system"))
    return call(call(getter, call(name("importlib", "import_module"), text("os"))), touch(marker))


def _methodcaller(marker: str) -> bytes:
    path = call(name("pathlib", "PosixPath"), text(marker))
    return call(call(name("operator", "methodcaller"), text("touch")), path)


PROGRAMS: dict[str, Program] = {
    "reduce_os_system": system,
    "reduce_posix_system": lambda m: call(name("posix", "system"), touch(m)),
    "stack_global": lambda m: call(stack_name("os", "system"), touch(m)),
    "python2_names": lambda m: call(name("__builtin__", "eval"), python(m)),
    "builtins_exec": lambda m: call(name("builtins", "exec"), python(m)),
    "getattr_of_import": _imported,
    "attrgetter": _attrgetter,
    "methodcaller_on_a_path": _methodcaller,
    "functools_partial": _partial,
    "inst": lambda m: b"(" + touch(m) + b"ios\nsystem\n",
    "obj": lambda m: b"(" + name("os", "system") + touch(m) + b"o",
    "newobj": lambda m: _map_of(m, b"\x81"),
    "newobj_ex": lambda m: _map_of(m, b"}\x92"),
    "build_setstate": _setstate,
    "extension_registry": _extension,
    "inside_a_persistent_id": _persistent,
    "memo_overwritten": _memo,
    "inside_a_dict_key": _dict_key,
    "dotted_name_below_torch": lambda m: PROTOCOL_4 + call(
        stack_name("torch", "serialization.os.system"), touch(m)
    ),
    "dotted_name_below_an_inert_class": lambda m: PROTOCOL_4 + call(
        stack_name("pathlib", "Path.touch"), call(name("pathlib", "PosixPath"), text(m))
    ),
    "dotted_name_below_a_known_module": lambda m: PROTOCOL_4 + call(
        call(
            name("builtins", "getattr"),
            call(stack_name("collections", "_sys.modules.get"), text("os")),
            text("system"),
        ),
        touch(m),
    ),
    "dotted_ctypes": lambda m: PROTOCOL_4 + call(
        stack_name("ctypes", "pythonapi.PyRun_SimpleString"),
        raw(f"open({m!r}, 'w').close()".encode()),
    ),
    "file_object": lambda m: call(name("_io", "FileIO"), text(m), text("w")),
    "runpy": lambda m: call(
        name("runpy", "_run_code"), call(name("builtins", "compile"), python(m), text("x"), text("exec")), b"}"
    ),
    "timeit": lambda m: call(name("timeit", "timeit"), text("pass"), python(m)),
    "profiler": lambda m: call(name("cProfile", "run"), python(m), text(m + ".profile")),
    "pager": lambda m: call(name("pydoc", "pipepager"), text(""), touch(m)),
    "subprocess": lambda m: call(name("subprocess", "call"), b"(" + text("touch") + text(m) + b"l"),
    "webbrowser": lambda m: call(
        call(name("builtins", "getattr"), call(name("webbrowser", "BackgroundBrowser"), b"(" + text("touch") + text("%s") + b"l"), text("open")), text(m)
    ),
    "nested_pickle": lambda m: call(name("pickle", "loads"), raw(_nested(m))),
    "numpy_load": _numpy_load,
    "numpy_object_array": _object_array,
    "codec_hides_a_pickle": _codec_chain,
    "latin1_hides_a_pickle": _codec_chain_legit_encode,
    "protocol_0": lambda m: pickle.dumps(_Reduced(m), protocol=0)[:-1],
    "protocol_5": lambda m: pickle.dumps({"state_dict": _Reduced(m)}, protocol=5)[:-1],
}  # fmt: skip


class _Reduced:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        import os

        return os.system, (f"touch '{self.marker}'",)  # noqa: TID251


def evil(marker: str) -> bytes:
    return b"\x80\x02" + system(marker) + b"."
