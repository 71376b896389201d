"""How facts and progress reach a person: JSON or text on stdout, bars on a terminal's stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import click

from memcard.core.progress import Event, Listener, Notice, Progress

F = TypeVar("F", bound=Callable[..., Any])


def examples(*lines: str) -> str:
    """Return the epilog of a command: its examples, one a line, unwrapped."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def json_option(function: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")(
        function
    )


def force_option(function: F) -> F:
    """Add ``--force``, also as ``--overwrite``: a file that is there is replaced only when asked."""
    return click.option(
        "--force", "--overwrite", "overwrite", is_flag=True, help="Replace the file if it exists."
    )(function)


def print_json(facts: object) -> None:
    """Print ``facts`` as indented JSON; what a terminal could take for a command is escaped."""
    lines = json.dumps(facts, indent=2, ensure_ascii=False).split("\n")
    click.echo("\n".join(line if line.isprintable() else _escaped(line) for line in lines))


def _escaped(line: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def advise(text: str) -> None:
    """Say something on stderr."""
    click.echo(clean(text), err=True)


def human_size(n: float) -> str:
    """Return a size as people read it: 1.99 GB is 1,990,000,000 bytes (decimal, as shops do)."""
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.2f} GB"


def counted(n: int, word: str) -> str:
    """Return ``1 tensor``, ``2 tensors``."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> str:
    """Return aligned columns, two spaces apart."""
    lines = [list(header), *[list(r) for r in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    form = "  ".join(f"{{:<{width}}}" for width in widths)  # one call a line: lists have 20,000
    return clean("\n".join([form.format(*line).rstrip() for line in lines]))


def clean(text: str) -> str:
    """Return text of a stranger's file as it may go to a terminal: control characters spelled out."""
    if text.replace("\n", "").isprintable():  # nearly always, and 30 times as fast
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print a flat mapping as aligned lines; what is empty is left out."""
    shown = {k.replace("_", " "): v for k, v in facts.items() if v not in (None, "", [], {})}
    width = max((len(k) for k in shown), default=0)
    for key, value in shown.items():
        for i, line in enumerate(_lines(value)):
            click.echo(clean(f"{key if i == 0 else '':{width}}  {line}"))


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{k}: {v}" for k, v in value.items()]
    if isinstance(value, list):
        return [str(v) for v in value]
    return str(value).splitlines()


def facts_of(result: Any) -> dict[str, Any]:
    """Return a job's dataclass as JSON values; the recipe's text becomes JSON itself."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(result), default=str))
    if isinstance(found.get("recipe"), str):
        found["recipe"] = json.loads(found["recipe"])
    return found


def print_made(result: Any, *, as_json: bool) -> None:
    """Print what a recipe became, or would become in a dry run."""
    if as_json:
        print_json(facts_of(result))
        return
    computed = f"{result.computed} computed, {result.tensors - result.computed} copied as they are"
    print_facts(
        {
            "out": str(result.out),
            "tensors": f"{result.tensors}: {computed}",
            "size": human_size(result.nbytes),
            "memory": f"about {human_size(result.memory)}" if not result.written else None,
            "time": _about(result) if not result.written else None,
            "NaN or infinite": result.nonfinite or None,
            "recipe id": result.recipe_id,
            "notes": list(result.notes),
        }
    )
    if not result.written:
        advise("dry run: nothing was written.")


def _about(result: Any) -> str | None:
    if result.seconds is None:
        return None
    return f"about {max(1, round(result.seconds))} s to compute, once the files are in memory"


@contextmanager
def progress() -> Iterator[Listener]:
    """Draw bars while a job runs; off a terminal only notices are printed."""
    if not sys.stderr.isatty():
        yield _notices_only
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[str, Any] = {}

    def draw(event: Event) -> None:
        if isinstance(event, Notice):
            bars.console.print(event.text, highlight=False, markup=False)
            return
        scale = 1e6 if event.unit == "bytes" else 1
        unit = {"bytes": " MB", "steps": "", "files": " files"}[event.unit]
        if event.phase not in tasks:
            tasks[event.phase] = bars.add_task(event.phase + unit, total=event.total)
        bars.update(
            tasks[event.phase],
            completed=round(event.done / scale),
            total=round(event.total / scale),
        )

    with bars:
        yield draw


def _notices_only(event: Event) -> None:
    match event:
        case Notice(text):
            advise(text)
        case Progress():
            pass
