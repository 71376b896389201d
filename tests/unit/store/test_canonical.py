"""Small files that may change carry a check of their own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from memcard.errors import CorruptError
from memcard.store.canonical import Fields, from_bytes, read_object, sealed, to_bytes

FACTS = {"adopted": 1, "places": [{"path": "/a b/ü", "size": 3}], "sha256": "ab", "name": "x"}
HERE = Path("somewhere.json")


def test_what_was_sealed_comes_back_without_its_check() -> None:
    raw = sealed(FACTS)

    assert from_bytes(raw, HERE) == FACTS
    assert sealed(from_bytes(raw, HERE)) == raw
    assert sealed(json.loads(raw)) == raw  # its old check is not sealed in


def test_any_flipped_bit_is_told() -> None:
    raw = sealed(FACTS)
    silent = []
    for at in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[at] ^= 1 << bit
            try:
                found = from_bytes(bytes(changed), HERE)
            except CorruptError:
                continue
            silent.append({key: value for key, value in found.items() if key in FACTS})

    # in the word "check" itself: what remains is what was written
    assert all(found == FACTS for found in silent)
    assert len(silent) <= 8 * len("check")


def test_a_file_without_a_check_is_believed() -> None:
    assert from_bytes(to_bytes(FACTS), HERE) == FACTS


@pytest.mark.parametrize("check", ["", "0" * 32, "ä" * 32, None, 7, ["x"], "0" * 5000])
def test_a_check_that_does_not_fit_is_refused(check: object) -> None:
    with pytest.raises(CorruptError, match="does not fit its own check"):
        from_bytes(to_bytes({**FACTS, "check": check}), HERE)


def test_a_key_must_follow_the_check() -> None:
    with pytest.raises(ValueError, match="sorts behind"):
        sealed({"a": 1})


def test_lists_of_digests_are_nothing_else() -> None:
    good = "ab" * 32
    assert Fields({"packs": [good]}, "x").digests("packs") == (good,)
    for bad in (["../../../etc/passwd"], [good.upper()], [good[:-1]], good, [7]):
        with pytest.raises(CorruptError):
            Fields({"packs": bad}, "x").digests("packs")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="no plain file"):
        read_object(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes with names")
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")

    with pytest.raises(CorruptError, match="no plain file"):
        read_object(tmp_path / "pipe.json")
