"""Sharded saves as docs/spec/dcp.md has them, put together by hand: odd but lawful ones, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from safetensors.numpy import save

from attacks.honest_plain import Made, values

Box = tuple[int, str, np.ndarray[Any, Any], Sequence[int]]  # file, tensor, values, offsets
Change = Callable[[dict[str, Any]], object]

WHOLE = values(5, 7, 6)


def folder_of(
    folder: Path, tensors: dict[str, tuple[str, Sequence[int], Sequence[Box]]], **more: Any
) -> Path:
    """Write the files of the boxes, and an index of these tensors."""
    files: dict[int, dict[str, np.ndarray[Any, Any]]] = {}
    for _, _, boxes in tensors.values():
        for file, name, array, _ in boxes:
            files.setdefault(file, {})[name] = np.array(array, order="C")
    listed = []
    for number, arrays in sorted(files.items()):
        name = f"rank-{number:05d}.safetensors"
        raw = save(arrays)
        folder.joinpath(name).write_bytes(raw)
        digests = {key: blake3(array.tobytes()).hexdigest() for key, array in arrays.items()}
        listed.append({"name": name, "size": len(raw), "digests": digests})
    chunks = {
        name: {
            "dtype": dtype,
            "shape": list(shape),
            "chunks": [
                [file, key, list(offsets), list(array.shape[: len(shape)])]
                for file, key, array, offsets in boxes
            ],
        }
        for name, (dtype, shape, boxes) in tensors.items()
    }
    whole = {
        "format": "memcard.dcp",
        "version": 1,
        "files": listed,
        "tensors": chunks,
        "values": {},
    }
    whole |= {"paths": None, "world": len(listed), "time": 0, "made_by": {}} | more
    return seal(folder, whole)


def seal(folder: Path, whole: dict[str, Any]) -> Path:
    text = json.dumps({"check": "0" * 64, **whole}, separators=(",", ":"))
    check = blake3(text.encode()).hexdigest()
    folder.joinpath("index.json").write_text(text.replace("0" * 64, check, 1))
    return folder


def _rows(folder: Path) -> Path:
    boxes = [(0, "w@0,0", WHOLE[:3], (0, 0)), (1, "w@3,0", WHOLE[3:], (3, 0))]
    return folder_of(folder, {"w": ("F32", (7, 6), boxes)}, values={"step": [None, 3]})


def _by_rows(folder: Path) -> Made:
    return _rows(folder), {"w": WHOLE}


def _by_columns(folder: Path) -> Made:
    boxes = [(0, "w", WHOLE[:, :1], (0, 0)), (1, "w", WHOLE[:, 1:], (0, 1))]
    return folder_of(folder, {"w": ("F32", (7, 6), boxes)}), {"w": WHOLE}


def _on_a_grid_with_empty_corners(folder: Path) -> Made:
    boxes = [
        (n, f"w{i}{j}", WHOLE[rows, columns], (rows.start, columns.start))
        for n, (i, rows) in enumerate({0: slice(0, 4), 1: slice(4, 7), 2: slice(7, 7)}.items())
        for j, columns in enumerate((slice(0, 2), slice(2, 6)))
    ]
    return folder_of(folder, {"w": ("F32", (7, 6), boxes)}), {"w": WHOLE}


def _whole_small_and_complex(folder: Path) -> Made:
    step, none = np.float32(3).reshape(()), np.zeros((0, 4), "<f2")
    pairs = values(6, 5, 2, dtype="<f8")
    tensors: dict[str, Any] = {
        "step": ("F32", (), [(0, "step", step, ())]),
        "none": ("F16", (0, 4), [(0, "none", none, (0, 0))]),
        "z": ("C128", (5,), [(0, "z@0", pairs[:2], (0,)), (0, "z@2", pairs[2:], (2,))]),
    }
    return folder_of(folder, tensors), {"step": step, "none": none, "z": pairs}


HONEST: dict[str, tuple[Any, ...]] = {
    "sharded_save_by_rows": (_by_rows, "dcp_memcard", "1 plain value"),
    "sharded_save_by_columns": (_by_columns, "dcp_memcard"),
    "sharded_save_on_a_grid": (_on_a_grid_with_empty_corners, "dcp_memcard"),
    "sharded_save_whole": (_whole_small_and_complex, "dcp_memcard"),
}


def _changed(change: Change) -> Callable[[Path], Path]:
    """A sound save whose index was changed by someone who knows the format."""

    def make(folder: Path) -> Path:
        whole = json.loads((_rows(folder) / "index.json").read_text())
        del whole["check"]
        change(whole)
        return seal(folder, whole)

    return make


def _bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = _rows(folder) / name
        path.write_bytes(change(path.read_bytes()))
        return folder

    return make


def _flip(at: int) -> Callable[[bytes], bytes]:
    return lambda raw: bytes(b ^ (i == at % len(raw)) for i, b in enumerate(raw))


def _file_is_missing(folder: Path) -> Path:
    (_rows(folder) / "rank-00001.safetensors").unlink()
    return folder


def _chunk(number: int, place: int, value: Any) -> Change:
    return lambda whole: whole["tensors"]["w"]["chunks"][number].__setitem__(place, value)


_RANK_1 = "rank-00001.safetensors"
_TENSOR: Callable[[dict[str, Any]], dict[str, Any]] = lambda whole: whole["tensors"]["w"]  # noqa: E731
DAMAGED: dict[str, tuple[str, str, Callable[[Path], Path]]] = {
    "sharded_save_index_flipped": ("corrupt", "check", _bytes("index.json", _flip(300))),
    "sharded_save_index_cut": ("corrupt", "JSON", _bytes("index.json", lambda raw: raw[:-9])),
    "sharded_save_index_of_others": ("unsupported", "was not written by", _bytes("index.json", lambda _: b"{}")),
    "sharded_save_index_nested": ("corrupt", "JSON", _bytes("index.json", lambda _: b"[" * 200_000)),
    "sharded_save_index_of_commas": (
        "unsupported", "limit", _bytes("index.json", lambda _: b"[" + b"[]," * 1_000_000 + b"[]]")
    ),
    "sharded_save_newer": ("unsupported", "version 2", _changed(lambda whole: whole.update(version=2))),
    "sharded_save_file_missing": ("corrupt", _RANK_1, _file_is_missing),
    "sharded_save_file_cut": ("corrupt", _RANK_1, _bytes(_RANK_1, lambda raw: raw[:-4])),
    "sharded_save_file_elsewhere": (
        "corrupt", "no name of a file", _changed(lambda whole: whole["files"][0].update(name="../x.safetensors"))
    ),
    "sharded_save_hole": ("corrupt", "do not fill", _changed(lambda w: _TENSOR(w).update(shape=[8, 6]))),
    "sharded_save_chunk_outside": ("corrupt", "not inside", _changed(_chunk(1, 2, [4, 0]))),
    "sharded_save_chunk_huge": ("corrupt", "not inside", _changed(_chunk(1, 3, [1 << 62, 6]))),
    "sharded_save_chunk_negative": ("corrupt", "sizes", _changed(_chunk(1, 2, [-1, 0]))),
    "sharded_save_chunk_of_no_file": ("corrupt", "no file", _changed(_chunk(1, 0, 9))),
    "sharded_save_chunk_of_no_name": ("corrupt", "no file", _changed(_chunk(1, 1, "v"))),
    "sharded_save_chunk_of_one_number": ("corrupt", "sizes", _changed(_chunk(1, 3, 4))),
    "sharded_save_chunks_no_list": ("corrupt", "shape", _changed(lambda w: _TENSOR(w).update(chunks=[3]))),
    "sharded_save_dtype_unknown": ("corrupt", "dtype", _changed(lambda w: _TENSOR(w).update(dtype="F99"))),
    "sharded_save_dtype_packed": ("corrupt", "dtype", _changed(lambda w: _TENSOR(w).update(dtype="Q4_0"))),
    "sharded_save_dtype_other": ("corrupt", "is not I32", _changed(lambda w: _TENSOR(w).update(dtype="I32"))),
    "sharded_save_claims_petabytes": (
        "corrupt", "do not fill", _changed(lambda w: _TENSOR(w).update(shape=[1 << 50, 6]))
    ),
}  # fmt: skip
