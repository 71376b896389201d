"""memcard card: what is said about a checkpoint, by whom; and what its user says."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.core.card import Card
    from memcard.jobs._card_learn import Learnt, Value

_STYLES = ("a1111", "modelspec-sidecar")
_LEAST = 40  # columns for values on a narrow terminal
_WIDE = 120
_SHOWN = 6  # values of a setting; --json has more


class _Change(click.ParamType[tuple[str, str]]):
    """``FIELD=VALUE``; the first equals sign counts."""

    name = "FIELD=VALUE"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """Split at the first equals sign."""
        if isinstance(value, tuple):
            return value
        field, sign, text = value.partition("=")
        if not sign or not field.strip():
            self.fail(f"{value!r} is not FIELD=VALUE; write it like cfg=5.", param, ctx)
        return field, text


@click.command(
    epilog=_show.examples(
        "memcard card my-lora.safetensors",
        "memcard card my-tune.safetensors --set cfg=5 --set 'tags=portrait, film'",
        "memcard card my-tune.safetensors --set license=",
        "memcard card my-lora.safetensors --write a1111",
        "memcard card sdxl-base --set 'tags=base, realistic'",
        "memcard card my-tune --learn ~/pictures",
        "memcard card my-lora.safetensors --json | jq .origin",
    )
)
@click.argument("path")
@click.option(
    "--set",
    "changes",
    type=_Change(),
    multiple=True,
    help="Say so yourself: in NAME.memcard.json, or in the library.",
)
@click.option(
    "--write", "style", type=click.Choice(_STYLES), help="Write a sidecar that other tools read."
)
@click.option(
    "--force", "--overwrite", "overwrite", is_flag=True, help="Let --write change a sidecar."
)
@click.option(
    "--learn",
    "folder",
    metavar="FOLDER",
    help="Count the settings of the pictures in FOLDER that were made with it.",
)
@click.option("--yes", is_flag=True, help="With --learn: set what is recommended.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@_show.json_option
def command(
    path: str,
    changes: tuple[tuple[str, str], ...],
    style: str | None,
    overwrite: bool,
    folder: str | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Show what is said about a checkpoint, and who says it.

    Reads its header and the files beside it: sidecars of A1111, Civitai Helper, Stability Matrix, Lora-Manager
    and SwarmUI, previews, a Hugging Face README. PATH itself is never changed: --set and --write make files
    beside it. PATH may be a name of the library: what you --set is then kept there. Ends with 1 if nothing is known.

    --learn reads the pictures of any tool in a folder and counts what people set when they used this checkpoint;
    with --yes the settings that most agree on go to the card, with the counts.
    """
    from memcard.jobs import card as job

    _check(changes=changes, style=style, folder=folder, yes=yes)
    if folder is not None:
        return _learn(path, folder, yes=yes, dry_run=dry_run, as_json=as_json)
    if not changes and not style:
        found = job.card(path)
        _print(found, as_json=as_json)
        return 0 if any(found.stated()) else 1
    if style:
        made = job.write_sidecar(path, style, overwrite=overwrite, dry_run=dry_run)
    else:
        made = job.set_card(path, changes, dry_run=dry_run)
    if dry_run or as_json:
        _show.print_json(
            {"path": str(made.path), "content": dict(made.content), "written": not dry_run}
        )
    else:
        _print(made.card, as_json=False)
    _show.advise("dry run: nothing was written." if dry_run else f"written: {made.path}")
    return 0


def _check(
    *, changes: tuple[tuple[str, str], ...], style: str | None, folder: str | None, yes: bool
) -> None:
    options = {"--set": changes, "--write": style, "--learn": folder}
    asked = [name for name, given in options.items() if given]
    if len(asked) > 1:
        raise click.UsageError(
            f"{' and '.join(asked)} are {len(asked)} commands; give one of them."
        )
    if yes and folder is None:
        raise click.UsageError("--yes goes with --learn FOLDER.")


def _learn(path: str, folder: str, *, yes: bool, dry_run: bool, as_json: bool) -> int:
    from memcard.jobs import card as job

    with _show.progress() as progress:
        found, made = job.learn(path, folder, keep=yes, dry_run=dry_run, progress=progress)
    if as_json:
        written = None if made is None else str(made.path)
        _show.print_json(
            {**found.to_dict(), "path": written, "written": bool(made) and not dry_run}
        )
    else:
        _print_learnt(found)
    if made is not None:
        _show.advise("dry run: nothing was written." if dry_run else f"written: {made.path}")
    elif found.recommended and not as_json:
        _show.advise("nothing was written; --yes sets what is recommended.")
    return 0 if sum(found.used.values()) else 1


def _print_learnt(found: Learnt) -> None:
    used, marks = sum(found.used.values()), found.recommended
    how = ", ".join(f"{count} by {way}" for way, count in found.used.items() if count)
    click.echo(
        f"{_show.counted(found.pictures, 'picture')}, {found.readable} say how they were made; "
        f"{used} with this checkpoint{f' ({how})' if how else ''}, "
        f"{_show.counted(found.prompts, 'prompt')}"
    )
    rows = [
        [
            name if i == 0 else "",
            *_counts(value),
            "recommended" if marks.get(name) == value.value else "",
        ]
        for name, values in found.settings.items()
        for i, value in enumerate(values[:_SHOWN])
    ]
    if rows:
        click.echo(_show.table(rows, header=["setting", "value", "prompts", "pictures", ""]))
    loras = [
        [_short(name, _LEAST), *_counts(value)]
        for name, value in list(found.loras.items())[:_SHOWN]
    ]
    if loras:
        click.echo()
        click.echo(_show.table(loras, header=["LoRA", "strength", "prompts", "pictures"]))
    for note in found.notes[:_SHOWN]:
        _show.advise(f"note: {note}")
    if len(found.notes) > _SHOWN:
        _show.advise(f"and {len(found.notes) - _SHOWN} more notes; --json has all.")


def _counts(found: Value) -> list[str]:
    value = f"{found.value:g}" if isinstance(found.value, float) else str(found.value)
    return [value, str(found.prompts), str(found.pictures)]


def _print(found: Card, *, as_json: bool) -> None:
    if as_json:
        _show.print_json(found.to_dict())
        return
    room = max(_LEAST, min(_WIDE, shutil.get_terminal_size((_WIDE, 24)).columns - 45))
    rows = [
        [name, _short(value, room), found.origin.get(name, "")] for name, value in found.stated()
    ]
    if rows:
        click.echo(_show.table(rows, header=["field", "value", "says"]))
    else:
        click.echo("Nothing is said about it.")
    for note in found.notes:
        _show.advise(f"note: {note}")


def _short(value: object, room: int) -> str:
    """Return a value on one line; ``--json`` has all of it."""
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= room else text[: room - 1] + "…"
