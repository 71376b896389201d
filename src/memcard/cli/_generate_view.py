"""What ``memcard generate`` shows of a run it would make, and of many that it makes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.jobs._generate_plan import Plan
    from memcard.jobs.generate_lines import Done, Line

_FAILED: Final = 1  # exit code if a line could not be followed
_WORTH: Final = 60.0  # seconds left that are worth a word
_WORDS: Final = 40  # characters of a prompt in a line of progress
_LEFT_OUT: Final = ("", 0.0, False, None)  # values of settings that do nothing


def print_plan(plan: Plan, *, as_json: bool) -> None:
    """Print what would be used."""
    if as_json:
        _show.print_json(plan.to_dict())
        return
    _show.print_facts(_facts(plan))
    click.echo()
    click.echo(_show.table([_row(one) for one in plan.parts], header=_HEADER))
    click.echo()
    click.echo(_show.table(_settings(plan), header=["setting", "value", "from"]))
    for note in plan.notes:
        _show.advise(f"note: {note}")
    _show.advise("dry run: no weight was read, and nothing was made.")


_HEADER: Final = ["part", "from", "parameters", "stored", "in memory"]


def _facts(plan: Plan) -> dict[str, Any]:
    memory = plan.memory
    needed, weights, work, program, free = map(
        _show.human_size,
        (memory.needed, memory.weights, memory.work, memory.program, memory.free),
    )
    family = f"{plan.title}, {plan.variant}" if plan.variant else plan.title
    seeds = "drawn" if not plan.seeds else ", ".join(map(str, plan.seeds))
    return {
        "checkpoint": f"{plan.checkpoint} [{plan.sha256[:10]}]" if plan.sha256 else plan.checkpoint,
        "file": plan.path,
        "family": family,
        "LoRAs": [f"{one['name']}:{one['strength']:g}" for one in plan.loras],
        "embeddings": ", ".join(plan.embeddings),
        "controls": ", ".join(plan.controls),
        "prompt": list(plan.prompt),
        "pictures": f"{plan.pictures}, seed {seeds}",
        "computed": f"in {plan.dtype} on {plan.device}",
        "memory": f"about {needed}: {weights} of weights, {work} to compute with, {program} for the "
        f"program; {free} are free",
    }


def _row(one: Any) -> list[str]:
    count = one.parameters / 1e6
    shown = f"{count:.1f} M" if count < 1000 else f"{count / 1000:.2f} B"
    return [one.part, one.file, shown, one.stored, _show.human_size(one.nbytes)]


def _settings(plan: Plan) -> list[list[str]]:
    """Return a row for each setting that does something, or that somebody said."""
    used = plan.settings
    names = [name for name in used.origin if name not in ("width", "height")]
    values = {name: getattr(used, name) for name in names}
    rows = [["size", f"{used.width}x{used.height}", used.origin["width"]]]
    for name, value in values.items():
        told = used.origin[name] != "family"
        still = name in ("frames", "fps") and used.frames == 1
        if told or (value not in _LEFT_OUT and not still):
            rows.append([name.replace("_", " "), _text(value), used.origin[name]])
    return rows


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def lines(source: str) -> list[Line] | Iterator[Line]:
    """Return the lines of a file; of ``-`` each as it comes."""
    from memcard.jobs.generate_lines import lines_of, read_lines

    if source != "-":
        return lines_of(source)
    return read_lines(_as_they_come())


def _as_they_come() -> Iterator[str]:
    """Yield each line of stdin as soon as it is there."""
    while text := sys.stdin.buffer.readline():
        yield text.decode("utf-8", "surrogateescape")


def print_lines(
    source: str, out: Path | None, format: str | None, quality: int | None,  # noqa: A002
    *, as_json: bool, said: Mapping[str, Any],
) -> int:  # fmt: skip
    """Make the pictures of many lines, print each as soon as it is done; return the exit code."""
    from memcard.jobs.generate_lines import generate_lines

    made = failed = 0
    with _show.progress() as progress:
        for done in generate_lines(
            lines(source), out=out, format=format, quality=quality, progress=progress, **said
        ):
            made, failed = made + (done.error is None), failed + (done.error is not None)
            if as_json:
                click.echo(json.dumps(done.to_dict(), ensure_ascii=True))
            elif done.path is not None:
                click.echo(str(done.path))
            _show.advise(_progress_line(done))
    if failed:
        _show.advise(
            f"{_show.counted(failed, 'line')} failed; {_show.counted(made, 'picture')} made."
        )
    return _FAILED if failed else 0


def _progress_line(done: Done) -> str:
    """Return ``3/10  a red apple, seed 7, 1.2 s; about 4 minutes left``."""
    place = f"{done.place}/{done.of}" if done.of else str(done.place)
    if done.error is not None:
        return f"{place}  line {done.line}: {done.error}"
    assert done.result is not None, "made or failed"  # noqa: S101
    (picture,) = done.result.pictures
    prompt = " ".join(picture.prompt.split())
    short = prompt if len(prompt) <= _WORDS else f"{prompt[: _WORDS - 1]}…"
    text = f"{place}  {short}, seed {picture.seed}, {done.result.seconds:.1f} s"
    if done.left is not None and done.left > _WORTH:
        from memcard.jobs._generate_clock import duration

        text += f"; about {duration(done.left)} left"
    return text
