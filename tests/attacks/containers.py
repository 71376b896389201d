"""Zip archives with a live payload that a scanner, or one of two readers, does not see."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace

from attacks.routes import EMPTY, evil
from fixtures.torch_archive import ONE, ONE_DATA, pack
from fixtures.zip_bytes import Entry, entries, zipped

Container = Callable[[str], bytes]
PROGRAM, VERSION = b"archive/data.pkl", Entry(b"archive/version", b"3\n")
HONEST = [("archive/data.pkl", ONE), ("archive/data/0", ONE_DATA["0"]), ("archive/version", b"3\n")]


def archive(*members: tuple[str, bytes]) -> bytes:
    return pack([*members, ("archive/version", b"3\n")])


def with_member(name: str) -> Container:
    """An honest file with a hostile pickle as another member."""
    return lambda marker: pack([*HONEST, (name, evil(marker))])


def behind_many(marker: str) -> bytes:
    """A hostile pickle after more members than anyone looks at."""
    many = [(f"archive/notes{i}.txt", b"hi") for i in range(300)]
    return pack([*HONEST, *many, ("archive/zzz.pkl", evil(marker))])


def behind_much(marker: str) -> bytes:
    """A hostile call after more bytes than anyone looks at."""
    much = b"\x80\x02T" + struct.pack("<i", 5 << 20) + bytes(5 << 20) + b"0"
    return pack([*HONEST, ("archive/zzz.pkl", much + evil(marker)[2:])], zipfile.ZIP_DEFLATED)


def _named(name: bytes, **lies: object) -> Container:
    """Two programs; the hostile one is called nearly, or only for some readers, data.pkl."""

    def make(marker: str) -> bytes:
        odd = replace(Entry(name, evil(marker)), **lies)
        return zipped([Entry(PROGRAM, EMPTY), odd, VERSION])

    return make


def _renamed_local(marker: str) -> bytes:
    """The directory says ``nota.pkl``, the local header ``data.pkl``: a streaming reader believes it."""
    odd = Entry(b"archive/nota.pkl", evil(marker), in_header={"name": PROGRAM})
    return zipped([odd, Entry(PROGRAM, EMPTY), VERSION])


def _other_size(marker: str) -> bytes:
    """The directory ends the program before the payload, the local header after it."""
    both = EMPTY + evil(marker)
    odd = Entry(PROGRAM, both, in_directory={"size": len(EMPTY), "packed": len(EMPTY)})
    return zipped([odd, VERSION])


def _other_method(marker: str) -> bytes:
    """Stored bytes say one thing, the same bytes inflated another."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    squeezed = press.compress(evil(marker)) + press.flush()
    size, crc = len(evil(marker)), zlib.crc32(evil(marker))
    odd = Entry(PROGRAM, squeezed, in_directory={"method": 8, "size": size, "crc": crc})
    return zipped([odd, VERSION])


def _before(marker: str) -> bytes:
    """A whole archive before the archive: only the second is in the directory that counts."""
    return archive(("archive/data.pkl", evil(marker))) + archive(("archive/data.pkl", EMPTY))


def _in_comment(marker: str) -> bytes:
    """A whole archive in the comment of an honest one; a search from the end finds it first."""
    inner = archive(("archive/data.pkl", evil(marker)))
    return zipped(entries(HONEST), comment=inner)


def _in_gap(marker: str) -> bytes:
    """A member that only its own local header knows, between the members and the directory."""
    hidden = pack([("archive/data.pkl", evil(marker))])
    between = hidden[: hidden.index(b"PK\x01\x02")]
    return zipped(
        entries([("archive/data.pkl", EMPTY), ("archive/version", b"3\n")]), between=between
    )


def _deflated(marker: str) -> bytes:
    return pack(
        [("archive/data.pkl", evil(marker)), ("archive/version", b"3\n")], zipfile.ZIP_DEFLATED
    )


def _with_descriptor(marker: str) -> bytes:
    program = evil(marker)
    crc, n = zlib.crc32(program), len(program)
    late = Entry(
        PROGRAM, program, flags=8, in_header={"crc": 0, "size": 0, "packed": 0},
        descriptor=struct.pack("<4sIII", b"PK\x07\x08", crc, n, n),
    )  # fmt: skip
    return zipped([late, VERSION])


def _wrong_checksum(marker: str) -> bytes:
    """Scanners give up at a wrong checksum; torch does not look at it."""
    return zipped([Entry(PROGRAM, evil(marker), crc=7), VERSION])


def _encrypted(marker: str) -> bytes:
    """Only the local header says so: zipfile looks at the directory, some scanners here."""
    return zipped([Entry(PROGRAM, evil(marker), in_header={"flags": 1}), VERSION])


def _torchscript(member: str) -> Container:
    def make(marker: str) -> bytes:
        code = ("archive/code/__torch__.py", b"class M:\n  pass\n")
        programs = {"data.pkl": EMPTY, "constants.pkl": EMPTY} | {member: evil(marker)}
        return pack([*((f"archive/{n}", p) for n, p in programs.items()), code])

    return make


def _inner(marker: str) -> bytes:
    return pack([("model.ckpt", archive(("archive/data.pkl", evil(marker))))])


def _npz(marker: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("weights.npy", npy(marker))
    return file.getvalue()


def npy(marker: str) -> bytes:
    """A numpy array of objects: a header, then a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + evil(marker)


REFUSED = ("unsafe", "corrupt", "unsupported")
JUDGED = ("unsafe", "corrupt")
# Name: the verdicts that are right, the careless reader that runs it, the bytes.
CONTAINERS: dict[str, tuple[str | tuple[str, ...], str, Container]] = {
    "two_programs_last_evil": (
        "unsafe", "zipfile", lambda m: archive(("archive/data.pkl", EMPTY), ("archive/data.pkl", evil(m)))
    ),
    "two_programs_first_evil": (
        "unsafe", "first", lambda m: archive(("archive/data.pkl", evil(m)), ("archive/data.pkl", EMPTY))
    ),
    "two_roots": (
        "unsafe", "zipfile", lambda m: archive(("archive/data.pkl", EMPTY), ("other/data.pkl", evil(m)))
    ),
    "root_in_a_root": (
        "unsafe", "zipfile",
        lambda m: archive(("archive/data.pkl", EMPTY), ("archive/archive/data.pkl", evil(m))),
    ),
    "local_name_differs": ("unsafe", "stream", _renamed_local),
    "local_size_differs": ("unsafe", "stream", lambda m: zipped([
        Entry(PROGRAM, evil(m), in_directory={"size": 0, "packed": 0, "crc": 0}), VERSION])),
    "directory_size_differs": ("unsafe", "carve", _other_size),
    "method_differs": (JUDGED, "zipfile", _other_method),
    "archive_before_the_archive": ("unsafe", "stream", _before),
    "archive_in_the_comment": ("unsafe", "zipfile", _in_comment),
    "member_outside_the_directory": ("unsafe", "stream_all", _in_gap),
    "program_after_stop": (
        JUDGED, "repeat", lambda m: archive(("archive/data.pkl", EMPTY + evil(m)))
    ),
    "deflated_program": ("unsafe", "zipfile", _deflated),
    "program_with_late_sizes": ("unsafe", "zipfile", _with_descriptor),
    "program_with_a_wrong_checksum": ("unsafe", "carve", _wrong_checksum),
    "program_flagged_as_encrypted": ("unsafe", "first", _encrypted),
    "name_with_a_nul": (JUDGED, "zipfile", _named(b"archive/data.pkl\0.txt")),
    "name_with_a_dot_segment": ("unsafe", "tidy", _named(b"archive/./data.pkl")),
    "name_with_two_slashes": ("unsafe", "tidy", _named(b"archive//data.pkl")),
    "name_with_a_backslash": ("unsafe", "tidy", _named(b"archive\\data.pkl")),
    "name_in_capitals": (JUDGED, "tidy", _named(b"archive/DATA.PKL")),
    "name_that_climbs": ("unsafe", "tidy", _named(b"archive/../archive/data.pkl")),
    "name_that_is_absolute": ("unsafe", "zipfile", _named(b"/archive/data.pkl")),
    "name_in_an_extra_field": (
        "unsafe", "every_member",
        _named(b"archive/nota.pkl", central_extra=struct.pack(
            "<HHBI", 0x7075, 21, 1, zlib.crc32(b"archive/nota.pkl")) + PROGRAM),
    ),
    "pickle_as_another_member": ("unsafe", "every_member", with_member("archive/hooks.pkl")),
    "pickle_as_serialization_id": (
        "unsafe", "every_member", with_member("archive/.data/serialization_id")
    ),
    "pickle_as_format_version": (
        "unsafe", "every_member", with_member("archive/.format_version")
    ),
    "pickle_as_byteorder": ("unsafe", "every_member", with_member("archive/byteorder")),
    "pickle_as_unused_storage": ("unsafe", "every_member", with_member("archive/data/7")),
    "pickle_among_the_storages": ("unsafe", "every_member", with_member("archive/data/hooks.pkl")),
    "pickle_behind_many_members": (JUDGED, "every_member", behind_many),
    "pickle_behind_many_bytes": (JUDGED, "every_member", behind_much),
    "pickle_outside_of_the_root": ("unsafe", "every_member", with_member("hooks.pkl")),
    "torchscript_program": ("unsafe", "every_member", _torchscript("data.pkl")),
    "torchscript_constants": ("unsafe", "every_member", _torchscript("constants.pkl")),
    "checkpoint_in_a_zip": (REFUSED, "inner", _inner),
    "numpy_archive_of_objects": (REFUSED, "numpy", _npz),
}  # fmt: skip
