import io
import sys

import pytest

from memcard.cli import _show
from memcard.core.progress import Notice, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    with _show.progress() as listener:
        listener(Notice("about [2] minutes"))
        listener(Progress("sha256", 1_000_000, 2_000_000))
        listener(Progress("sha256", 2_000_000, 2_000_000))
        listener(Progress("pictures", 3, 20, "steps"))

    drawn = terminal.getvalue()
    assert "about [2] minutes" in drawn
    assert "sha256 MB" in drawn
    assert "100 %" in drawn
    assert "3/20" in drawn


def test_off_a_terminal_only_notices_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with _show.progress() as listener:
        listener(Progress("sha256", 1, 2))
        listener(Notice("about 2 minutes"))

    printed = capsys.readouterr()
    assert printed.err == "about 2 minutes\n"
    assert printed.out == ""


def test_facts_leave_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    _show.print_facts(
        {"is": "sd1", "because": ["a", "b"], "holds": {"unet": 3}, "note": [], "x": None}
    )

    assert capsys.readouterr().out == "is       sd1\nbecause  a\n         b\nholds    unet: 3\n"


def test_one_is_not_many() -> None:
    assert [_show.counted(n, "tensor") for n in (0, 1, 2)] == ["0 tensors", "1 tensor", "2 tensors"]
