"""How a training looks in a terminal: a bar, the loss and its curve; a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from memcard.cli import _show
from memcard.core.progress import Event, Listener, Notice, Progress

_BLOCKS, _PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_WIDTH = 48
_KEEP = 0.95  # of the running average
_QUIET = 20.0  # seconds between two lines where there is no terminal


class Curve:
    """The running average of the loss, and a picture of it in one line."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._total = self._weight = 0.0

    def add(self, loss: float) -> float:
        """Take in a loss; return the average."""
        self._total = _KEEP * self._total + (1 - _KEEP) * loss
        self._weight = _KEEP * self._weight + 1 - _KEEP
        self.values.append(self._total / self._weight)
        return self.values[-1]

    def text(self, width: int = _WIDTH, *, plain: bool = False) -> str:
        """Return the curve, ``width`` characters or fewer."""
        marks, values = (_PLAIN if plain else _BLOCKS), self.values
        if not values:
            return ""
        count = min(width, len(values))
        shown = [values[(n + 1) * len(values) // count - 1] for n in range(count)]
        low, high = min(shown), max(shown)
        span = (high - low) or 1.0
        return "".join(marks[min(7, int(8 * (v - low) / span))] for v in shown)


@contextmanager
def watching() -> Iterator[tuple[Listener, Callable[[Any], None]]]:
    """Yield what hears of progress, and what is given each step."""
    if os.environ.get("RANK", "0") != "0":
        yield _ignored, _ignored  # the first of several processes speaks for all
    elif sys.stderr.isatty():
        with _live() as listeners:
            yield listeners
    else:
        yield _lines()


def _ignored(_: Any) -> None:
    return


@contextmanager
def _live() -> Iterator[tuple[Listener, Callable[[Any], None]]]:
    """Draw a bar for what goes on, and the loss beneath it."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    console, curve, last = Console(stderr=True), Curve(), Text("")
    plain = not (console.encoding or "").lower().startswith("utf")
    bars = Bars(
        *(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        ),
        console=console,
    )
    tasks: dict[str, Any] = {}

    def hear(event: Event) -> None:
        if isinstance(event, Notice):
            console.print(_show.clean(event.text), highlight=False, markup=False)
            return
        if event.phase not in tasks:
            tasks[event.phase] = bars.add_task(_named(event))
        scale = 1e6 if event.unit == "bytes" else 1
        done, total = round(event.done / scale), round(event.total / scale)
        # what is done makes room for what goes on
        shown = event.done < event.total or event.phase == "training"
        bars.update(tasks[event.phase], completed=done, total=total, visible=shown)

    def step(moment: Any) -> None:
        mean = curve.add(moment.loss)
        last.plain = f"loss {mean:.4f}  rate {moment.lr:.2g}  {curve.text(plain=plain)}"

    with Live(Group(bars, last), console=console, refresh_per_second=4, transient=True):
        yield hear, step


def _named(event: Progress) -> str:
    return f"{event.phase}, MB" if event.unit == "bytes" else event.phase


def _lines() -> tuple[Listener, Callable[[Any], None]]:
    """Return listeners for a log: notices, the first steps, then a line every 20 seconds."""
    curve = Curve()
    said = [0.0]

    def hear(event: Event) -> None:
        match event:
            case Notice(text):
                _show.advise(text)
            case Progress():
                pass

    def step(moment: Any) -> None:
        mean, now = curve.add(moment.loss), time.monotonic()
        if now - said[0] < _QUIET:
            return
        said[0] = now
        _show.advise(f"step {moment.step}  loss {mean:.4f}  rate {moment.lr:.2g}")

    return hear, step


def print_plan(plan: Any) -> None:
    """Print what would be done."""
    settings = plan.settings
    what = (
        f"LoRA of rank {settings.rank}, {settings.targets}" if settings.rank else "the whole UNet"
    )
    if settings.parts:
        what = f"the UNet's {settings.parts}"
    done = f", {plan.start} done" if plan.start else ""
    passes = settings.batch * settings.accumulate
    _show.print_facts(
        {
            "base": f"{plan.base} ({plan.family}, {plan.prediction})",
            "learns": f"{what}: {plan.learning / 1e6:.2f} million values"
            + (", text encoder too" if settings.text_encoder else ""),
            "data": f"{plan.data}, {_show.counted(plan.pictures, 'picture')}",
            "captions from": ", ".join(f"{k} ({v})" for k, v in plan.captions.items()),
            "buckets": ", ".join(f"{k} ({v})" for k, v in plan.buckets.items()),
            "steps": f"{settings.steps}{done}; {passes} pictures each, {plan.epochs:g} epochs",
            "rate": f"{settings.lr:g}, {settings.schedule}, {settings.warmup} steps warm-up",
            "computing": f"{settings.precision} on {plan.device}",
            "memory": f"{_show.human_size(plan.memory)} and activations",
            "disk": ", ".join(f"{k} {_show.human_size(v)}" for k, v in plan.disk.items()),
            "prompts": list(settings.prompts),
            "run": str(plan.run),
            "out": str(plan.out),
            "notes": list(plan.notes),
        }
    )
    _show.advise("dry run: nothing was computed or written.")


def print_result(result: Any) -> None:
    """Print what was made."""
    for path in result.files:
        click.echo(str(path))
    name = result.files[0] if result.name is None else result.name
    lora = bool(result.plan.settings.rank)
    use = f"-c {result.plan.base} --lora {name}" if lora else f"-c {name}"
    _show.print_facts(
        {
            "loss": f"{result.first_loss:.4f} at the beginning, {result.loss:.4f} at the end",
            "steps": result.steps,
            "license": result.license,
            "sheet": None if result.sheet is None else str(result.sheet),
            "report": str(result.report),
            "notes": list(result.notes),
        }
    )
    prompt = next(iter(result.plan.settings.prompts), "")
    _show.advise(f'Try it: memcard generate "{prompt}" {use}')
