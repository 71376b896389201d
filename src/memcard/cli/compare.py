"""memcard compare: the same picture in every combination of checkpoints and settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.jobs.compare import Comparison, Forecast


_AS_THEY_ARE = ("x", "y", "cache", "text_encoders", "embeddings", "device", "dtype")


class _Strengths(click.ParamType[tuple[str, str]]):
    """``REF:0,0.5,1``; what follows the last colon is the list of strengths (default 1)."""

    name = "REF[:S,S,…]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """Split at the last colon if numbers follow; a Windows drive stays whole."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(.+):([-+.,\d]+)", value)
        return (match[1], match[2]) if match else (value, "1")


class _Set(click.ParamType[tuple[str, str]]):
    """``NAME=V,V``."""

    name = "NAME=V,V,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """Split at the first equals sign."""
        if isinstance(value, tuple):
            return value
        name, equals, values = value.partition("=")
        if not (name.strip() and equals and values.strip()):
            self.fail(f"{value!r} is not NAME=VALUES; write it like clip_skip=1,2.", param, ctx)
        return name.strip().replace("-", "_"), values


@click.command(
    epilog=_show.examples(
        'memcard compare "a red apple" -c starter -c starter/raw --cfg 1,3,7 -o grid.png',
        'memcard compare "a rocket" --lora starter/lora_pixel:0,0.5,1 --seed 1-4 -o page.html',
        'memcard compare "a rocket" "a dog face" -c a.safetensors -c b.safetensors --steps 10,20 -o sheets/',
        'memcard compare "a rocket" --sampler euler,ddim --steps 5-25:5 --dry-run',
    )
)
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@click.option("-c", "--checkpoint", "checkpoints", multiple=True, metavar="REF",
              help="A file or a name; repeatable. Default: starter.")  # fmt: skip
@click.option("--cfg", metavar="N,N,…", help="Guidance scales.")
@click.option("--steps", metavar="N,N,…", help="Numbers of steps; also 10-40:10.")
@click.option("--sampler", metavar="NAME,…", help="Samplers, by any of their names.")
@click.option("--schedule", metavar="NAME,…", help="Spacings of the noise levels.")
@click.option("--size", metavar="WxH,…", help="Sizes in pixels.")
@click.option("--lora", "loras", multiple=True, type=_Strengths(),
              help="A LoRA with its strengths, 0 for none; several are laid on together.")  # fmt: skip
@click.option("--vae", "vaes", multiple=True, metavar="REF",
              help="Another VAE, or `own`; repeatable.")  # fmt: skip
@click.option("--seed", "seeds", default="1", show_default=True, metavar="N,N,…",
              help="Seeds; also 1-4. -1 draws one.")  # fmt: skip
@click.option("--negative", "negatives", multiple=True, metavar="TEXT",
              help="What the picture should not be; repeatable.")  # fmt: skip
@click.option("--set", "others", multiple=True, type=_Set(),
              help="Any other setting, such as clip_skip=1,2; repeatable.")  # fmt: skip
@click.option(
    "--x", metavar="AXIS", help="What runs along the columns, such as cfg. Default: chosen."
)
@click.option("--y", metavar="AXIS", help="What runs down the rows. The rest becomes pages.")
@click.option("--cell", type=click.IntRange(16, 4096), metavar="PIXELS",
              help="Longest side of a picture on a sheet.")  # fmt: skip
@click.option("--text-encoder", "text_encoders", multiple=True, metavar="REF",
              help="A text encoder for all checkpoints; repeatable.")  # fmt: skip
@click.option("--embedding", "embeddings", multiple=True, metavar="REF",
              help="A textual inversion that prompts may name; repeatable.")  # fmt: skip
@click.option("--device", default="auto", help="auto, cpu, cuda, mps.")
@click.option("--dtype", default="auto", help="Compute in: auto, F32, BF16, F16.")
@click.option("-o", "--out", "outs", multiple=True, type=click.Path(path_type=Path), metavar="OUT",
              help="A .png, an .html, or a folder for all of it; repeatable. Default: compare.html.")  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Keep finished pictures here. Default: memcard's cache.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say how many pictures, and how long; make none.")
@click.option("--yes", is_flag=True, help="Also make more than 2,000 pictures.")
@_show.force_option
@_show.json_option
def command(
    prompts: tuple[str, ...],
    outs: tuple[Path, ...],
    cell: int | None,
    dry_run: bool,
    yes: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Make the same picture in every combination of checkpoints and settings.

    Options take several values; each that has more than one becomes an axis of the table. Pictures that
    were made before are not made again: interrupt it, widen it, run it once more.
    """
    from memcard.jobs.compare import compare, forecast, refuse_outputs

    outs = outs or (Path("compare.html"),)
    wanted = _wanted(options)
    if dry_run:
        with _show.progress() as progress:
            found = forecast(prompts, progress=progress, **wanted)
        _print_forecast(found, as_json=as_json)
        return 0
    refuse_outputs(outs, overwrite=overwrite)
    with _show.progress() as progress:
        done = compare(prompts, yes=yes, progress=progress, **wanted)
        files = [f for out in outs for f in done.save(out, cell=cell, overwrite=overwrite, progress=progress)]  # fmt: skip
    _print_done(done, files, as_json=as_json)
    return 0


def _wanted(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``compare``; all that cannot be read is said at once."""
    from memcard.errors import UsageError
    from memcard.jobs.compare import numbers

    faults: list[str] = []

    def read(name: str, text: str | None, *, whole: bool = False) -> tuple[float, ...] | None:
        try:
            return None if text is None else numbers(text, name, whole=whole)
        except UsageError as error:
            faults.append(str(error))
            return None

    sizes = [part.strip().lower() for part in (options["size"] or "").split(",") if part.strip()]
    faults += [f"--size {s!r}: is not a size; write it like 512x768." for s in sizes
               if not re.fullmatch(r"\d{1,5}x\d{1,5}", s)]  # fmt: skip
    lora = {ref: read(f"--lora {ref}", text) for ref, text in options["loras"]}
    if len(lora) < len(options["loras"]):
        faults.append(
            "--lora: the same LoRA is named twice; write its strengths in one, such as REF:0,0.5,1."
        )
    found = {
        "checkpoint": options["checkpoints"] or ("starter",),
        "lora": lora,
        "vae": options["vaes"] or None,
        "seed": read("--seed", options["seeds"], whole=True),
        "cfg": read("--cfg", options["cfg"]),
        "steps": read("--steps", options["steps"], whole=True),
        "sampler": _names(options["sampler"]),
        "schedule": _names(options["schedule"]),
        "size": None if faults or not sizes else [tuple(map(int, s.split("x"))) for s in sizes],
        "negative": options["negatives"] or None,
        **{name: options[name] for name in _AS_THEY_ARE},
        **{name: _plain(values) for name, values in options["others"]},
    }
    if faults:
        raise UsageError("\n".join(faults))
    return found


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _plain(text: str) -> tuple[int | float | str, ...]:
    """Return the values of ``--set``: whole numbers, numbers, or words."""
    found: list[int | float | str] = []
    for part in (part.strip() for part in text.split(",")):
        for kind in (int, float, str):
            try:
                found.append(kind(part))
            except ValueError:
                continue
            break
    return tuple(found)


def _print_forecast(found: Forecast, *, as_json: bool) -> None:
    from memcard.jobs.compare import about

    if as_json:
        _show.print_json(found.to_dict())
        return
    axes = {name: f"{len(labels)}: {_few(labels)}" for name, labels in found.axes.items()}
    there = found.cells - found.impossible - found.missing
    _show.print_facts(
        {
            **axes,
            "pages": found.pages if found.pages > 1 else None,
            "cells": found.cells,
            "impossible": found.impossible or None,
            "made before": there or None,
            "to make": found.missing or "nothing",
            "time": about(found.seconds) if found.missing else None,
        }
    )
    _show.advise("dry run: nothing was made.")


def _few(labels: Any) -> str:
    shown = [label if len(label) <= 40 else f"{label[:39]}…" for label in labels[:6]]
    return ", ".join(shown) + (", …" if len(labels) > len(shown) else "")


def _print_done(done: Comparison, files: list[Path], *, as_json: bool) -> None:
    if as_json:
        _show.print_json({**done.to_dict(), "files": [str(file) for file in files]})
        return
    shown = [file for file in files if file.parent.name != "cells"]
    for file in shown:
        click.echo(str(file))
    possible = sum(cell.path is not None for cell in done.cells)
    before = f", {possible - done.made} were there" if possible > done.made else ""
    _show.advise(f"{_show.counted(done.made, 'picture')} made{before}; {done.seconds:.1f} s")
