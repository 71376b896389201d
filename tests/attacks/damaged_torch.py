"""Damaged torch files of both kinds: the verdict, what the message must name, the bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fixtures.legacy_bytes import (
    MAGIC,
    OLD_ONE,
    SYSTEM,
    dumps,
    legacy,
    old_state_dict,
    old_tensor,
)
from fixtures.torch_archive import ONE, ONE_DATA, number, numbers, state_dict, tensor, text
from fixtures.zip_bytes import Entry, entries, wide_field, zipped

Case = tuple[str, str, Callable[[], bytes]]
DATA = ONE_DATA["0"]
MEMBERS = [("archive/data.pkl", ONE), ("archive/data/0", DATA), ("archive/version", b"3\n")]
HONEST = zipped(entries(MEMBERS))
START = HONEST.index(b"PK\x01\x02")  # of the directory
END = HONEST.rindex(b"PK\x05\x06")


def with_storage(**changes: Any) -> Callable[[], bytes]:
    """The honest archive, its storage described otherwise."""

    def make() -> bytes:
        program, storage, version = entries(MEMBERS)
        return zipped([program, replace(storage, **changes), version])

    return make


def with_program(program: bytes, *more: tuple[str, bytes]) -> Callable[[], bytes]:
    members = [("archive/data.pkl", program), *MEMBERS[1:], *more]
    return lambda: zipped(entries(members))


def with_end(**lies: int) -> Callable[[], bytes]:
    return lambda: zipped(entries(MEMBERS), **lies)


def with_wide_end(lies: dict[str, int], **small: int) -> Callable[[], bytes]:
    return lambda: zipped(entries(MEMBERS), wide=lies, **small)


def patched(raw: bytes, at: int, new: bytes) -> Callable[[], bytes]:
    return lambda: raw[:at] + new + raw[at + len(new) :]


def deflated(content: bytes, **changes: Any) -> Callable[[], bytes]:
    """The program compressed; its record says something else."""

    def make() -> bytes:
        program, storage, version = entries(MEMBERS)
        packed = replace(program, content=content, method=8, **changes)
        return zipped([packed, storage, version])

    return make


def broken_stream() -> bytes:
    """A compressed program whose stream is cut in the middle, described truthfully."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    half = (press.compress(ONE * 50) + press.flush())[:20]
    told = {"method": 8, "size": len(ONE) * 50, "packed": len(half)}
    program = Entry(b"archive/data.pkl", half, in_header=dict(told), in_directory=dict(told))
    return zipped([program, *entries(MEMBERS[1:])])


def _descriptor(crc: int, size: int) -> Callable[[], bytes]:
    late = struct.pack("<4sIII", b"PK\x07\x08", crc, size, size)
    return with_storage(flags=8, descriptor=late, in_header={"crc": 0, "size": 0, "packed": 0})


def one_tensor(*args: Any, **words: Any) -> Callable[[], bytes]:
    return with_program(state_dict({"w": tensor(*args, **words)}))


CONTAINER: dict[str, Case] = {
    "zip_empty": ("unsupported", "is empty", lambda: b""),
    "zip_of_zeros": ("unsupported", "zeros", lambda: bytes(4096)),
    "zip_cut_in_half": ("corrupt", "cut off", lambda: HONEST[: len(HONEST) // 2]),
    "zip_cut_in_the_first_header": ("corrupt", "cut off", lambda: HONEST[:17]),
    "zip_cut_before_the_directory": ("corrupt", "cut off", lambda: HONEST[:START]),
    "zip_cut_in_the_directory": ("corrupt", "cut off", lambda: HONEST[: START + 60]),
    "zip_cut_before_the_end_record": ("corrupt", "cut off", lambda: HONEST[:END]),
    "zip_cut_by_one_byte": ("corrupt", "cut off", lambda: HONEST[:-1]),
    "zip_with_a_newline_after": ("corrupt", "foreign", lambda: HONEST + b"\n"),
    "zip_with_zeros_after": ("corrupt", "foreign", lambda: HONEST + bytes(512)),
    "zip_with_bytes_before": ("corrupt", "", lambda: b"PK\x03\x04" + zipped(entries(MEMBERS))),
    "zip_with_a_comment": ("corrupt", "directory", lambda: zipped(entries(MEMBERS), comment=b"hi")),
    "zip_with_bytes_between": ("corrupt", "foreign", with_storage(gap=b"\0" * 9)),
    "zip_directory_starts_later": ("corrupt", "directory", with_end(start=START + 1)),
    "zip_directory_starts_earlier": ("corrupt", "directory", with_end(start=START - 1)),
    "zip_directory_is_longer": ("corrupt", "directory", with_end(size=END - START + 1)),
    "zip_directory_has_more": ("corrupt", "4", with_end(total=4, here=4)),
    "zip_directory_has_fewer": ("corrupt", "2", with_end(total=2, here=2)),
    "zip_directory_has_none": ("corrupt", "", with_end(total=0, here=0)),
    "zip_of_two_volumes": ("corrupt", "volumes", with_end(disk=1, disk_start=1)),
    "zip_end_is_wide_without_record": ("corrupt", "zip64", with_end(total=0xFFFF, here=0xFFFF)),
    "zip64_counts_disagree": ("corrupt", "disagree", with_wide_end({"total": 9, "here": 9})),
    "zip64_claims_2_to_60": (
        "corrupt", "", with_wide_end({"total": 1 << 60, "here": 1 << 60}, total=0xFFFF, here=0xFFFF)
    ),
    "zip64_record_elsewhere": ("corrupt", "zip64", with_wide_end({"at": 1 << 62})),
    "zip64_record_too_long": ("corrupt", "zip64", with_wide_end({"length": 1 << 63})),
    "zip64_size_claims_2_to_62": (
        "corrupt", "data/0", with_storage(size=0xFFFFFFFF, packed=0xFFFFFFFF,
            extra=wide_field(1 << 62, 1 << 62), central_extra=wide_field(1 << 62, 1 << 62))
    ),
    "zip64_field_cut_off": (
        "corrupt", "data/0", with_storage(size=0xFFFFFFFF, packed=0xFFFFFFFF,
            extra=wide_field(16)[:9], central_extra=wide_field(16)[:9])
    ),
    "zip_local_signature": ("corrupt", "data/0", patched(HONEST, HONEST.index(b"PK\x03\x04", 4), b"XX")),
    "zip_directory_signature": ("corrupt", "directory", patched(HONEST, START, b"XX")),
    "zip_local_name_longer": ("corrupt", "data/0", with_storage(in_header={"name": b"archive/data/00"})),
    "zip_local_extra_longer": ("corrupt", "", patched(HONEST, 28, b"\xff\xff")),
    "zip_size_one_more": ("corrupt", "archive/", with_storage(size=17, packed=17)),
    "zip_size_one_less": ("corrupt", "", with_storage(size=15, packed=15)),
    "zip_sizes_disagree": ("corrupt", "data/0", with_storage(in_header={"size": 12, "packed": 12})),
    "zip_members_overlap": ("corrupt", "data/0", with_storage(in_directory={"header": 0})),
    "zip_member_behind_the_end": ("corrupt", "archive/", with_storage(in_directory={"header": 1 << 30})),
    "zip_member_on_another_disk": ("corrupt", "", with_storage(in_directory={"disk": 1})),
    "zip_name_not_utf8": ("corrupt", "UTF-8", with_storage(name=b"archive/data/\xff")),
    "zip_name_empty": ("corrupt", "", with_storage(name=b"")),
    "zip_method_unknown": ("corrupt|unsupported", "data/0", with_storage(in_header={"method": 99}, in_directory={"method": 99})),
    "zip_encrypted": ("unsupported", "encrypted", with_storage(flags=1)),
    "zip_flag_of_strong_encryption": ("corrupt|unsupported", "data/0", with_storage(flags=0x40)),
    "zip_flag_of_patched_data": ("corrupt|unsupported", "data/0", with_storage(flags=0x20)),
    "zip_flag_of_masked_headers": ("corrupt|unsupported", "data/0", with_storage(flags=0x2000)),
    "zip_member_marked_as_folder": ("corrupt", "data/0", with_storage(in_directory={"attributes": 0x10})),
    "zip_descriptor_wrong_size": ("corrupt", "data/0", _descriptor(zlib.crc32(DATA), 99)),
    "zip_descriptor_wrong_checksum": ("corrupt", "data/0", _descriptor(1, 16)),
    "zip_deflate_broken": ("corrupt", "data.pkl", broken_stream),
    "zip_deflate_claims_more": ("corrupt", "data.pkl", deflated(ONE, size=len(ONE) + 1)),
    "zip_deflate_claims_less": ("corrupt", "data.pkl", deflated(ONE, size=len(ONE) - 1)),
    "zip_deflate_bomb": ("corrupt", "data.pkl", deflated(bytes(60 << 20), size=100)),
    "zip_deflate_honest_bomb": ("corrupt|unsupported", "data.pkl", deflated(bytes(250 << 20))),
}  # fmt: skip

CONTENT: dict[str, Case] = {
    "torch_without_program": ("unsupported", "data.pkl", lambda: zipped(entries(MEMBERS[1:]))),
    "torch_without_storage": ("corrupt", "'0'", lambda: zipped(entries([MEMBERS[0], MEMBERS[2]]))),
    "torch_storage_short": ("corrupt", "15", with_storage(content=DATA[:15])),
    "torch_storage_long": ("corrupt", "17", with_storage(content=DATA + b"x")),
    "torch_byteorder_unknown": ("corrupt", "middle", with_program(ONE, ("archive/byteorder", b"middle"))),
    "torch_byteorder_empty": ("corrupt", "byteorder", with_program(ONE, ("archive/byteorder", b""))),
    "torch_byteorder_longer": ("corrupt", "byteorder", with_program(ONE, ("archive/byteorder", b"little" + b" " * 99))),
    "torch_program_empty": ("corrupt", "STOP", with_program(b"")),
    "torch_program_cut": ("corrupt", "byte", with_program(ONE[:-30])),
    "torch_program_flipped": ("corrupt", "byte", with_program(ONE.replace(b"}(", b"\x0f(", 1))),
    "torch_program_with_more": ("corrupt", "byte", with_program(ONE + b"\n")),
    "torch_program_not_utf8": ("corrupt", "UTF-8", with_program(ONE.replace(text("w"), b"X\1\0\0\0\xff"))),
    "torch_two_dtypes_of_a_storage": (
        "corrupt", "'0'",
        with_program(state_dict({"w": tensor("0", [4], [1]), "v": tensor("0", [4], [1], kind="IntStorage")})),
    ),
    "torch_two_sizes_of_a_storage": (
        "corrupt", "'0'",
        with_program(state_dict({"w": tensor("0", [4], [1]), "v": tensor("0", [2], [1], numel=2)})),
    ),
    "torch_shape_claims_2_to_62": ("corrupt", "", one_tensor("0", [1 << 62], [1])),
    "torch_shape_product_wraps": ("corrupt", "", one_tensor("0", [1 << 32, 1 << 32], [0, 0])),
    "torch_offset_outside": ("corrupt", "'0'", one_tensor("0", [4], [1], offset=1)),
    "torch_stride_outside": ("corrupt", "'0'", one_tensor("0", [2, 2], [3, 1])),
    "torch_stride_missing": ("corrupt", "stride", one_tensor("0", [2, 2], [1])),
    "torch_shape_negative": ("corrupt", "", one_tensor("0", [-4], [1])),
    "torch_numel_negative": ("corrupt", "", one_tensor("0", [0], [1], numel=-4)),
    "torch_numel_claims_2_to_61": ("corrupt", "", one_tensor("0", [4], [1], numel=1 << 61)),
    "torch_storage_key_missing": ("corrupt", "'7'", one_tensor("7", [4], [1])),
    "torch_storage_key_climbs": ("corrupt", "", one_tensor("../data.pkl", [4], [1])),
    "torch_storage_type_unknown": ("corrupt|unsafe", "OddStorage", one_tensor("0", [4], [1], kind="OddStorage")),
    "torch_shape_of_text": ("corrupt", "", with_program(
        state_dict({"w": tensor("0", [4], [1]).replace(numbers([4]), text("4"))}))),
    "torch_tensor_of_nothing": ("corrupt", "", with_program(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.")),
}  # fmt: skip


def _keys(*keys: object) -> Callable[[], bytes]:
    return lambda: legacy(OLD_ONE, keys=dumps(list(keys)))


def _view(*parts: bytes) -> Callable[[], bytes]:
    view = b"(" + b"".join(parts) + b"t"
    program = old_state_dict({"w": old_tensor("0", [2], [1], view=view)})
    return lambda: legacy(program)


OLD_HONEST = legacy(OLD_ONE)
_OBJECT = OLD_HONEST.index(OLD_ONE)

LEGACY: dict[str, Case] = {
    "old_cut_in_the_magic": ("corrupt|unsupported", "", lambda: OLD_HONEST[:9]),
    "old_cut_after_the_magic": ("corrupt|unsupported", "", lambda: OLD_HONEST[: len(dumps(MAGIC))]),
    "old_cut_in_the_system": ("corrupt", "", lambda: OLD_HONEST[: _OBJECT - 9]),
    "old_cut_in_the_object": ("corrupt", "", lambda: OLD_HONEST[: _OBJECT + 60]),
    "old_cut_before_the_keys": ("corrupt", "", lambda: OLD_HONEST[: _OBJECT + len(OLD_ONE)]),
    "old_cut_before_the_storage": ("corrupt", "", lambda: OLD_HONEST[:-24]),
    "old_cut_in_the_count": ("corrupt", "", lambda: OLD_HONEST[:-20]),
    "old_cut_in_the_storage": ("corrupt", "", lambda: OLD_HONEST[:-1]),
    "old_with_more": ("corrupt", "1", lambda: OLD_HONEST + b"\0"),
    "old_count_too_large": ("corrupt", "", lambda: legacy(OLD_ONE, counts=[5])),
    "old_count_too_small": ("corrupt", "", lambda: legacy(OLD_ONE, counts=[3])),
    "old_count_claims_2_to_60": ("corrupt", "", lambda: legacy(OLD_ONE, counts=[1 << 60])),
    "old_count_negative": ("corrupt", "", lambda: legacy(OLD_ONE, counts=[-1])),
    "old_count_of_the_other_order": ("corrupt", "", lambda: legacy(OLD_ONE, order=">")),
    "old_keys_without_one": ("corrupt", "", _keys()),
    "old_keys_with_another": ("corrupt", "", _keys("1")),
    "old_keys_twice": ("corrupt", "", _keys("0", "0")),
    "old_keys_of_numbers": ("corrupt", "", _keys(0)),
    "old_keys_no_list": ("corrupt", "dict", lambda: legacy(OLD_ONE, keys=dumps({"0": 1}))),
    "old_version_unknown": ("corrupt|unsupported", "1002", lambda: legacy(OLD_ONE, version=dumps(1002))),
    "old_system_no_dict": ("corrupt", "third", lambda: legacy(OLD_ONE, system=dumps([1]))),
    "old_byteorder_no_bool": (
        "corrupt", "little_endian", lambda: legacy(OLD_ONE, system=dumps(SYSTEM | {"little_endian": "no"}))
    ),
    "old_view_outside": ("corrupt", "", _view(text("v"), number(3), number(2))),
    "old_view_negative": ("corrupt", "", _view(text("v"), number(-1), number(2))),
    "old_view_too_short": ("corrupt", "", _view(text("v"))),
}  # fmt: skip
