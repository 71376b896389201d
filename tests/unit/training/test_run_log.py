"""What a run folder says of its run survives kills, resumes and damage."""

import json
import math

import pytest

from memcard.errors import CorruptError
from memcard.training.run_log import LOG, RUN, Run, RunLog, lines, read_log, read_run


def test_a_run_comes_back(tmp_path):
    run = Run.new("neon", settings={"lr": 1e-4}, keep={"last": 3})
    run.write(tmp_path)

    assert read_run(tmp_path) == run
    assert len(run.id) == 16
    assert Run.new("neon").id != run.id


def test_no_run_is_none_and_a_damaged_one_says_what_to_do(tmp_path):
    assert read_run(tmp_path) is None
    (tmp_path / RUN).write_bytes(b'{"id": 3')
    with pytest.raises(CorruptError, match="saves are not affected"):
        read_run(tmp_path)


def test_metrics_come_back_in_order_with_nan_and_infinities(tmp_path):
    log = RunLog(tmp_path)
    log.metrics(1, {"loss": 0.1, "norm": math.inf})
    log.event("saved", step=1, size=10)
    log.metrics(2, {"loss": math.nan})
    log.close()

    one, two = read_log(tmp_path)

    assert (one.step, one.metrics) == (1, {"loss": 0.1, "norm": math.inf})
    assert math.isnan(two.metrics["loss"])
    assert one.time > 1e9
    assert "NaN" not in (tmp_path / LOG).read_text()


def test_a_resume_takes_back_what_came_after_the_save(tmp_path):
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.metrics(step, {"loss": step})
    log.event("resumed", step=1, skipped=[])
    log.metrics(2, {"loss": 20})
    log.close()

    assert [(p.step, p.metrics["loss"]) for p in read_log(tmp_path)] == [(1, 1), (2, 20)]


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    log = RunLog(tmp_path)
    log.metrics(1, {"loss": 1})
    log.close()
    with (tmp_path / LOG).open("ab") as file:
        file.write(b'{"step": 2, "metr')
    log = RunLog(tmp_path)
    log.metrics(3, {"loss": 3})
    log.close()

    assert [p.step for p in read_log(tmp_path)] == [1, 3]


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe", b"[1]", b"{}", b'{"step": "a", "metrics": {}, "time": 1}', b'{"event": 3}',
     b'{"step": 1, "metrics": {"x": "no number"}, "time": 1}', b'{"event": "resumed"}', b"[" * 9999],
)  # fmt: skip
def test_foreign_lines_are_skipped(tmp_path, line):
    good = json.dumps({"step": 5, "metrics": {"a": 1}, "time": 2.0}).encode()
    (tmp_path / LOG).write_bytes(line + b"\n" + good + b"\n")

    assert [p.step for p in read_log(tmp_path)] == [5]
    assert len(list(lines(tmp_path))) == 1


def test_no_log_is_an_empty_one(tmp_path):
    assert read_log(tmp_path) == []


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    log = RunLog(tmp_path / "nowhere")
    log.metrics(1, {"loss": 1})
    log.close()
