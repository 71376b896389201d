"""The collector waits, and is as it was afterwards."""

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from memcard.core import collector
from memcard.core.collector import waiting


def test_nothing_is_collected_meanwhile() -> None:
    assert gc.isenabled()
    with waiting():
        assert not gc.isenabled()
        with waiting():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_one_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with waiting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), waiting():
        raise ZeroDivisionError
    assert gc.isenabled()


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Return what imports as many modules as torch has."""

    def act() -> None:
        for i in range(collector._MANY):
            monkeypatch.setitem(sys.modules, f"a_module_{i}", ModuleType(f"a_module_{i}"))

    yield act
    gc.unfreeze()


def test_only_in_a_process_of_ours_what_is_imported_is_set_aside(
    imported: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = gc.get_freeze_count()
    with waiting():
        imported()
    assert gc.get_freeze_count() == before
    monkeypatch.undo()
    monkeypatch.setattr(collector, "OURS", [True])
    with waiting():
        imported()
    assert gc.get_freeze_count() > before


def test_a_later_load_keeps_no_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "OURS", [True])

    class Thing:
        """Refers to itself, as networks do."""

    with waiting():
        thing = Thing()
        thing.own = thing  # type: ignore[attr-defined]
        gone = weakref.ref(thing)
        del thing

    gc.collect()
    assert gone() is None
