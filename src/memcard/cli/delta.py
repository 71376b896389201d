"""memcard delta: a fine-tune as what it changes in its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memcard.cli import _show

_OUT = click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="File to write."
)


@click.group()
def command() -> None:
    """Store a fine-tune as what it changes in its base, and get it back bit for bit."""


@command.command(
    epilog=_show.examples(
        "memcard delta make sd15.safetensors my-tune.safetensors -o my-tune.delta.safetensors"
    )
)
@click.argument("base")
@click.argument("tuned")
@_OUT
@_show.force_option
@_show.json_option
def make(base: str, tuned: str, out: Path, overwrite: bool, as_json: bool) -> int:
    """Write what TUNED changes in BASE.

    The delta stands alone: it names its base by SHA-256 and each tensor by BLAKE3. Nothing is rounded.
    """
    from memcard.jobs.delta import delta_make

    with _show.progress() as progress:
        made = delta_make(base, tuned, out=out, overwrite=overwrite, progress=progress)
    _print(made, as_json=as_json, share=True)
    return 0


@command.command(
    epilog=_show.examples(
        "memcard delta apply sd15.safetensors my-tune.delta.safetensors -o my-tune.safetensors"
    )
)
@click.argument("base")
@click.argument("delta")
@_OUT
@_show.force_option
@_show.json_option
def apply(base: str, delta: str, out: Path, overwrite: bool, as_json: bool) -> int:
    """Write the checkpoint that DELTA makes of BASE; another base is refused.

    A delta of a .safetensors file gives that file back to the last byte, if OUT is one too. It need not
    be applied to be used: every command takes a delta in place of the checkpoint, if its base lies beside
    it or in the working folder.
    """
    from memcard.jobs.delta import delta_apply

    with _show.progress() as progress:
        made = delta_apply(base, delta, out=out, overwrite=overwrite, progress=progress)
    _print(made, as_json=as_json, share=False)
    return 0


def _print(made: Any, *, as_json: bool, share: bool) -> None:
    if as_json:
        _show.print_json(made.to_dict())
        return
    size = _show.human_size(made.nbytes if share else made.result_bytes)
    if share:
        percent = 100 * made.nbytes / max(1, made.result_bytes)
        size = f"{size}, {percent:.3g} % of {_show.human_size(made.result_bytes)}"
    _show.print_facts(
        {
            "out": str(made.out),
            "size": size,
            "tensors": f"{made.tensors}, {made.changed} changed",
            "base": made.base_sha256,
            "original": made.result_sha256,
            **({} if share else {"written": f"{made.out_sha256}: {_verdict(made)}"}),
            "notes": list(made.notes),
        }
    )


def _verdict(made: Any) -> str:
    """Say whether what was written is the file the delta was made of."""
    return "same file" if made.same_file else "same tensors, another container"
