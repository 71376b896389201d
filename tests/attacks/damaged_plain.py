"""Damaged safetensors and GGUF files: the verdict, what the message must name, the bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from fixtures.gguf_bytes import (
    ARCHITECTURE,
    ARRAY,
    F32,
    FOUR,
    ONE_GGUF,
    Q8_0,
    U32,
    Info,
    Writer,
    gguf,
)
from fixtures.safetensors_bytes import DATA, ONE_SAFE, entry, raw_file, safetensors

Case = tuple[str, str, Callable[[], bytes]]


def header(text: str, data: bytes = DATA) -> Callable[[], bytes]:
    return lambda: raw_file(text.encode("utf-8", "surrogatepass"), data)


def one(**changes: Any) -> Callable[[], bytes]:
    return lambda: safetensors({"w": entry() | changes}, DATA)


def two(a: tuple[int, int], b: tuple[int, int], size: int) -> Callable[[], bytes]:
    shapes = [(a[1] - a[0],), (b[1] - b[0],)]
    pairs = [
        entry(*span, dtype="U8", shape=shape) for span, shape in zip((a, b), shapes, strict=True)
    ]
    return lambda: safetensors(dict(zip("ab", pairs, strict=True)), bytes(size))


W = json.dumps(entry())

SAFETENSORS: dict[str, Case] = {
    "safe_cut_in_the_length": ("corrupt|unsupported", "", lambda: ONE_SAFE[:5]),
    "safe_cut_in_the_header": ("corrupt", "cut off", lambda: ONE_SAFE[:40]),
    "safe_cut_before_the_data": ("corrupt", "cut off", lambda: ONE_SAFE[:-16]),
    "safe_cut_by_one_byte": ("corrupt", "cut off", lambda: ONE_SAFE[:-1]),
    "safe_with_a_byte_more": ("corrupt", "foreign", lambda: ONE_SAFE + b"\0"),
    "safe_length_zero": ("corrupt|unsupported", "", lambda: raw_file(b'{"a":1}', DATA, 0)),
    "safe_length_one_less": ("corrupt", "", lambda: raw_file(b'{"w":%s}' % W.encode(), DATA, len(W) + 5)),
    "safe_length_one_more": ("corrupt", "", lambda: raw_file(b'{"w":%s}' % W.encode(), DATA, len(W) + 7)),
    "safe_length_2_to_60": ("corrupt|unsupported", "", lambda: raw_file(b'{"w":{}}', DATA, 1 << 60)),
    "safe_length_over_the_limit": ("corrupt", "100000000", lambda: raw_file(b'{"w":{}}', DATA, 100_000_001)),
    "safe_not_json": ("corrupt", "JSON", header('{"w": ')),
    "safe_not_utf8": ("corrupt", "UTF-8", lambda: raw_file(b'{"\xff":' + W.encode() + b"}", DATA)),
    "safe_a_list": ("corrupt|unsupported", "", header("[]")),
    "safe_space_first": ("corrupt", "", header(' {"w":' + W + "}")),
    "safe_byte_order_mark": ("corrupt", "", header('\ufeff{"w":' + W + "}")),
    "safe_name_twice": ("corrupt", "'w'", header('{"w":' + W + ',"w":' + W + "}")),
    "safe_field_twice": ("corrupt", "dtype", header('{"w":{"dtype":"F64",' + W[1:] + "}")),
    "safe_metadata_twice": ("corrupt", "__metadata__", header('{"__metadata__":{},"__metadata__":{},"w":' + W + "}")),
    "safe_metadata_of_numbers": ("corrupt", "__metadata__", header('{"__metadata__":{"a":1},"w":' + W + "}")),
    "safe_metadata_a_list": ("corrupt", "__metadata__", header('{"__metadata__":[],"w":' + W + "}")),
    "safe_entry_a_number": ("corrupt", "'w'", header('{"w":3}')),
    "safe_without_dtype": ("corrupt", "dtype", header('{"w":{"shape":[4],"data_offsets":[0,16]}}')),
    "safe_without_offsets": ("corrupt", "data_offsets", header('{"w":{"shape":[4],"dtype":"F32"}}')),
    "safe_dtype_unknown": ("corrupt", "F33", one(dtype="F33")),
    "safe_dtype_a_number": ("corrupt", "'w'", one(dtype=32)),
    "safe_dtype_of_torch_only": ("corrupt", "C128", one(dtype="C128", shape=[1])),
    "safe_shape_negative": ("corrupt", "'w'", one(shape=[-4])),
    "safe_shape_of_fractions": ("corrupt", "'w'", one(shape=[4.0])),
    "safe_shape_of_booleans": ("corrupt", "'w'", one(shape=[True, 4])),
    "safe_shape_too_small": ("corrupt", "'w'", one(shape=[3])),
    "safe_shape_wraps_at_64_bits": ("corrupt", "'w'", one(shape=[1 << 62, 16])),
    "safe_shape_of_5000_digits": ("corrupt", "", header('{"w":{"dtype":"U8","shape":[' + "9" * 5000 + '],"data_offsets":[0,16]}}')),
    "safe_shape_an_object": ("corrupt", "'w'", lambda: safetensors({"w": entry(0, 4) | {"shape": {}}}, bytes(4))),
    "safe_shape_of_text": ("corrupt", "'w'", lambda: safetensors({"w": entry(0, 4) | {"shape": ""}}, bytes(4))),
    "safe_offsets_turned": ("corrupt", "'w'", one(data_offsets=[16, 0])),
    "safe_offsets_negative": ("corrupt", "'w'", one(data_offsets=[-16, 0])),
    "safe_offsets_of_three": ("corrupt", "'w'", one(data_offsets=[0, 8, 16])),
    "safe_offsets_of_text": ("corrupt", "'w'", one(data_offsets=["0", "16"])),
    "safe_offsets_beyond_the_end": ("corrupt", "16", one(shape=[8], data_offsets=[0, 32])),
    "safe_offsets_2_to_62": ("corrupt", "'w'", one(shape=[1 << 60], data_offsets=[0, 1 << 62])),
    "safe_ranges_overlap": ("corrupt", "overlap", two((0, 10), (8, 16), 16)),
    "safe_ranges_with_a_hole": ("corrupt", "hole", two((0, 7), (8, 16), 16)),
    "safe_ranges_start_late": ("corrupt", "hole", two((1, 8), (8, 16), 16)),
    "safe_ranges_the_same": ("corrupt", "overlap", two((0, 16), (0, 16), 16)),
    "safe_half_a_byte": ("corrupt", "'w'", lambda: safetensors({"w": entry(0, 2, "F4", [3])}, bytes(2))),
    "safe_name_of_half_a_pair": ("corrupt", "", header('{"\\ud800":' + W + "}")),
    "safe_nested_deep": ("corrupt", "", header('{"w":' + "[" * 100_000 + "]" * 100_000 + "}")),
    "safe_constant": ("corrupt", "", header('{"w":NaN}')),
}  # fmt: skip

_w = Writer()


def with_pair(*pairs: bytes) -> Callable[[], bytes]:
    return lambda: gguf([Info(b"w", [4], F32, FOUR)], [ARCHITECTURE, *pairs])


def with_info(*infos: Info, **lies: Any) -> Callable[[], bytes]:
    return lambda: gguf(infos, [ARCHITECTURE], **lies)


def w(**changes: Any) -> Info:
    told: dict[str, Any] = {"name": b"w", "dims": [4], "kind": F32, "content": FOUR}
    return Info(**(told | changes))


GGUF: dict[str, Case] = {
    "gguf_magic_only": ("corrupt|unsupported", "", lambda: b"GGUF"),
    "gguf_cut_in_the_counts": ("corrupt", "", lambda: ONE_GGUF[:20]),
    "gguf_cut_in_a_key": ("corrupt", "", lambda: ONE_GGUF[:40]),
    "gguf_cut_in_a_tensor_info": ("corrupt", "", lambda: ONE_GGUF[:90]),
    "gguf_cut_before_the_data": ("corrupt", "'w'", lambda: ONE_GGUF[:-32]),
    "gguf_cut_in_the_data": ("corrupt", "'w'", lambda: ONE_GGUF[:-17]),
    "gguf_version_0": ("corrupt|unsupported", "0", lambda: gguf(version=0)),
    "gguf_version_99": ("unsupported|corrupt", "99", lambda: gguf(version=99)),
    "gguf_tensors_2_to_60": ("corrupt", "", with_info(w(), tensors=1 << 60)),
    "gguf_tensors_one_more": ("corrupt", "", with_info(w(), tensors=2)),
    "gguf_pairs_2_to_60": ("corrupt", "", with_info(w(), kvs=1 << 60)),
    "gguf_pairs_two_more": ("corrupt", "", with_info(w(dims=[2, 2]), kvs=3)),
    "gguf_key_length_2_to_60": ("corrupt", "", with_pair(struct.pack("<Q", 1 << 60) + b"abc")),
    "gguf_text_length_2_to_60": ("corrupt", "", with_pair(_w.string("a") + _w.u32(8) + struct.pack("<Q", 1 << 60))),
    "gguf_name_length_2_to_60": ("corrupt", "", lambda: ONE_GGUF.replace(b"\1\0\0\0\0\0\0\0w", b"\0\0\0\0\0\0\0\x10w")),
    "gguf_key_not_utf8": ("corrupt", "UTF-8", with_pair(_w.text(b"\xff", "x"))),
    "gguf_name_not_utf8": ("corrupt", "UTF-8", with_info(w(name=b"\xff"))),
    "gguf_value_type_unknown": ("corrupt|unsupported", "77", with_pair(_w.string("a") + _w.u32(77) + b"1234")),
    "gguf_array_2_to_60": ("corrupt", "", with_pair(_w.array("a", U32, 1 << 60, b""))),
    "gguf_array_of_unknown_type": ("corrupt|unsupported", "78", with_pair(_w.array("a", 78, 1, b"1234"))),
    "gguf_arrays_nested_deep": (
        "corrupt|unsupported", "",
        with_pair(_w.string("a") + _w.u32(ARRAY) + (_w.u32(ARRAY) + _w.length(1)) * 20_000 + _w.u32(0) + _w.length(0)),
    ),
    "gguf_key_twice": ("corrupt", "general.architecture", with_pair(ARCHITECTURE)),
    "gguf_tensor_twice": ("corrupt", "'w'", with_info(w(), w())),
    "gguf_six_axes": ("corrupt", "'w'", with_info(w(dims=[1, 1, 1, 1, 1, 4]))),
    "gguf_axes_claim_2_to_31": ("corrupt", "'w'", with_info(w(n_dims=1 << 31))),
    "gguf_axis_of_zero": ("corrupt", "", with_info(w(dims=[0]))),
    "gguf_axes_wrap_at_64_bits": ("corrupt", "'w'", with_info(w(dims=[1 << 33, 1 << 33]))),
    "gguf_axis_2_to_62": ("corrupt", "'w'", with_info(w(dims=[1 << 62]))),
    "gguf_type_unknown": ("corrupt|unsupported", "1234", with_info(w(kind=1234))),
    "gguf_row_no_whole_blocks": ("corrupt", "'w'", with_info(w(dims=[33], kind=Q8_0, content=bytes(68)))),
    "gguf_offset_not_aligned": ("corrupt", "'w'", with_info(w(offset=4), after=bytes(32))),
    "gguf_offset_outside": ("corrupt", "'w'", with_info(w(offset=1 << 20))),
    "gguf_offset_2_to_63": ("corrupt", "'w'", with_info(w(offset=1 << 63))),
    "gguf_tensors_overlap": ("corrupt", "'v'", with_info(w(), w(name=b"v", offset=0))),
    "gguf_bytes_after": ("corrupt", "", with_info(w(), after=b"x" * 4096)),
    "gguf_alignment_0": ("corrupt", "0", with_pair(_w.scalar("general.alignment", U32, 0))),
    "gguf_alignment_3": ("corrupt", "3", with_pair(_w.scalar("general.alignment", U32, 3))),
    "gguf_alignment_2_to_31": ("corrupt", "", with_pair(_w.scalar("general.alignment", U32, 1 << 31))),
    "gguf_alignment_of_text": ("corrupt", "general.alignment", with_pair(_w.text("general.alignment", "32"))),
}  # fmt: skip
