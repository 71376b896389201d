"""memcard runs: trainings, their saves, and what can be done with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from memcard.cli import _show

_LIST = "list"
_ORDER = (_LIST, "show", "resume", "promote", "verify", "prune", "forget")


class _ListFirst(click.Group):
    """Commands, of which the one that lists needs no name: ``memcard runs``, ``memcard runs FOLDER``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the listing in front where no command is named."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [_LIST, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they are needed, not of the alphabet."""
        return [name for name in _ORDER if name in self.commands]


@click.group(cls=_ListFirst, invoke_without_command=False)
def command() -> None:
    """List trainings with their progress and saves; resume, promote, prune or verify one.

    `memcard runs` alone lists the runs the library knows, `memcard runs FOLDER` those in a folder. RUN is the name
    of a run, its folder, or the first six digits of its id.
    """


def _listing_options(function: Any) -> Any:
    return click.option("--metric", metavar="NAME", help="Whose curve to show. Default: the loss.")(
        _show.json_option(function)
    )


_run = click.argument("run")


@command.command(
    name=_LIST,
    epilog=_show.examples(
        "memcard runs", "memcard runs ~/trainings --metric val_loss", "memcard runs --json"
    ),
)
@click.argument("folders", nargs=-1, metavar="[FOLDER]...")
@_listing_options
def list_command(folders: tuple[str, ...], metric: str | None, as_json: bool) -> int:
    """List runs, the latest first.

    With state, progress, loss, saves, disk, and the time it will still take. Ends with 1 if there is none.
    """
    from memcard.cli import _runs_view as view
    from memcard.jobs import runs

    found = runs.runs(folders, metric=metric)
    if as_json:
        _show.print_json([report.to_dict() for report in found])
    elif found:
        view.print_list(found)
    else:
        _show.advise(
            "no run is known. memcard.Checkpointer and `memcard finetune` make them; name a FOLDER to see what "
            "lies there."
        )
    return 0 if found else 1


@command.command(
    epilog=_show.examples(
        "memcard runs show my-run",
        "memcard runs show my-run --metric val_loss",
        "memcard runs show my-run --html run.html --png curve.png",
    )
)
@_run
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with the curve.")
@click.option("--png", type=click.Path(path_type=Path), help="Write a picture of the curve.")
@_show.force_option
@_listing_options
def show(
    run: str,
    html: Path | None,
    png: Path | None,
    overwrite: bool,
    metric: str | None,
    as_json: bool,
) -> int:
    """Show one run: curve, metrics, saves, events.

    And where it lies, how it was started, and by which rules its saves stay.
    """
    from memcard.cli import _runs_view as view
    from memcard.jobs import runs

    shown = runs.show(run, metric=metric)
    if html is not None:
        from memcard.jobs._runs_page import page

        _show.advise(f"page: {page(shown, html, overwrite=overwrite)}")
    if png is not None:
        from memcard.jobs._runs_picture import picture

        _show.advise(f"picture: {picture(shown, png, overwrite=overwrite)}")
    if as_json:
        _show.print_json(shown.to_dict())
    else:
        view.print_run(shown)
    return 0


@command.command(
    epilog=_show.examples("memcard runs resume my-run", "memcard runs resume my-run --dry-run")
)
@_run
@click.option("--yes", is_flag=True, help="Start it without asking.")
@click.option("--dry-run", is_flag=True, help="Print the command; start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; start nothing.")
def resume(run: str, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Start a run again as it was started.

    With the very command, in the same folder. The command comes from run.json in the folder of the run. On a terminal it is shown first and you are asked;
    elsewhere it is started at once if the run was begun on this machine, and needs --yes if not.
    """
    from memcard.jobs import runs
    from memcard.jobs._runs_resume import start

    found = runs.restart(run)
    if as_json:
        _show.print_json(found.to_dict())
    elif dry_run:
        click.echo(_show.clean(f"cd {found.cwd}\n{found.line}"))
    else:
        _show.advise(f"in {found.cwd}:\n  {found.line}")
    for note in found.notes:
        _show.advise(f"note: {note}")
    if dry_run or as_json:
        return 0
    _agree(found, yes=yes)
    after = f"after step {found.step}" if found.step else "from the beginning: there is no save"
    _show.advise(f"{found.run} goes on {after}.")
    return start(found)


def _agree(found: Any, *, yes: bool) -> None:
    if yes:
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm("Start it?", default=True, abort=True, err=True)
    elif not found.trusted:
        raise click.UsageError(
            "the run was not begun with this library, so its command may be anybody's. Look at it with "
            "--dry-run, then start it with --yes."
        )


@command.command(
    epilog=_show.examples(
        "memcard runs promote my-run newest --as my-model",
        "memcard runs promote my-run best --as my-model --ema",
        "memcard runs promote my-run 12000 --as my-model --ema slow --out my-model.safetensors",
    )
)
@_run
@click.argument("step")
@click.option("--as", "name", required=True, metavar="NAME", help="What to call it in the library.")
@click.option("--ema", "average", is_flag=False, flag_value="", default=None, metavar="[NAME]",
              help="The average instead of the raw weights; NAME where there are several.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path),
              help="Write this file, which stays where it is. Without it the library keeps it.")  # fmt: skip
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Say what would be made; write nothing.")
@_show.json_option
def promote(run: str, step: str, *, as_json: bool, **options: Any) -> int:
    """Make a checkpoint of the weights in a save.

    The tensors have the model's own names; the library gets it. Of a run of `memcard finetune` it is the file that
    run ends in: a LoRA, or a checkpoint like its base. STEP is a number, newest, or best (by the metric of the run). Every byte is compared with its digest first. The
    file says of which run and step it is.
    """
    from memcard.jobs import runs

    with _show.progress() as progress:
        made = runs.promote(run, step, progress=progress, **options)
    if as_json:
        _show.print_json(made.to_dict())
        return 0
    weights = "raw weights" if made.which == "raw" else f"average {made.which!r}"
    _show.print_facts(
        {
            "name": made.name,
            "of": f"step {made.step} of {made.run}, {weights}",
            "tensors": made.tensors,
            "size": _show.human_size(made.nbytes),
            "sha256": made.sha256,
            "file": str(made.path) if made.path else None,
            "notes": list(made.notes),
        }
    )
    if made.written:
        _show.advise(f"See it: memcard show {made.name}")
    else:
        _show.advise("dry run: nothing was written.")
    return 0


@command.command(
    epilog=_show.examples(
        "memcard runs prune my-run --last 2 --dry-run",
        "memcard runs prune my-run --last 1 --best 3 --by val_loss",
    )
)
@_run
@click.option("--last", type=click.IntRange(1), metavar="N", help="Keep the N newest. Default: 3.")
@click.option("--best", type=click.IntRange(1), metavar="N", help="Keep the N best by --by.")
@click.option("--by", metavar="METRIC", help="What tells the best.")
@click.option("--highest", is_flag=True, help="The highest are the best; without it the lowest.")
@click.option(
    "--every", type=click.IntRange(1), metavar="STEPS", help="Keep one every so many steps."
)
@click.option("--hours", type=float, metavar="H", help="Keep one for each of so many hours.")
@click.option("--for-good", is_flag=True, help="Remove them at once: there is no way back.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@_show.json_option
def prune(run: str, *, for_good: bool, dry_run: bool, as_json: bool, **rules: Any) -> int:
    """Put saves that no rule keeps into the trash.

    `memcard undo` brings them back. Without rules those of the run are used. The newest one whose every byte is right stays in any case, and so
    does every save that a checkpoint was promoted from.
    """
    from memcard.jobs import runs

    with _show.progress() as progress:
        done = runs.prune(
            *(run, _rules(rules)), for_good=for_good, dry_run=dry_run, progress=progress
        )
    if as_json:
        _show.print_json(done.to_dict())
        return 0
    rows = [(step, "goes", _show.human_size(size)) for step, size in done.gone.items()]
    rows += [(step, "stays", why) for step, why in done.stay.items()]
    shown = [[str(step), what, why] for step, what, why in sorted(rows)]
    if shown:
        click.echo(_show.table(shown, header=["save", "", ""]))
    _say_pruned(done, for_good=for_good)
    return 0


def _rules(given: dict[str, Any]) -> dict[str, Any] | None:
    highest = given.pop("highest")
    rules = {key: value for key, value in given.items() if value is not None}
    if not rules and not highest:
        return None
    return rules | ({"mode": "max"} if highest else {})


def _say_pruned(done: Any, *, for_good: bool) -> None:
    what = f"{_show.counted(len(done.gone), 'save')}, {_show.human_size(done.nbytes)}"
    if not done.gone:
        _show.advise("nothing to put away: the rules keep every save.")
    elif done.dry_run:
        _show.advise(f"dry run: {what} would {'be removed' if for_good else 'go to the trash'}.")
    elif for_good:
        _show.advise(f"{what} removed.")
    else:
        _show.advise(
            f"{what} in the trash. Back: memcard undo {done.entry}. The space is free after: memcard gc --days 0."
        )


@command.command(epilog=_show.examples("memcard runs verify my-run"))
@_run
@_show.json_option
def verify(run: str, as_json: bool) -> int:
    """Compare every byte of every save with its digest.

    Ends with 8 if one is damaged.
    """
    from memcard.cli import _runs_view as view
    from memcard.errors import IntegrityError
    from memcard.jobs import runs

    with _show.progress() as progress:
        found = runs.verify(run, progress=progress)
    if as_json:
        _show.print_json([save.to_dict() for save in found])
    elif found:
        view.print_saves(found, checked=True)
    else:
        _show.advise("the run has no save yet.")
    return IntegrityError.exit_code if any(save.fault for save in found) else 0


@command.command(epilog=_show.examples("memcard runs forget my-run"))
@_run
def forget(run: str) -> int:
    """Take a run out of the list. Its folder, its saves and what the library has of them stay."""
    from memcard.jobs import runs

    _show.advise(f"forgotten. What lies in {runs.forget(run)} was not touched.")
    return 0
