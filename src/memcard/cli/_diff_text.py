"""Differences as a person reads them on a terminal: counts, then a bar for every block."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import isinf
from typing import TYPE_CHECKING

import click

from memcard.cli._show import clean, counted, table

if TYPE_CHECKING:
    from memcard.core.tensors import Spec
    from memcard.jobs._blocks import Place
    from memcard.jobs._differences import Change, Diff, Group

_BAR = 16  # characters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SHOWN = 3


def print_diff(diff: Diff, *, tensors: int) -> None:
    """Print everything a person wants to know, the verdict first."""
    click.echo(clean(f"A  {diff.a}\nB  {diff.b}"))
    _print_verdict(diff)
    _print_alone("only in A", diff.only_a)
    _print_alone("only in B", diff.only_b)
    _print_specs(diff)
    for note in diff.notes:
        click.echo(clean(f"note: {note}"))
    _print_metadata(diff)
    if diff.moved:
        _print_blocks(diff)
    if tensors and diff.moved:
        _print_tensors(diff.moved[:tensors])


def _print_verdict(diff: Diff) -> None:
    counts = diff.counts
    compared = "names, shapes and dtypes" if diff.keys else "bit for bit"
    if diff.equal:
        text = click.style("equal", fg="green", bold=True)
        click.echo(f"{text}: {counted(len(diff.changes), 'tensor')}, {compared}")
        return
    parts = [
        f"{counts['moved']} moved" if counts["moved"] else "",
        f"{counts['same values']} have the same values in another dtype"
        if counts["same values"]
        else "",
        f"{counts['equal']} are equal bit for bit" if counts["equal"] else "",
        f"{counts['shape']} have another shape" if counts["shape"] else "",
        f"{len(diff.only_a)} are only in A" if diff.only_a else "",
        f"{len(diff.only_b)} are only in B" if diff.only_b else "",
    ]
    text = click.style("different", fg="yellow", bold=True)
    click.echo(f"{text}: of {len(diff.changes)} tensors in both, {', '.join(filter(None, parts))}")


def _print_alone(title: str, alone: Mapping[str, tuple[Place, Spec]]) -> None:
    """Print what one side lacks: by component if whole components are missing, else by name."""
    if not alone:
        return
    by_component: dict[str, list[str]] = {}
    for name, (place, _) in alone.items():
        by_component.setdefault(place.component, []).append(name)
    for component, names in by_component.items():
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        plural = "tensor" if len(names) == 1 else "tensors"
        click.echo(clean(f"{title}: {len(names)} {plural} of {component} ({shown})"))


def _print_specs(diff: Diff) -> None:
    kinds: dict[str, int] = {}
    for change in diff.dtypes:
        step = f"{change.a.dtype} to {change.b.dtype}"
        kinds[step] = kinds.get(step, 0) + 1
    if kinds:
        click.echo("dtype: " + ", ".join(f"{n} {step}" for step, n in kinds.items()))
    for change in diff.shapes[:_SHOWN]:
        click.echo(
            clean(f"shape: {change.name} is {list(change.a.shape)}, then {list(change.b.shape)}")
        )
    if len(diff.shapes) > _SHOWN:
        click.echo(f"shape: and {len(diff.shapes) - _SHOWN} more")


def _print_metadata(diff: Diff) -> None:
    found = diff.metadata
    parts = [
        f"{len(keys)} {what}"
        for keys, what in (
            (found.only_a, "only in A"),
            (found.only_b, "only in B"),
            (found.changed, "changed"),
        )
        if keys
    ]
    if parts:
        click.echo(f"metadata (not counted as a difference): entries {', '.join(parts)}")


def _print_blocks(diff: Diff) -> None:
    peak = max((_finite(g.distance.relative) for g in diff.blocks), default=0.0)
    head = ["", "moved", "relative norm", "", "cosine", "equal", "max |B - A|"]
    lines: list[tuple[list[str], Group]] = []
    for component in diff.components:
        lines.append((_cells(component, component.component, peak, bar=False), component))
        shown = diff.blocks if component.moved else ()
        lines += [
            (_cells(block, f"  {block.block}", peak, bar=True), block)
            for block in shown
            if block.component == component.component
        ]
    text = table([cells for cells, _ in lines], header=head).splitlines()
    click.echo()
    click.secho(text[0], dim=True)
    for line, (_, group) in zip(text[1:], lines, strict=True):
        click.echo(_styled(line, group, peak))


def _cells(group: Group, name: str, peak: float, *, bar: bool) -> list[str]:
    found = group.distance
    if not group.moved:
        return [name, f"{group.tensors} equal", "", "", "", "", ""]
    return [
        name,
        f"{group.moved} of {group.tensors}",
        percent(found.relative),
        _bar(_finite(found.relative) / peak if peak else 0.0) if bar else "",
        cosine(found.cosine),
        percent(found.share),
        f"{found.largest:.3g}",
    ]


def _styled(line: str, group: Group, peak: float) -> str:
    """Color a line: components bold, what did not move dim, the bar by how far it moved."""
    if group.block is None:
        return click.style(line, bold=True)
    if not group.moved:
        return click.style(line, dim=True)
    heat = _finite(group.distance.relative) / peak if peak else 0.0
    color = "red" if heat > 2 / 3 else "yellow" if heat > 1 / 3 else "green"
    bar = _bar(heat)
    return line.replace(bar, click.style(bar, fg=color), 1) if bar.strip() else line


def _bar(share: float) -> str:
    """Return a bar of 0..``_BAR`` characters; never nothing for what moved."""
    if not _can_draw():
        return "#" * max(1, round(share * _BAR))
    eighths = max(1, round(share * _BAR * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _can_draw() -> bool:
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _print_tensors(changes: Sequence[Change]) -> None:
    rows = []
    for change in changes:
        found = change.distance
        if found is not None:
            spec = f"{change.a.dtype} {'x'.join(map(str, change.a.shape))}"
            figures = [percent(found.relative), cosine(found.cosine), percent(found.share)]
            rows.append([change.name, spec, *figures, f"{found.largest:.3g}"])
    head = ["tensor", "dtype and shape", "relative norm", "cosine", "equal", "max |B - A|"]
    click.echo("\n" + table(rows, header=head))


def percent(value: float | None) -> str:
    """Return a share as people read it, such as ``4.31 %``."""
    if value is None:
        return "unknown"
    if isinf(value):
        return "from zero"
    if 0 < value < 1e-6:
        return "<0.0001 %"
    if 0.9999 < value < 1:
        return ">99.99 %"
    return f"{100 * value:.3g} %" if value < 10 else f"x {value:.3g}"


def cosine(value: float | None) -> str:
    """Return a cosine with five decimals, or nothing."""
    return "" if value is None else f"{value:.5f}"


def _finite(value: float | None) -> float:
    return 0.0 if value is None or isinf(value) else value
