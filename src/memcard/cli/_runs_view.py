"""How runs look in a terminal: a table, and one run with its curve, its metrics and its saves."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from memcard.cli import _curve, _show

_SPARK = (8, 32)  # characters of a curve in the table
_HEIGHT = 10  # lines of the picture
_WIDEST = 110
_PIPED = 100  # columns where there is no terminal
_EVENTS = 8
_DIGEST = 64  # hex digits
_FIRM = "\N{NO-BREAK SPACE}"


def width() -> int:
    """Return the columns there are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPED


def print_list(reports: Sequence[Any]) -> None:
    """Print the table, and below it on stderr what else must be known."""
    rows = [_row(report) for report in reports]
    metrics = list(dict.fromkeys(r.metric for r in reports if r.metric))
    loss = metrics[0] if len(metrics) == 1 else "loss"
    header = ["run", "state", "steps", loss, "", "saves", "newest", "best", "disk", "when"]
    table, room = [header, *rows], width()
    _drop(table, None, empty=True)
    for column in ("disk", "newest", "best"):  # what one can do without where there is no room
        if room - _taken(table) < _SPARK[0]:
            _drop(table, column)
    space = min(_SPARK[1], max(_SPARK[0], room - _taken(table)))
    plain = not _curve.knows_blocks()
    for row, report in zip(rows, reports, strict=True):
        row[4] = _curve.spark(report.curve, space, plain=plain)
    click.echo(_show.table(rows, header=header))
    for report in reports:
        if said := report.note or (report.why if report.state == "crashed" else ""):
            where = f" ({report.folder})" if report.state == "unreachable" else ""
            _show.advise(f"{report.name}: {said}{where}")


def _taken(table: Sequence[Sequence[str]]) -> int:
    return sum(2 + max(len(row[i]) for row in table) for i in range(len(table[0])))


def _drop(table: Sequence[list[str]], column: str | None, *, empty: bool = False) -> None:
    """Leave a column out; with ``empty`` all that say nothing."""
    header = table[0]
    for i in range(len(header) - 1, 4, -1):
        if header[i] == column or (empty and not any(row[i] for row in table[1:])):
            for row in table:
                del row[i]


def _row(report: Any) -> list[str]:
    if report.state == "unreachable":
        return [report.name, report.state, *[""] * 8]
    newest, best = report.saves[-1:], report.best
    return [
        *(report.name, report.state, _steps(report)),
        *("" if report.value is None else number(report.value), ""),
        *(str(len(report.saves)), str(*newest), "" if best is None else str(best)),
        *(_show.human_size(report.nbytes), _when(report)),
    ]


def _steps(report: Any) -> str:
    if report.steps is None:
        return str(report.step)
    return f"{report.step}/{report.steps} {_percent(report.share)}"


def _percent(share: float | None) -> str:
    return f"{int(100 * (share or 0))} %"  # 99.9 % are not done


def _when(report: Any) -> str:
    if report.left is not None:
        return f"{span(report.left)} left"
    return ago(report.changed or report.begun)


def number(value: float) -> str:
    """Return a measured value with four digits that count."""
    return f"{value:.4g}"


def span(seconds: float) -> str:
    """Return a time people can read: 45 s, 12 min, 3.5 h, 12 d."""
    for size, unit, most in ((1, "s", 90), (60, "min", 90), (3600, "h", 48)):
        if seconds < most * size:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit == "h" and value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def ago(at: float) -> str:
    """Return how long a time is past; empty for none."""
    return f"{span(max(0.0, time.time() - at))} ago" if at else ""


def print_run(shown: Any) -> None:
    """Print everything about one run."""
    report = shown.report
    options = shown.settings.get("options")
    settings = {k: v for k, v in shown.settings.items() if k != "options"}
    _show.print_facts(
        {
            "run": f"{report.name}  {report.id}".rstrip(),
            "state": _state(report),
            "why": report.why,
            "note": report.note,
            "folder": str(report.folder),
            "begun": _date(report.begun) if report.begun else None,
            "command": command_line(shown.command),
            "in": shown.command.get("cwd"),
            "keeps": _keeps(shown.keep),
            "disk": _disk(report, shown.saves),
            "settings": _flat(settings | (options if isinstance(options, dict) else {})),
        }
    )
    _print_curve(report)
    if shown.metrics:
        _print_table(
            [[name, *map(number, row)] for name, row in shown.metrics.items()],
            ["metric", "first", "last", "lowest", "highest"],
        )
    if shown.sampled:
        from memcard.jobs._runs_page import SAMPLED

        _show.advise(SAMPLED)
    if shown.saves:
        print_saves(shown.saves)
    if events := [_event(event) for event in shown.events[-_EVENTS:]]:
        _print_table(events, ["when", "what"])


def _state(report: Any) -> str:
    of = "" if report.steps is None else f" of {report.steps}, {_percent(report.share)}"
    ways = {
        "running": f"running, step {report.step}{of}",
        "done": f"done, {report.step} steps",
        "begun": "begun, nothing is logged yet",
    }
    text = ways.get(report.state, f"{report.state} after step {report.step}{of}")
    if report.pid:
        text += f", process {report.pid}"
    if report.left is not None:
        return f"{text}, {span(report.left)} left"
    return f"{text}, {ago(report.changed)}" if report.changed else text


def command_line(command: Mapping[str, Any]) -> str | None:
    """Return the command as a shell would take it; None if it is not known."""
    words = command.get("launcher") or command.get("argv")
    return shlex.join(map(str, words)) if words else None


def _keeps(keep: Mapping[str, Any]) -> str | None:
    if not keep:
        return None
    parts = ["the newest" if keep.get("last") == 1 else f"the {keep.get('last')} newest"]
    if keep.get("best"):
        better = "lowest" if keep.get("mode") == "min" else "highest"
        many = "one" if keep["best"] == 1 else keep["best"]
        parts.append(f"the {many} of {better} {keep.get('by')}")
    if keep.get("every"):
        parts.append(f"one every {keep['every']} steps")
    if keep.get("hours"):
        parts.append(f"one every {keep['hours']:g} hours")
    return ", ".join(parts)


def _disk(report: Any, saves: Sequence[Any]) -> str:
    inside = sum(save.nbytes for save in saves)
    total = _show.human_size(report.nbytes)
    return (
        f"{total}, {_show.human_size(inside)} of it in {_show.counted(len(saves), 'save')}"
        if saves
        else total
    )


def _date(at: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(at))}, {ago(at)}"


def _flat(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as lines: short ones side by side, those of several parts each on its own."""
    said = {k: v for k, v in settings.items() if v is not False and v not in (None, "", [], {})}
    short = [f"{k}{_FIRM}{v}" for k, v in said.items() if not isinstance(v, Mapping | list)]
    long = {k: v for k, v in said.items() if isinstance(v, Mapping | list)}
    lines = textwrap.wrap(", ".join(short), min(_WIDEST, width() - 12), break_on_hyphens=False)
    found = [line.replace(_FIRM, " ") for line in lines]
    for key, value in long.items():
        text = f"{key}: {_plain(value)}"
        found.append(text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…")
    return found


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(value: Any) -> str:
    """Return a value; of a digest the first digits, by which it can be found."""
    text = str(value)
    return text[:12] if len(text) == _DIGEST and text.isalnum() else text


def _print_curve(report: Any) -> None:
    plain = not _curve.knows_blocks()
    lines = _curve.chart(report.curve, min(_WIDEST, width() - 2), _HEIGHT, plain=plain)
    if lines and len(report.curve) > 1:
        click.echo(f"\n{_show.clean(report.metric)}, {number(report.value)} now")
        click.echo("\n".join(lines))


def print_saves(saves: Sequence[Any], *, checked: bool = False) -> None:
    """Print the saves of a run; ``checked``: say of each whether it is sound."""
    names = list(dict.fromkeys(name for save in saves for name, _ in save.metrics))
    rows = []
    for save in saves:
        metrics = dict(save.metrics)
        found = [number(metrics[name]) if name in metrics else "" for name in names]
        how = save.fault or ("every byte is right" if save.checked else "")
        marks = ", ".join(filter(None, ["best" if save.best else "", how]))
        size = _show.human_size(save.nbytes)
        rows.append([str(save.step), size, ago(save.time), *found, marks])
    _print_table(rows, ["save", "size", "taken", *names, ""], lead=not checked)


def _event(event: Mapping[str, Any]) -> list[str]:
    kind, step = event["event"], event.get("step")
    after = f" after step {step}" if step is not None else ""
    said = {
        "resumed": f"resumed{after}" if step else "begun anew",
        "failed": f"a save failed: {event.get('error')}",
        "waited": f"waited {event.get('seconds')} s for the save before{after}",
        "promoted": f"step {step} became {event.get('name')}",
        "ended": f"ended{after}",
    }[kind]
    if skipped := event.get("skipped"):
        said += f"; not used: {', '.join(map(str, skipped))}"
    if why := event.get("signal") or event.get("error" if kind == "ended" else ""):
        said += f": {why}"
    return [_moment(float(event["time"])), said]


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _print_table(
    rows: Sequence[Sequence[str]], header: Sequence[str], *, lead: bool = True
) -> None:
    click.echo(("\n" if lead else "") + _show.table(rows, header=header))
