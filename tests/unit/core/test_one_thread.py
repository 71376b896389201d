"""numpy's linear algebra can be kept to one thread, and gets its threads back."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from memcard.core import give_back as giving
from memcard.core import one_thread as limiting
from memcard.core.give_back import give_back
from memcard.core.one_thread import one_thread


def test_one_thread_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    count = [4]
    calls = (lambda: count[0]), (lambda n: count.__setitem__(0, n))
    monkeypatch.setattr(limiting, "_calls", lambda: calls)

    def fail() -> None:
        with one_thread():
            assert count == [1]
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()

    assert count == [4]


def test_the_wheel_of_numpy_is_understood() -> None:
    found = limiting._calls()
    if found is None:
        pytest.skip("this numpy has another library")
    get, limit = found
    before = get()
    limit(2)
    with one_thread():
        assert get() == 1
    assert get() == 2
    limit(before)


def test_a_library_without_these_names_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nothing.so").write_bytes(b"nothing")
    assert limiting._in(tmp_path / "nothing.so") is None
    monkeypatch.setattr(ctypes, "CDLL", lambda path: object())
    assert limiting._in(tmp_path / "other.so") is None
    monkeypatch.setattr(limiting, "_calls", lambda: None)
    with one_thread():
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_memory_that_was_freed_goes_back() -> None:
    if giving._trim() is None:
        pytest.skip("this C library has no malloc_trim")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    give_back()
    many = [bytes([i % 256]) * 65_000 for i in range(600)]
    kept, full = many[-1], resident()
    many.clear()
    give_back()

    assert resident() < full - (20 << 20)
    assert len(kept) == 65_000
