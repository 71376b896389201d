from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.errors import CorruptError, MismatchError, NotFoundError, UsageError
from memcard.store import layout, refs
from memcard.store.layout import Layout
from memcard.store.refs import Ref, Version
from memcard.store.writer import Writer


def version(first: str, manifest: str = "0") -> Version:
    digests = {"sha256": first.ljust(64, "0"), "blake3": f"b3{first}".ljust(64, "0")}
    return Version(manifest * 64, digests, 10, "x.ckpt", "2026-01-01T00:00:00Z", "torch_zip")


@pytest.fixture
def home(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "home")
    layout.create(found)
    with Writer(found) as writer:
        refs.put(writer, Ref("SDXL base", version("31e35c80aa", "1")))
        refs.put(writer, Ref("neon", version("6ce01613bb", "2"), (version("31e35c80bb", "3"),)))
    return found


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("neon", "6ce01613bb"),
        ("NEON", "6ce01613bb"),
        ("sdxl BASE", "31e35c80aa"),
        ("6ce01613", "6ce01613bb"),
        ("6CE01613BB", "6ce01613bb"),
        ("31e35c80a", "31e35c80aa"),
        ("b36ce01613", "6ce01613bb"),
        ("22222222", "6ce01613bb"),
        ("neon@31e35c80", "31e35c80bb"),
        ("neon@6ce01613", "6ce01613bb"),
    ],
)
def test_a_users_words_find_a_version(home: Layout, text: str, first: str) -> None:
    assert refs.find(home, text)[1].sha256.startswith(first)


@pytest.mark.parametrize(
    "text", ["neo", "6ce0161", "neon2", "ffffffffff", "", "x" * 5000, "neon@ffffffff"]
)
def test_what_fits_nothing_is_not_found(home: Layout, text: str) -> None:
    with pytest.raises(NotFoundError):
        refs.find(home, text)


def test_a_near_name_is_offered(home: Layout) -> None:
    with pytest.raises(NotFoundError, match="Did you mean SDXL base"):
        refs.find(home, "sdxl_base")


def test_several_that_fit_are_listed_and_none_is_taken(home: Layout) -> None:
    with pytest.raises(MismatchError, match=r"SDXL base is 31e35c80aa.*neon is 31e35c80bb"):
        refs.find(home, "31e35c80")


def test_too_few_digits_after_the_at_are_a_usage_error(home: Layout) -> None:
    with pytest.raises(UsageError, match="8 or more hex digits"):
        refs.find(home, "neon@31e")


def test_two_names_of_the_same_bytes_are_no_ambiguity(home: Layout) -> None:
    with Writer(home) as writer:
        refs.put(writer, Ref("again", version("6ce01613bb", "2")))

    assert refs.find(home, "6ce01613")[1].manifest == "2" * 64


def test_a_name_that_moves_keeps_what_it_meant(home: Layout) -> None:
    old = refs.get(home, "neon")
    assert old is not None

    moved = old.moved_to(version("cc", "4"))

    assert [v.manifest[0] for v in moved.versions] == ["4", "2", "3"]
    assert [v.manifest[0] for v in moved.moved_to(old.version).versions] == ["2", "4", "3"]
    assert moved.moved_to(moved.version) is moved


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", "a@b", "a:b", "a\\b", "a\nb", "starter", "Starter/x", "x" * 201, "ü" * 150],
)
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name"):
        refs.check_name(name)


@given(st.text(max_size=300))
def test_any_file_name_gives_a_possible_name(origin: str) -> None:
    name = refs.default_name(origin)

    assert refs.check_name(name) == name


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_file_names_of_names_are_plain_and_as_different_as_the_names(a: str, b: str) -> None:
    one, two = refs.quoted(a), refs.quoted(b)

    assert one.isascii()
    assert not set(one) & set('/\\:*?"<>| ')
    assert not one.startswith(".")

    def folded(text: str) -> str:
        return unicodedata.normalize("NFC", text).casefold()

    assert (one == two) == (folded(a) == folded(b))


def test_a_damaged_name_is_told_and_hides_no_other(home: Layout) -> None:
    refs.path_of(home, "neon").write_bytes(b"{}")
    faults: list[CorruptError] = []

    found = [ref.name for ref in refs.every(home, faults)]

    assert found == ["SDXL base"]
    assert len(faults) == 1
    with pytest.raises(CorruptError, match=r"neon\.json"):
        refs.get(home, "neon")


def test_the_same_bytes_under_a_new_manifest_are_no_new_meaning(home: Layout) -> None:
    old = refs.get(home, "neon")
    assert old is not None

    moved = old.moved_to(version("6ce01613bb", "9"))

    assert (moved.version.manifest[0], moved.history) == ("9", old.history)
