import errno
import json
from pathlib import Path

import pytest

from memcard.cli.main import main
from memcard.errors import DiskError, UnsafeError


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UnsafeError("x.ckpt asks to run os.system."), 3, "os.system"),
        (DiskError(errno.ENOSPC, "x: disk full; free space."), 10, "free space"),
        (PermissionError(errno.EACCES, "Permission denied", "secret.bin"), 10, "secret.bin"),
        (FileNotFoundError(errno.ENOENT, "No such file", "gone.bin"), 6, "gone.bin"),
    ],
)
def test_every_foreseen_fault_is_one_line_and_its_code(
    error: Exception,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("memcard.jobs.inspect.inspect_all", fails)

    assert main(["inspect", "x"]) == code
    err = capsys.readouterr().err
    assert text in err
    assert "Traceback" not in err


def test_a_stranger_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.safetensors"
    header = {
        "__metadata__": {"modelspec.title": "a\x1b[2Jb"},
        "w\x07": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0")

    assert main(["inspect", str(path), "--tensors"]) == 0

    out = capsys.readouterr().out
    assert "a\\x1b[2Jb" in out
    assert "w\\x07" in out
    assert "\x1b[2J" not in out
    assert "\x07" not in out
