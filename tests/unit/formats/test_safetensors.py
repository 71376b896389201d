from __future__ import annotations

import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors

from memcard.core.tensors import DTYPES, Spec
from memcard.errors import CorruptError, UnsupportedError
from memcard.formats import open_file
from memcard.formats.safetensors import PLUGIN

F32 = Spec(DTYPES["F32"], ())
ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def save(path: Path, header: bytes | dict[str, Any], data: bytes = bytes(8)) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": ONE | changes}


BAD: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "hole": ({"w": ONE, "v": ONE | {"data_offsets": [9, 17]}}, "leaves a hole"),
    "hole_at_start": (entry(data_offsets=[1, 9]), "leaves a hole"),
    "overlap": ({"w": ONE, "v": ONE | {"data_offsets": [4, 12]}}, "overlaps"),
    "cut_off": (entry(shape=[3], data_offsets=[0, 12]), "cut off"),
    "trailing": (entry(shape=[1], data_offsets=[0, 4]), "foreign bytes"),
    "size": (entry(shape=[3]), "takes 12 bytes, has 8"),
    "unknown_dtype": (entry(dtype="F33"), "unknown dtype 'F33'"),
    "dtype_of_another_format": (entry(dtype="C128", shape=[1]), "unknown dtype 'C128'"),
    "half_a_byte": (entry(dtype="F4", shape=[15]), "does not fill whole bytes"),
    "shape_is_an_object": ({"w": ONE | {"shape": {}, "data_offsets": [0, 4]}}, "not whole numbers"),
    "offsets_are_an_object": (entry(data_offsets={"0": 0, "8": 8}), "are not a range"),
    "minus_zero": (json.dumps({"w": ONE}).replace("[0,", "[-0,").encode(), "-0 is no size"),
    "surrogate_in_a_field": (entry(**{"\ud800": 1}), "a key is not valid Unicode"),
    "negative_shape": (entry(shape=[-2]), "not whole numbers"),
    "float_shape": (entry(shape=[2.0]), "not whole numbers"),
    "bool_shape": (entry(shape=[True, 2]), "not whole numbers"),
    "reversed_range": (entry(data_offsets=[8, 0]), "are not a range"),
    "three_offsets": (entry(data_offsets=[0, 4, 8]), "are not a range"),
    "no_dtype": ({"w": {"shape": [2], "data_offsets": [0, 8]}}, "needs dtype"),
    "entry_is_a_list": ({"w": [1]}, "needs dtype"),
    "metadata_is_a_number": ({"w": ONE, "__metadata__": {"a": 1}}, "__metadata__"),
    "not_json": (b'{"w":', "not UTF-8 JSON"),
    "not_utf8": (b'{"\xff":1}', "not UTF-8 JSON"),
    "nan": (b'{"w":NaN}', "NaN is not JSON"),
    "lone_surrogate": (json.dumps({"\ud800": ONE}).encode(), "not valid Unicode"),
    "bom": (b"\xef\xbb\xbf" + json.dumps({"w": ONE}).encode(), "does not start with"),
    "array": (b"[1, 2]", "does not start with"),
    "huge_number": (b'{"w":' + b"9" * 5000 + b"}", "not UTF-8 JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_header_is_refused_as_by_the_reference(case: str, tmp_path: Path) -> None:
    header, text = BAD[case]
    path = save(tmp_path / "x.safetensors", header)

    with pytest.raises(CorruptError) as caught:
        PLUGIN.open(path)

    assert text in str(caught.value)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(path, "np")


def test_a_key_twice_is_refused_though_the_reference_takes_the_last(tmp_path: Path) -> None:
    one = json.dumps(ONE)
    path = save(tmp_path / "x.safetensors", f'{{"w":{one},"w":{one}}}'.encode())

    with pytest.raises(CorruptError, match="key 'w' appears twice"):
        PLUGIN.open(path)

    with safetensors.safe_open(path, "np") as reference:
        assert reference.keys() == ["w"]


def test_space_before_the_header_is_refused_though_the_reference_reads_it(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", b" " + json.dumps({"w": ONE}).encode())

    with pytest.raises(CorruptError, match="does not start with"):  # "must begin with a {": README
        open_file(path)

    with safetensors.safe_open(path, "np") as reference:
        assert reference.keys() == ["w"]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    header = {str(i): ONE | {"dtype": "nope"} for i in range(5)}

    with pytest.raises(CorruptError, match="and 2 more faults") as caught:
        PLUGIN.open(save(tmp_path / "x.safetensors", header))

    assert len(caught.value.faults) == 5


def test_metadata_that_utf8_cannot_hold_is_refused(tmp_path: Path) -> None:
    header = {"w": ONE, "__metadata__": {"title": "\ud800"}}

    with pytest.raises(CorruptError, match="not valid Unicode"):
        PLUGIN.open(save(tmp_path / "x.safetensors", header))


def test_keys_that_appear_twice_inside_an_entry_are_told(tmp_path: Path) -> None:
    entry = '{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}'
    header = f'{{"__metadata__":{{"a":"1","a":"2"}},"w":{entry}}}'.encode()

    with pytest.raises(CorruptError) as caught:
        PLUGIN.open(save(tmp_path / "x.safetensors", header))

    assert {"key 'a' appears twice", "key 'dtype' appears twice"} < set(caught.value.faults)


LONG = 3_000_000
HOSTILE: dict[str, tuple[bytes, str]] = {
    "deep_lists": (b'{"w":' + b"[" * LONG + b"]" * LONG + b"}", "holds 3000001 values"),
    "deep_objects": (b'{"w":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    "digits": (b'{"w":' + b"9" * LONG + b"}", "not UTF-8 JSON"),
    "many_digits": (b'{"w":[' + b",".join([b"9" * 4000] * 500) + b"]}", "needs dtype"),
    "huge_shape": (
        b'{"w":{"dtype":"F32","data_offsets":[0,8],"shape":[' + b"9" * 4000 + b"]}}",
        r"shape \[a number of 13288 bits\]",
    ),
    "many_keys": (b'{"a":0' + b',"a":0' * 300_000 + b"}", "and 997 more faults"),
    "too_many_keys": (b'{"a":0' + b',"a":0' * LONG + b"}", "the limit is 1000000"),
    "many_axes": (
        b'{"w":{"dtype":"F32","data_offsets":[0,8],"shape":[1' + b",1" * 900_000 + b"]}}",
        "has 900001 axes; the limit is 64",
    ),
    "many_unlike": (
        b"{" + b",".join(b'"%x":{"dtype":"","shape":[]}' % i for i in range(20_000)) + b"}",
        "and 997 more faults",
    ),
    "zeros": (b"{" + bytes(20_000_000), "zero bytes in it, or no end"),
    "no_end": (b'{"w":"' + b"x" * 20_000_000, "zero bytes in it, or no end"),
    "long_text": (b'{"w":"' + b"x" * 20_000_000 + b'"}', "needs dtype"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_costs_little_and_is_corrupt(case: str, tmp_path: Path) -> None:
    header, text = HOSTILE[case]
    path, start = save(tmp_path / "x.safetensors", header), time.process_time()

    with pytest.raises(CorruptError, match=text) as caught:
        PLUGIN.open(path)

    assert time.process_time() - start < 5  # measured: 0.7 s at most
    assert len(str(caught.value)) < 2000
    assert len(caught.value.faults) <= 1001


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_takes_little_memory(case: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", HOSTILE[case][0])
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError):
            PLUGIN.open(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 100e6  # the largest of them are a third of the limits


def test_more_tensors_than_the_limit_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    entry = b'"%x":{"data_offsets":0}'
    header = b"{" + b",".join(entry % i for i in range(100_001)) + b"}"

    with pytest.raises(UnsupportedError, match="holds 100001 tensors; the limit is 100000"):
        PLUGIN.open(save(tmp_path / "x.safetensors", header, b""))


def test_long_metadata_is_no_fault(tmp_path: Path) -> None:
    tags = json.dumps(
        {"tag" * 3 + str(i): i for i in range(120_000)}
    )  # as kohya's ss_tag_frequency
    header = {"w": ONE, "__metadata__": {"ss_tag_frequency": tags, "ü": "✓" * 100_000}}

    assert (
        PLUGIN.open(save(tmp_path / "x.safetensors", header)).metadata["ss_tag_frequency"] == tags
    )


def test_a_header_of_3000_tensors_takes_milliseconds(tmp_path: Path) -> None:
    header = {
        f"model.diffusion_model.block.{i}.weight": {
            "dtype": "F16", "shape": [1, 4], "data_offsets": [8 * i, 8 * i + 8],
        }
        for i in range(3000)
    }  # fmt: skip
    path = save(tmp_path / "x.safetensors", header, bytes(24_000))

    def took() -> float:
        start = time.process_time()
        PLUGIN.open(path).close()
        return time.process_time() - start

    assert min(took() for _ in range(5)) < 0.05  # measured: 0.007


@pytest.mark.parametrize("raw", [b"", b"\1", b"\xff" * 8 + b"{", b"\x10" + bytes(7) + b"{"])
def test_a_truncated_file_is_corrupt(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)

    with pytest.raises(CorruptError, match=r"x\.safetensors"):
        PLUGIN.open(path)


def test_tensors_are_listed_as_they_lie_in_the_file(tmp_path: Path) -> None:
    header = {
        "second": ONE | {"data_offsets": [8, 16]},
        "__metadata__": {"z": "1", "a": "2"},
        "first": ONE,
    }

    checkpoint = PLUGIN.open(save(tmp_path / "x.safetensors", header, bytes(range(16))))

    assert list(checkpoint.specs) == ["first", "second"]
    assert list(checkpoint.metadata) == ["z", "a"]
    assert checkpoint.read("second") == bytes(range(8, 16))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d not in ("C32", "C128")])
def test_every_dtype_of_the_format_is_accepted_by_the_reference(dtype: str, tmp_path: Path) -> None:
    path, spec = tmp_path / "x.safetensors", Spec(DTYPES[dtype], (2, 4))

    with PLUGIN.create(path) as sink:
        sink.begin({"w": spec}, {"title": "x"})
        sink.write("w", memoryview(bytes(range(spec.nbytes))))

    with safetensors.safe_open(path, "np") as reference:
        part = reference.get_slice("w")
        assert (part.get_dtype(), part.get_shape()) == (dtype, [2, 4])
        assert reference.metadata() == {"title": "x"}
    assert PLUGIN.open(path).specs == {"w": spec}


TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16",
    "F32": "float32", "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F4": "float4_e2m1fn_x2",
}  # fmt: skip


@pytest.mark.parametrize("dtype", TORCH)
def test_bytes_go_there_and_back_through_torch(dtype: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    spec = Spec(DTYPES[dtype], (2, 4))
    raw = bytes(i % 2 for i in range(spec.nbytes))  # bits that every dtype can hold, bool too
    with PLUGIN.create(tmp_path / "ours.safetensors") as sink:
        sink.begin({"w": spec, "empty": Spec(DTYPES[dtype], (0, 2)), "scalar": F32}, {})
        sink.write("w", memoryview(raw))
        sink.write("scalar", memoryview(bytes(4)))

    loaded = load_file(tmp_path / "ours.safetensors")
    save_file(loaded, tmp_path / "theirs.safetensors")
    checkpoint = open_file(tmp_path / "theirs.safetensors")

    assert loaded["w"].dtype == getattr(torch, TORCH[dtype])
    assert loaded["w"].view(torch.uint8).numpy().tobytes() == raw
    assert bytes(checkpoint.read("w")) == raw
    assert checkpoint.specs == {"w": spec, "empty": Spec(DTYPES[dtype], (0, 2)), "scalar": F32}


def test_no_tensors_at_all_is_a_lawful_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({}, tmp_path / "theirs.safetensors", {"title": "x"})
    with PLUGIN.create(tmp_path / "ours.safetensors") as sink:
        sink.begin({}, {"title": "x"})

    assert load_file(tmp_path / "ours.safetensors") == {}
    for name in ("ours", "theirs"):
        checkpoint = open_file(tmp_path / f"{name}.safetensors")
        assert (checkpoint.specs, checkpoint.metadata) == ({}, {"title": "x"})


def test_the_tensors_start_at_a_multiple_of_eight(tmp_path: Path) -> None:
    for length in range(9):
        with PLUGIN.create(tmp_path / "x.safetensors") as sink:
            sink.begin({"w" * (length + 1): Spec(DTYPES["U8"], (1,))}, {})
            sink.write("w" * (length + 1), memoryview(b"x"))
        assert PLUGIN.open(tmp_path / "x.safetensors").data_offset % 8 == 0


@pytest.mark.parametrize(
    ("name", "spec", "text"),
    [
        ("w", Spec(DTYPES["C32"], (1,)), "'w' is C32"),
        ("w", Spec(DTYPES["F4"], (3,)), "does not fill whole bytes"),
        ("__metadata__", Spec(DTYPES["U8"], (1,)), "cannot be a name"),
        ("\ud800", Spec(DTYPES["U8"], (1,)), "cannot be a name"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(
    name: str, spec: Spec, text: str, tmp_path: Path
) -> None:
    with (
        pytest.raises(UnsupportedError, match=text),
        PLUGIN.create(tmp_path / "x.safetensors") as sink,
    ):
        sink.begin({name: spec}, {})

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_shrinks_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", {"w": ONE})
    checkpoint = open_file(path)
    os.truncate(path, path.stat().st_size - 4)

    with pytest.raises(CorruptError, match="Something is writing to it"):
        checkpoint.read("w")
