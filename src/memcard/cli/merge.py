"""memcard merge: two or more checkpoints become one, with the recipe inside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from memcard.cli import _show
from memcard.cli._types import Numbers

_HELP = ("-h", "--help")
_NUMBERS = re.compile(r"[-+.\deE]+(\s*,\s*[-+.\deE]+)+")


class MethodCommand(click.Command):
    """A command whose help lists the methods, and with a method's name before it its parameters."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Answer ``merge METHOD --help``; all else as usual."""
        words = [arg for arg in args if not arg.startswith("-")]
        if words and any(arg in _HELP for arg in args):
            click.echo(method_help(words[0]))
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the methods before the examples."""
        from memcard.jobs._methods import method_lines

        with formatter.section("Methods (memcard merge METHOD --help says more)"):
            formatter.write_dl(list(method_lines().items()))
        super().format_epilog(ctx, formatter)


def method_help(name: str) -> str:
    """Return a method's title, source, inputs and parameters with their defaults.

    Raises:
        NotFoundError: no such method.
    """
    from memcard.jobs._methods import method_named

    op = method_named(name)
    low, high = op.arity
    takes = "with --base BASE, the common ancestor" if getattr(op, "takes_base", False) else ""
    count = f"{low} checkpoints" if low == high else f"{max(2, low)} or more checkpoints"
    if takes:
        count = "one or more checkpoints"
    lines = [f"{name}: {op.title}", f"Source: {op.source}", f"Takes: {count} {takes}".rstrip(), ""]
    rows = [[key, _plain(param.default), param.help] for key, param in op.params.items()]
    lines.append(
        "Parameters, set with --set KEY=VALUE (weights also with --weights):" if rows else ""
    )
    if rows:
        table = _show.table(rows, header=["KEY", "DEFAULT", "MEANING"])
        lines += [f"  {line}" for line in table.splitlines()]
    return "\n".join(lines).rstrip()


def _plain(value: Any) -> str:
    if value in ((), None, ""):
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command(
    cls=MethodCommand,
    epilog=_show.examples(
        "memcard merge weighted_average a.safetensors b.safetensors --weights 0.7,0.3 --out c.safetensors",
        "memcard merge weighted_average starter starter/stencil --out half.safetensors --dry-run",
        "memcard merge weighted_average a.safetensors b.safetensors --blocks GRAD_V --out c.safetensors",
        "memcard merge weighted_average a.ckpt b.ckpt --only unet --keep-vae-of vae.pt --out c.safetensors",
        "memcard merge task_arithmetic a.safetensors b.safetensors --base sd15.ckpt --out c.safetensors",
    ),
)
@click.argument("method")
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option("--weights", type=Numbers(), help="One number per REF; default: all the same.")
@click.option("--base", help="The common ancestor, for methods that need one.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a parameter.")
@click.option(
    "--blocks",
    metavar="PRESET|SPEC",
    help="Weights by block: GRAD_V, 26 or 20 numbers, 0..1, or IN04=0.3,OUT*=0.5,/attn2/=0.9. Of two "
    "checkpoints, the share of the second.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="PART",
    help="Merge these parts (unet, vae, text_encoder); keep the rest of the first REF.",
)
@click.option("--keep-vae-of", metavar="REF", help="Take the VAE of this checkpoint, bit for bit.")
@click.option("--keep-text-encoder-of", metavar="REF", help="The same for the text encoders.")
@click.option("--dtype", help="dtype of the result: fp32, fp16, bf16. Default: that of the inputs.")
@click.option(
    "--missing",
    type=click.Choice(["refuse", "keep-first"]),
    default="refuse",
    show_default=True,
    help="What to do with tensors that not all checkpoints have.",
)
@click.option(
    "--nonfinite",
    type=click.Choice(["refuse", "allow"]),
    default="refuse",
    show_default=True,
    help="Whether to write a result in which values were computed as NaN or infinite. Tensors that are "
    "copied as they are are not looked at; memcard diff does.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option("--report", type=click.Path(path_type=Path), metavar="PNG",
              help="Draw how far the result is from each of its parents.")  # fmt: skip
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@_show.json_option
def command(
    method: str, refs: tuple[str, ...], *, settings: tuple[str, ...], as_json: bool, **options: Any
) -> int:
    """Blend checkpoints into one.

    METHOD is the name of a merge method, such as weighted_average. All refusals come from the headers,
    before a byte is written; the merge then streams, so memory does not grow with the files. The recipe
    goes into the metadata of the result.
    """
    from memcard.jobs.merge import merge

    given = parameters(settings)
    if twice := [key for key in given if key in options]:
        raise click.UsageError(f"--set {twice[0]}: there is an option --{twice[0]} for it.")
    report = options.pop("report")
    if report is not None:
        from memcard.jobs.merge_report import check_report

        check_report(report, dry_run=options["dry_run"])
    with _show.progress() as progress:
        result = merge(method, refs, progress=progress, **options, **given)
    _show.print_made(result, as_json=as_json)
    if report is not None:
        from memcard.cli._report import write_report

        base = [options["base"]] if options["base"] else []
        write_report(options["out"], [*base, *refs], report, quiet=as_json)
    return 0


def parameters(settings: tuple[str, ...]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs; a value that is JSON (a number, true, a list) is taken as such.

    Numbers with commas between them are a list: ``density=0.2,0.5``.
    """
    found: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--set {text}: write it like --set key=value.")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    import json

    numbers = "," in text and _NUMBERS.fullmatch(text.strip())
    try:
        return json.loads(f"[{text}]" if numbers else text)
    except json.JSONDecodeError:
        return text
