"""What every dialect of metadata promises; a new one is tested by existing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures import sidecars
from fixtures.sidecars import write
from memcard.cards import CARDS, Dialect, Subject, Writer, read_card, trusted
from memcard.core.card import Card

every_dialect = pytest.mark.parametrize("name", list(CARDS))
WRITERS = [name for name in CARDS if isinstance(CARDS[name], Writer)]
METADATA = {**sidecars.MODELSPEC, **sidecars.KOHYA, "memcard.card": '{"title": "t", "x": 1}'}
SUFFIXES = (
    ".json",
    ".civitai.info",
    ".cm-info.json",
    ".metadata.json",
    ".swarm.json",
    ".memcard.json",
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)


def keys_of(value: object) -> set[str]:
    if isinstance(value, dict):
        return {k for k in value if isinstance(k, str)}.union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


# Every name that some tool writes, so that wrong values meet right names.
KEYS = sorted(
    keys_of([sidecars.ALL, {"title": 0, "settings": {"cfg": 0}, "hashes": 0, "extra": 0}])
)
HOSTILE = st.dictionaries(
    st.sampled_from(KEYS),
    JSON | st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5),
    max_size=9,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for suffix, content in sidecars.ALL.items():
        write(tmp_path / f"x{suffix}", content)
    write(tmp_path / "x.memcard.json", {"title": "mine"})
    write(tmp_path / "README.md", sidecars.README)
    write(tmp_path / "x.preview.png", sidecars.png("a\nSteps: 9, Sampler: Euler a, CFG scale: 4"))
    return tmp_path


@every_dialect
def test_it_has_a_title_a_source_and_a_trust_of_its_own(name: str) -> None:
    dialect = CARDS[name]

    assert isinstance(dialect, Dialect)
    assert dialect.title
    assert dialect.source
    assert [other for other in CARDS if CARDS[other].trust == dialect.trust] == [name]


@every_dialect
def test_it_says_nothing_of_a_bare_file(name: str, tmp_path: Path) -> None:
    assert CARDS[name].read(Subject(tmp_path / "x.safetensors")) is None


@every_dialect
def test_it_is_the_origin_of_all_it_says(name: str, folder: Path) -> None:
    card = CARDS[name].read(Subject(folder / "x.safetensors", METADATA))

    assert card is not None
    stated = [field for field, _ in card.stated()]
    assert stated
    assert sorted(card.origin) == sorted(stated)
    assert {origin.removesuffix(" (guess)") for origin in card.origin.values()} == {name}
    assert set(card.extra) <= {name, "memcard"}


@every_dialect
def test_what_it_says_can_be_stored(name: str, folder: Path) -> None:
    card = CARDS[name].read(Subject(folder / "x.safetensors", METADATA))

    assert card is not None
    assert Card.from_json(card.to_json()) == card


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=HOSTILE)
def test_no_sidecar_breaks_the_card(tmp_path: Path, suffix: str, content: dict[str, Any]) -> None:
    write(tmp_path / f"x{suffix}", json.dumps(content))

    card = read_card(Subject(tmp_path / "x.safetensors"))

    assert Card.from_json(card.to_json()) == card


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{}",
        b"[" * 200_000,
        b"[1]",
        b'{"a":' + b"1" * 5000 + b"}",
        b"{" + b" " * (5 << 20),
    ],
    ids=["empty", "utf-16", "deep", "list", "long number", "large"],
)
def test_a_broken_sidecar_is_a_note_and_hides_nothing_else(
    folder: Path, suffix: str, content: bytes
) -> None:
    write(folder / f"x{suffix}", content)

    card = read_card(Subject(folder / "x.safetensors", METADATA))

    assert [note for note in card.notes if f"x{suffix}" in note and note.endswith("not used.")]
    assert card.title
    assert card.author


@given(text=st.text(max_size=40), key=st.sampled_from([*METADATA, "modelspec.x", "ss_x"]))
def test_no_metadata_breaks_the_card(text: str, key: str) -> None:
    card = read_card(Subject(Path("nowhere/x.safetensors"), {**METADATA, key: text}))

    assert Card.from_json(card.to_json()) == card


@pytest.mark.parametrize("name", WRITERS)
def test_what_it_writes_it_reads_again(name: str, folder: Path) -> None:
    writer = CARDS[name]
    assert isinstance(writer, Writer)
    before = CARDS[name].read(Subject(folder / "x.safetensors"))
    assert before is not None

    new = folder / f"new{writer.suffix}"
    write(new, writer.write(before, {}))
    after = CARDS[name].read(Subject(folder / "new.safetensors"))

    assert after is not None
    gone = {field for field, _ in before.stated()} - {field for field, _ in after.stated()}
    assert gone <= {"previews"}  # a picture inside the old sidecar is not in the new one
    assert dict(after.stated()) == {f: v for f, v in before.stated() if f not in gone}


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "memcard_sidecar"])
def test_what_it_does_not_know_stays_when_it_writes(name: str) -> None:
    writer = CARDS[name]
    assert isinstance(writer, Writer)

    written = writer.write(Card(description="new"), {"foreign": [1], "description": "old"})

    assert written["foreign"] == [1]
    assert "new" in written.values()


def test_the_users_own_words_come_first_and_the_folders_last() -> None:
    order = trusted()

    assert order[0] == "memcard_sidecar"
    assert order[-1] == "preview_picture"
    assert order.index("a1111_sidecar") < order.index("civitai_info") < order.index("modelspec")
