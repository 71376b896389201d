"""Every honest odd file is read, and every tensor has the digest of the array it was made from."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from attacks.honest import HONEST, raw
from attacks.worker import judge
from fixtures.digests import sha256


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    files, expected = {}, {}
    for case, odd in HONEST.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch: sparse layouts are in beta, and the like
            files[case], tensors = odd.make(tmp_path_factory.mktemp(case, numbered=False))
        expected[case] = {name: sha256(raw(value)) for name, value in tensors.items()}
    found = judge(files, tmp_path_factory.mktemp("out"))
    return {case: found[case] | {"expected": expected[case]} for case in files}


@pytest.mark.parametrize("case", HONEST)
def test_it_is_read_bit_for_bit(case: str, honest: dict[str, dict[str, Any]]) -> None:
    found, expected = honest[case]["open"], honest[case]["expected"]

    assert "error" not in found, found
    assert found["format"] == HONEST[case].format
    assert {n: found["tensors"].get(n) for n in expected} == expected
    if not HONEST[case].more:
        assert list(found["tensors"]) == list(expected) or set(found["tensors"]) == set(expected)
    assert HONEST[case].note in " ".join(found["notes"])


@pytest.mark.parametrize("case", HONEST)
def test_its_verdict_is_ok_and_salvage_reads_the_same(
    case: str, honest: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    found = honest[case]

    assert found["inspect"]["code"] == 0, found["inspect"]
    assert '"verdict": "ok"' in found["inspect"]["out"]
    assert found["salvage"].get("tensors") == found["open"]["tensors"]
    assert found["open"]["seconds"] < 5


@pytest.mark.parametrize("case", HONEST)
def test_what_is_converted_is_the_same_bit_for_bit(
    case: str, honest: dict[str, dict[str, Any]]
) -> None:
    found = honest[case]

    # complex128 has no name in safetensors, packed blocks have none in any format we write.
    assert found["convert"]["code"] in (0, 5, 7), found["convert"]
    if found["convert"]["code"] == 0:
        written = found["converted"]["tensors"]
        assert written == {name: found["open"]["tensors"][name] for name in written}
        assert len(written) == len(found["open"]["tensors"]) or HONEST[case].training
