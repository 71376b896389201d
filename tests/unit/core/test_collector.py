"""The collector waits, and is as it was afterwards."""

import gc

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


def test_only_in_a_process_of_ours_objects_are_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gc.get_freeze_count()
    with waiting():
        pass
    assert gc.get_freeze_count() == before
    monkeypatch.setattr(collector, "OURS", [True])
    try:
        with waiting():
            pass
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
