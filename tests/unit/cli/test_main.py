import errno

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

    monkeypatch.setattr("memcard.jobs.inspect.inspect", fails)

    assert main(["inspect", "x"]) == code
    err = capsys.readouterr().err
    assert text in err
    assert "Traceback" not in err
