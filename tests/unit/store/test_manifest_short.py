"""The short form of a manifest: exact for whatever tensors there are, and hard against forged frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from memcard.core.tensors import DTYPES, QUANTIZED
from memcard.errors import CorruptError, UnsupportedError
from memcard.store import _manifest_short
from memcard.store._manifest_short import Row, head_of, restored, shortened

PATH = Path("m.zst")
HEAD = {"manifest": 1, "metadata": {"modelspec.title": "Neön"}}
DIGEST = "0123456789abcdef" * 4


def rows() -> st.SearchStrategy[list[Row]]:
    return st.lists(
        st.tuples(
            st.text(max_size=8),
            st.sampled_from([*DTYPES, *QUANTIZED]),
            st.lists(st.integers(0, 1 << 40), max_size=4),
            st.integers(0, 2),
            st.none() | st.integers(0, 1 << 50),
            st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
        ),
        max_size=12,
    )


def packed(**keys: Any) -> bytes:
    columns: dict[str, Any] = {
        "name": ["w"],
        "dtype": ["F16"],
        "shape": [[2]],
        "file": [0],
        "gap": [8],
        "blake3": DIGEST,
    }
    columns |= keys.pop("columns", {})
    return frame({**HEAD, "short": 1, "columns": columns} | keys)


def frame(found: Any) -> bytes:
    raw = found if isinstance(found, bytes) else json.dumps(found).encode()
    return zstandard.ZstdCompressor().compress(raw)


@given(rows())
def test_rows_come_back_as_they_were(tensors: list[Row]) -> None:
    raw = shortened(HEAD, tensors)
    assert raw is not None

    assert restored(raw, PATH) == (HEAD, tensors)
    assert head_of(raw, PATH) == HEAD


def test_tensors_side_by_side_cost_little_more_than_their_digests() -> None:
    tensors = [
        (f"blocks.{i}.attn.to_q.weight", "F32", [64, 64], 0, 4096 + 16384 * i, f"{i:064x}")
        for i in range(1000)
    ]

    raw = shortened(HEAD, tensors)

    assert raw is not None
    assert len(raw) < 8000  # these digests are mostly zeros; the canonical JSON has 180,000 bytes


def test_what_would_be_too_large_has_no_short_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_manifest_short, "MOST", 50)

    assert shortened(HEAD, []) is None


def test_a_newer_form_is_refused_with_the_remedy() -> None:
    with pytest.raises(UnsupportedError, match="pip install --upgrade"):
        restored(packed(short=2), PATH)


def test_a_dtype_of_the_future_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="F3"):
        restored(packed(columns={"dtype": ["F3"]}), PATH)


@pytest.mark.parametrize(
    "keys",
    [
        {"short": None},
        {"short": True},
        {"short": "1"},
        {"tensors": []},
        {"columns": {"name": None}},
        {"columns": {"name": "w"}},
        {"columns": {"name": []}},
        {"columns": {"gap": [8, 8]}},
        {"columns": {"gap": [1.5]}},
        {"columns": {"gap": [True]}},
        {"columns": {"file": [None]}},
        {"columns": {"file": ["0"]}},
        {"columns": {"shape": [None]}},
        {"columns": {"shape": [[1.0]]}},
        {"columns": {"shape": [[True]]}},
        {"columns": {"shape": [[[1]]]}},
        {"columns": {"dtype": [7]}},
        {"columns": {"blake3": DIGEST[1:]}},
        {"columns": {"blake3": DIGEST * 2}},
        {"columns": {"blake3": None}},
    ],
)
def test_what_the_specification_forbids_is_corrupt(keys: dict[str, Any]) -> None:
    with pytest.raises(CorruptError, match=r"m\.zst.*Add the checkpoint again"):
        restored(packed(**keys), PATH)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        frame(b""),
        frame(b"[]"),
        frame(b"{"),
        frame(b"[" * 100_000),
        frame(b'{"short":1,"columns":{},"x":NaN}'),
        frame({**HEAD, "short": 1, "columns": []}),
        packed()[:-3],
        # a frame that says it has 2^60 bytes, and one that says more than it has
        bytes.fromhex("28b52ffde0") + (1 << 60).to_bytes(8, "little") + b"\x03\0\0\0x",
        bytes.fromhex("28b52ffde0") + (1 << 20).to_bytes(8, "little") + b"\x03\0\0\0x",
    ],
)
def test_what_is_no_frame_of_json_is_corrupt(raw: bytes) -> None:
    with pytest.raises(CorruptError, match=r"m\.zst"):
        restored(raw, PATH)


@pytest.mark.parametrize("bit", range(0, 8 * 60, 7))
def test_a_flipped_bit_of_the_frame_is_told_or_changes_nothing(bit: int) -> None:
    raw = bytearray(shortened(HEAD, [("w", "F16", [2], 0, 8, DIGEST)]) or b"")
    raw[bit // 8] ^= 1 << bit % 8

    try:
        found = restored(bytes(raw), PATH)
    except (CorruptError, UnsupportedError):
        return
    assert found == (HEAD, [("w", "F16", [2], 0, 8, DIGEST)])
