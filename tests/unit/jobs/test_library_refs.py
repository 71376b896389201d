"""Names of the library wherever a checkpoint is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import memcard
from fixtures import small
from memcard.errors import IntegrityError, MismatchError, NotFoundError, UnsupportedError
from memcard.jobs.library import Library
from memcard.jobs.resolve import locate
from memcard.store.canonical import sealed


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for seed, name in ((1, "one"), (2, "two")):
        path = small.save(tmp_path / f"{name}.safetensors", small.weights(seed))
        os.utime(path, ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000))
    library = Library()
    library.add(["one.safetensors"])
    library.add(["two.safetensors"], how="move")
    return library


def test_a_name_and_a_digest_open_a_checkpoint(library: Library) -> None:
    sha256 = library.show("two").version.sha256

    for ref in ("two", "TWO", sha256[:10], f"two@{sha256[:8]}"):
        with memcard.open(ref) as checkpoint:
            assert small.array_of(checkpoint, "a.weight")[0] == small.weights(2)["a.weight"][0]


def test_names_can_be_merged_converted_and_inspected(library: Library, tmp_path: Path) -> None:
    memcard.merge("weighted_average", ["one", "two"], out=tmp_path / "mix.safetensors")
    memcard.convert("two", tmp_path / "two.ckpt")

    assert memcard.inspect("one").verdict == "ok"
    assert memcard.diff("two", tmp_path / "two.ckpt").equal


def test_a_path_comes_before_a_name(library: Library, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes((tmp_path / "one.safetensors").read_bytes())

    assert locate("one") == Path("one")


def test_what_the_library_does_not_know_is_not_found(library: Library) -> None:
    for ref in ("three", "deadbeef", "three@deadbeef", "one@deadbeef"):
        with pytest.raises(NotFoundError, match=r"memcard ls|no such file"):
            locate(ref)


def test_a_changed_file_is_not_taken_under_its_name(library: Library, tmp_path: Path) -> None:
    small.save(tmp_path / "one.safetensors", small.weights(7))

    with pytest.raises(IntegrityError, match="was changed since it was added"):
        locate("one")


def test_a_damaged_or_newer_library_hides_no_path(library: Library, tmp_path: Path) -> None:
    (tmp_path / "home" / "library.json").write_text(
        '{"format":"memcard-library","id":"x","version":3}'
    )

    assert locate("one.safetensors").exists()
    assert locate("starter").exists()
    with pytest.raises(UnsupportedError, match="upgrade"):
        locate("one")


def test_an_ambiguous_digest_is_an_error_with_the_candidates(library: Library) -> None:
    names = library.path / "refs"
    sha256 = library.show("one").version.sha256
    text = (names / "one.json").read_text()
    twin = text.replace('"name":"one"', '"name":"twin"').replace(sha256, sha256[:32] + "0" * 32)
    (names / "twin.json").write_bytes(sealed(json.loads(twin)))

    with pytest.raises(MismatchError, match=r"one is .*twin is "):
        locate(sha256[:8])


def test_without_a_library_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "none"))

    with pytest.raises(NotFoundError):
        locate("name")

    assert not (tmp_path / "none").exists()
