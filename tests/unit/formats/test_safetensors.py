from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors

from memcard.core.tensors import DTYPES, Spec
from memcard.errors import CorruptError, UnsupportedError
from memcard.formats import open_file
from memcard.formats.safetensors import PLUGIN

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
