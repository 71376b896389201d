from __future__ import annotations

import sys
from pathlib import Path

import pytest

from memcard.errors import CorruptError, DiskError, NotFoundError, UnsupportedError
from memcard.store import layout
from memcard.store.canonical import Fields, read_object, to_bytes
from memcard.store.layout import Layout, default_home


@pytest.fixture
def home(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "a" / "home")


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCARD_HOME", "~/somewhere")

    assert default_home() == Path.home() / "somewhere"


@pytest.mark.skipif(sys.platform != "linux", reason="each platform has its own place")
def test_else_the_platform_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMCARD_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_home() == Path("/data/memcard")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_home() == Path.home() / ".local/share/memcard"


def test_a_library_is_made_once(home: Layout) -> None:
    assert not layout.exists(home)
    with pytest.raises(NotFoundError, match="no library yet"):
        layout.check(home)

    first = layout.create(home)

    assert layout.create(home) == layout.check(home) == first
    assert len(first) == 32
    assert [path.name for path in home.root.iterdir()] == ["library.json"]


@pytest.mark.parametrize(
    ("card", "error"),
    [
        (b'{"format":"memcard-library","id":"x","version":3}', UnsupportedError),
        (b'{"format":"other","id":"x","version":1}', CorruptError),
        (b'{"format":"memcard-library","id":"x","version":"1"}', CorruptError),
        (b'{"format":"memcard-library","version":1}', CorruptError),
        (b"", CorruptError),
    ],
)
def test_a_folder_that_is_something_else_is_refused(
    home: Layout, card: bytes, error: type[Exception]
) -> None:
    home.root.mkdir(parents=True)
    home.card.write_bytes(card)

    for step in (layout.check, layout.create):
        with pytest.raises(error):
            step(home)

    assert home.card.read_bytes() == card


def test_a_folder_that_cannot_be_made_is_a_disk_error(
    home: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.mkdir", full)

    with pytest.raises(DiskError, match="No space left"):
        layout.create(home)


def test_equal_facts_are_equal_bytes() -> None:
    first = to_bytes({"b": ["ü", 1], "a": None})

    assert first == to_bytes({"a": None, "b": ["ü", 1]}) == b'{"a":null,"b":["\\u00fc",1]}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_bytes(float("nan"))


def test_a_file_larger_than_any_record_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memcard.store.canonical.MOST", 100)
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a":"' + b"x" * 100 + b'"}')

    with pytest.raises(CorruptError, match="more than 100 bytes"):
        read_object(path)


def test_each_field_says_what_it_should_be() -> None:
    fields = Fields({"n": -1, "t": 1, "l": {}, "f": 1, "d": "A" * 64}, "x.json")

    for ask in (
        lambda: fields.number("n"),
        lambda: fields.text("t"),
        lambda: fields.list("l"),
        lambda: fields.texts("l"),
        lambda: fields.mapping("t"),
        lambda: fields.flag("f"),
        lambda: fields.digest("d"),
        lambda: fields.integer("none"),
        lambda: fields.maybe_number("n"),
        lambda: fields.maybe_text("t"),
    ):
        with pytest.raises(CorruptError, match=r"x\.json.*it should be"):
            ask()
    assert fields.integer("n") == -1
    assert (fields.maybe_text("none"), fields.maybe_number("none")) == (None, None)
