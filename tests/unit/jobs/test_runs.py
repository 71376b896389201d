"""Which runs there are and how they stand; what is shown of one, and what is wrong with its saves."""

import json
import os
import subprocess
import sys
import time

import pytest

import memcard
from fixtures.runs import ID, log, losses, run_folder
from fixtures.training import Toy, write_save
from memcard.errors import MismatchError, NotFoundError, UsageError
from memcard.jobs import _runs_log, runs
from memcard.training.keep import Keep
from memcard.training.saves import name_of

ENDED = {"event": "ended"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def only(folder, **options):
    (report,) = runs.runs([folder], **options)
    return report


def test_a_training_is_listed_wherever_it_lies(tmp_path, home):
    toy = Toy()
    with memcard.Checkpointer(
        tmp_path / "far" / "neon", model=toy.model, optimizer=toy.optimizer, every=1, signals=False
    ) as ck:
        for step, _ in ck.loop([0] * 9, steps=4):
            ck.step(step, {"loss": toy.step()})
        (report,) = runs.runs()

        assert (report.name, report.state, report.step, report.steps) == ("neon", "running", 4, 4)
        assert report.pid == os.getpid()

    (report,) = runs.runs()
    assert (report.state, report.pid, report.share) == ("done", None, 1.0)
    assert report.saves == (2, 3, 4)
    assert report.folder == tmp_path / "far" / "neon"
    assert report.nbytes > 3 * (report.folder / name_of(4)).stat().st_size


def test_looking_at_a_running_training_does_not_let_its_folder_go(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path / "neon"):
        assert only(tmp_path / "neon").state == "running"
        code = "import sys; from memcard.jobs.runs import runs; print(runs(sys.argv[1:])[0].pid)"
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "neon"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.strip() == str(os.getpid())


def test_runs_in_the_folder_of_the_library_need_no_record(home):
    log(run_folder(home / "runs" / "a"), losses(1))
    run_folder(home / "runs" / "deep" / "b", id="00000000000000bb")

    assert {(r.name, r.state) for r in runs.runs()} == {("a", "crashed"), ("b", "begun")}


def test_a_folder_that_is_gone_is_said_so(tmp_path):
    Toy().checkpointer(tmp_path / "x").close()  # a library is not told of this one
    toy = Toy()
    memcard.Checkpointer(tmp_path / "neon", model=toy.model, signals=False).close()
    (tmp_path / "neon").rename(tmp_path / "away")

    (report,) = runs.runs()

    assert (report.name, report.state) == ("neon", "unreachable")
    assert "not there" in report.note
    with pytest.raises(NotFoundError, match=r"Connect its disk; or forget .*runs forget"):
        runs.show("neon")
    assert runs.forget("neon") == tmp_path / "neon"
    assert runs.runs() == []
    with pytest.raises(NotFoundError, match="no run is called so"):
        runs.forget("neon")


@pytest.mark.parametrize(
    ("steps", "lines", "state", "why"),
    [
        (None, [], "begun", ""),
        (10, losses(10), "done", ""),
        (10, [*losses(10), ENDED | {"step": 10}], "done", ""),
        (10, [*losses(4), ENDED | {"step": 4}], "stopped", ""),
        (10, [*losses(4), ENDED | {"step": 4, "signal": "SIGTERM"}], "stopped", "SIGTERM"),
        (
            10,
            [*losses(4), ENDED | {"step": 4, "error": "ValueError: x"}],
            "crashed",
            "ValueError: x",
        ),
        (10, [*losses(10), ENDED | {"step": 10, "error": "OSError: y"}], "crashed", "OSError: y"),
        (None, [*losses(4), ENDED | {"step": 4}], "done", ""),
        (None, losses(4), "crashed", ""),
    ],
)
def test_the_log_tells_how_it_ended(tmp_path, steps, lines, state, why):
    folder = log(run_folder(tmp_path / "a", steps=steps), lines)
    report = only(folder)
    assert (report.state, report.why) == (state, why)


def test_the_end_of_an_earlier_process_is_not_that_of_the_last_one(tmp_path):
    now = time.time()
    folder = run_folder(tmp_path / "a", steps=10, at=now - 10)
    log(folder, [*losses(4), ENDED | {"step": 4}], at=now - 90)
    log(folder, [{"event": "resumed", "step": 3}, *losses(3, 4)], at=now - 9)

    report = only(folder)

    assert (report.state, report.step) == ("crashed", 6)
    assert [step for step, _ in report.curve] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("settings", [{"max_steps": 8}, {"options": {"steps": 8}}, {"steps": 8}])
def test_settings_tell_how_many_steps_there_are_where_the_loop_does_not(tmp_path, settings):
    folder = log(run_folder(tmp_path / "a", settings=settings), losses(2))
    assert only(folder).share == 0.25


def test_the_time_left_is_told_by_the_latest_steps_of_this_process(tmp_path):
    now = time.time()
    toy = Toy()
    with toy.checkpointer(tmp_path / "a") as ck:
        ck.aim(100)
        slow = [{"step": s, "metrics": {"loss": 1.0}, "time": now - 9000 + s} for s in (1, 2)]
        fast = [{"step": s, "metrics": {"loss": 1.0}, "time": now + s / 2} for s in range(3, 11)]
        log(tmp_path / "a", slow + fast)

        assert only(tmp_path / "a").left == pytest.approx(45, rel=1e-3)


def test_the_metric_is_the_loss_unless_another_is_asked_for(tmp_path):
    line = {"step": 1, "metrics": {"lr": 0.1, "my_loss": 2.0, "loss": 1.0}}
    folder = log(run_folder(tmp_path / "a"), [line, {"step": 2, "metrics": {"lr": 0.2}}])

    assert (only(folder).metric, only(folder).value) == ("loss", 1.0)
    assert (only(folder, metric="acc").metric, only(folder, metric="acc").curve) == (None, [])
    assert only(folder, metric="lr").curve == [(1, 0.1), (2, 0.2)]
    with pytest.raises(
        UsageError, match=r"no metric 'acc' was logged. There are: lr, my_loss, loss"
    ):
        runs.show(str(folder), metric="acc")


def test_a_run_is_found_by_name_folder_or_digits(tmp_path, home):
    a = run_folder(home / "runs" / "a", id="1234567890abcdef")
    b = run_folder(tmp_path / "deep" / "a", id="fedcba0987654321")

    assert runs.show("a").report.folder == a
    assert runs.show("123456").report.folder == a
    assert runs.show(str(b)).report.id == "fedcba0987654321"
    with pytest.raises(NotFoundError, match="Did you mean a"):
        runs.show("a1")
    run_folder(home / "runs" / "x" / "a", id="aaaaaa0000000000")
    with pytest.raises(MismatchError, match=r"2 runs are called so: .*Name the id or the folder"):
        runs.show("a")


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match="no run lies in it"):
        runs.runs([tmp_path])
    with pytest.raises(NotFoundError, match="there is no such folder"):
        runs.runs([tmp_path / "nowhere"])


def test_a_lost_run_json_is_made_up_for_by_the_saves(tmp_path):
    (tmp_path / "a").mkdir()
    write_save(tmp_path / "a", 3, name="was-called", run=ID)
    report = only(tmp_path / "a")
    assert (report.name, report.id, report.step, report.saves) == ("was-called", ID, 3, (3,))

    (tmp_path / "a" / "run.json").write_text("{")
    assert only(tmp_path / "a").name == "was-called"
    (tmp_path / "a" / name_of(3)).unlink()
    assert "damaged" in only(tmp_path / "a").note


def test_the_best_save_is_told_by_the_rules_of_the_run(tmp_path):
    keep = Keep(best=1, by="acc", mode="max").to_dict()
    folder = run_folder(tmp_path / "a", keep=keep)
    for step, acc in ((1, 0.5), (2, 0.9), (3, float("nan")), (4, 0.7)):
        write_save(folder, step, metrics={"acc": acc})

    assert only(folder).best == 2
    assert [save.step for save in runs.show(str(folder)).saves if save.best] == [2]


def test_show_has_all_metrics_saves_and_events(tmp_path):
    folder = run_folder(tmp_path / "a", settings={"lr": 0.1})
    write_save(folder, 2, metrics={"loss": 0.5})
    log(
        folder,
        [*losses(4), {"step": 5, "metrics": {"loss": "nan"}}, {"event": "waited", "step": 5}],
    )

    shown = runs.show(str(folder))
    facts = json.loads(json.dumps(shown.to_dict()))

    assert shown.metrics["loss"][0:1] + shown.metrics["loss"][2:] == (1.0, 0.25, 1.0)
    assert facts["metrics"]["loss"]["last"] == "nan"
    assert facts["saves"][0]["metrics"] == {"loss": 0.5}
    assert facts["settings"] == {"lr": 0.1}
    assert [event["event"] for event in facts["events"]] == ["waited"]
    assert facts["curve"][-1] == [5, "nan"]


def test_a_loss_that_is_no_number_any_more_is_said(tmp_path):
    wild = [
        {"step": s, "metrics": {"loss": v}}
        for s, v in ((3, "nan"), (4, 0.5), (5, "nan"), (6, "nan"))
    ]
    folder = log(run_folder(tmp_path / "a"), [*losses(2), *wild])
    assert only(folder).note == "loss is nan since step 5"


def test_verify_names_the_save_with_a_flipped_bit(tmp_path):
    folder = run_folder(tmp_path / "a")
    for step in (1, 2):
        write_save(folder, step)
    path = folder / name_of(2)
    raw = bytearray(path.read_bytes())
    raw[4100] ^= 1
    path.write_bytes(raw)
    heard = []

    found = runs.verify(str(folder), progress=heard.append)

    assert [(save.step, save.checked) for save in found] == [(1, True), (2, False)]
    assert "do not match their digest" in found[1].fault
    assert heard[-1].done == heard[-1].total


def test_of_a_long_log_the_end_and_samples_are_read(tmp_path, monkeypatch):
    folder = run_folder(tmp_path / "a")
    log(folder, [*losses(3000), {"event": "resumed", "step": 1500}, *losses(4000, 1501)])
    whole = _runs_log.read(folder, whole=True)
    monkeypatch.setattr(_runs_log, "_WHOLE", 10_000)
    monkeypatch.setattr(_runs_log, "_TAIL", 10_000)
    monkeypatch.setattr(_runs_log, "_PIECE", 500)

    sampled = _runs_log.read(folder)

    steps = [point.step for point in sampled.points]
    assert [p.step for p in whole.points] == list(range(1, 5501))
    assert steps == sorted(set(steps))
    assert steps[-100:] == list(range(5401, 5501))
    assert steps[0] == 1
    assert 100 < len(steps) < 1000
    assert sampled.recent[0].step > 5300
    assert sampled.changed == whole.changed


def test_to_show_a_run_no_event_and_no_rare_metric_of_a_long_log_is_left_out(tmp_path, monkeypatch):
    folder = run_folder(tmp_path / "a")
    lines = losses(6000)
    lines[2345] = {"step": 2346, "metrics": {"loss": 9.0, "val_loss": 0.5}}
    lines[3333] = {"event": "promoted", "step": 3333, "name": "x"}
    log(folder, lines)
    monkeypatch.setattr(_runs_log, "_WHOLE", 10_000)
    monkeypatch.setattr(_runs_log, "_TAIL", 5_000)
    monkeypatch.setattr(_runs_log, "_HEADS", 8)

    seen = _runs_log.read(folder, whole=True)
    shown = runs.show(str(folder), metric="val_loss")

    steps = [point.step for point in seen.points]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (1, 6000)
    assert 50 < len(steps) < 1000  # not every line was parsed
    assert shown.metrics["val_loss"] == (0.5, 0.5, 0.5, 0.5)
    assert shown.report.curve == [(2346, 0.5)]
    assert [event["event"] for event in shown.events] == ["promoted"]
    assert shown.to_dict()["sampled"] is True
    assert only(folder, metric="val_loss").value == 0.5


def test_of_a_long_log_what_a_resume_took_back_is_left_out(tmp_path, monkeypatch):
    folder = run_folder(tmp_path / "a")
    wild = [{"step": s, "metrics": {"loss": 7.0}} for s in range(1501, 3001)]
    log(folder, [*losses(1500), *wild, {"event": "resumed", "step": 1500}, *losses(4000, 1501)])
    monkeypatch.setattr(_runs_log, "_WHOLE", 10_000)
    monkeypatch.setattr(_runs_log, "_TAIL", 5_000)

    shown = runs.show(str(folder))

    assert shown.metrics["loss"][3] == 1.0
    assert [event["event"] for event in shown.events] == ["resumed"]


def test_a_log_of_which_every_other_line_has_more_metrics_is_still_sampled(tmp_path, monkeypatch):
    folder = run_folder(tmp_path / "a")
    monkeypatch.setattr(_runs_log, "_WHOLE", 10_000)
    monkeypatch.setattr(_runs_log, "_TAIL", 1_000)
    monkeypatch.setattr(_runs_log, "_HEAD", 1)  # the first line tells what is usual
    pairs = [{"loss": 1.0}, {"loss": 1.0, "lr": 0.1}]
    log(folder, [{"step": s, "metrics": pairs[s % 2]} for s in range(1, 4001)])

    seen = _runs_log.read(folder, whole=True)

    assert set(seen.metrics()) == {"loss", "lr"}
    assert len(seen.points) < 400


@pytest.mark.slow
def test_a_run_of_a_million_lines_is_shown_in_less_than_a_second(tmp_path):
    folder = run_folder(tmp_path / "a")
    line = '{"step":%d,"metrics":{"loss":0.125,"lr":0.0001},"time":%d.5}\n'
    (folder / "log.jsonl").write_text("".join(line % (s, s) for s in range(1, 1_000_001)))

    began = time.process_time()
    shown = runs.show(str(folder))

    assert time.process_time() - began < 1.0  # 0.2 s on a quiet machine; all lines take 7 s
    assert shown.report.step == 1_000_000


def test_a_damaged_log_is_read_as_far_as_it_goes(tmp_path):
    folder = log(run_folder(tmp_path / "a"), losses(2))
    with (folder / "log.jsonl").open("ab") as file:
        file.write(
            b'{"step": 3, "metrics": {"loss": "high"}, "time": 1}\n[1]\n{"event": 5}\n\xff\xfe\n{"step":'
        )
    assert [p.step for p in _runs_log.read(folder).points] == [1, 2]
    assert _runs_log.read(tmp_path).points == ()
