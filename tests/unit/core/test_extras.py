from pathlib import Path

import pytest

from memcard.core import extras
from memcard.errors import UsageError
from memcard.jobs.demo import demo
from memcard.jobs.generate import run


def test_what_is_installed_is_not_complained_about() -> None:
    extras.require("generate", what="generate")


@pytest.mark.parametrize("job", [lambda out: run("a rocket"), demo], ids=["generate", "demo"])
def test_a_missing_part_is_named_with_its_command_before_anything_is_written(
    job: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extras.EXTRAS, "generate", ("json", "no_such_module"))

    with pytest.raises(
        UsageError, match=r"needs no_such_module.*pip install 'memcard\[generate\]'"
    ):
        job(tmp_path / "out")  # type: ignore[operator]

    assert list(tmp_path.iterdir()) == []
