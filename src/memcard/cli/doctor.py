"""memcard doctor: look a library over."""

from __future__ import annotations

import click

from memcard.cli import _show

_COLORS = {"error": "red", "warning": "yellow", "note": "blue"}


@click.command(
    epilog=_show.examples(
        "memcard doctor", "memcard doctor --fix", "memcard doctor --json | jq .findings"
    )
)
@click.option("--fix", is_flag=True, help="Mend what can be mended without a choice of yours.")
@_show.json_option
def command(fix: bool, as_json: bool) -> int:
    """Look the library over: its folder, disk, locks, names, records and packs; say what to do.

    No values of tensors are read: that is what `memcard verify` does. Without --fix nothing is written. Ends with 1
    if there is an error or a warning that was not mended.
    """
    from memcard.jobs.library import Library

    found = Library().doctor(fix=fix)
    if as_json:
        _show.print_json(found.to_dict())
        return 0 if found.ok else 1
    for one in found.findings:
        mark = click.style(one.severity, fg=_COLORS[one.severity])
        click.echo(f"{mark}: " + _show.clean(f"{one.about}: {one.text}"))
        if one.fixed:
            click.echo(_show.clean(f"  mended: {one.fix}."))
        else:
            click.echo(_show.clean(f"  {one.remedy}"))
            if one.fix and not fix:
                click.echo(_show.clean(f"  memcard doctor --fix {one.fix}."))
    names = _show.counted(found.names, "name")
    verdict = "nothing is wrong" if found.ok else "see above"
    click.echo(_show.clean(f"{found.root}: {names}; {verdict}."))
    return 0 if found.ok else 1
