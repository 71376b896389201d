"""A hint to the kernel: it changes no byte and never fails."""

import sys

import pytest

from memcard.core import writeback
from memcard.core.writeback import start_writeback


def test_the_bytes_stay_what_they_are(tmp_path):
    path = tmp_path / "x"
    content = bytes(range(256)) * 8192
    with path.open("wb", buffering=0) as file:
        file.write(content)
        start_writeback(file.fileno(), 0, len(content))

    assert path.read_bytes() == content


def test_a_bad_handle_is_no_error():
    start_writeback(-1, 0, 1 << 30)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such call")
def test_linux_is_asked(monkeypatch):
    calls = []
    monkeypatch.setattr(writeback, "_system_call", lambda: lambda *given: calls.append(given))

    start_writeback(5, 10, 1 << 20)
    start_writeback(5, 10, 100)

    assert calls == [(5, 10, 1 << 20, 2)]


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")

    assert writeback._system_call.__wrapped__() is None
