"""memcard lora: add-ons that adjust a base without replacing it."""

from __future__ import annotations

from pathlib import Path

import click

from memcard.cli import _show
from memcard.cli._types import Weighted


@click.group()
def command() -> None:
    """Bake a LoRA into a checkpoint, or look inside one."""


@command.command(
    epilog=_show.examples(
        "memcard lora bake base.safetensors style.safetensors:0.8 --out styled.safetensors",
        "memcard lora bake starter starter/lora_neon:0.5 --out half-neon.safetensors",
    )
)
@click.argument("base")
@click.argument("loras", nargs=-1, required=True, type=Weighted())
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option("--skip-unmatched", is_flag=True, help="Leave out keys that fit nothing in BASE.")
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@_show.json_option
def bake(
    base: str,
    loras: tuple[tuple[str, float], ...],
    out: Path,
    skip_unmatched: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Write BASE with LoRAs added for good, each at its strength (LORA:0.8)."""
    from memcard.jobs.lora import lora_bake

    with _show.progress() as progress:
        result = lora_bake(
            base,
            loras,
            out=out,
            skip_unmatched=skip_unmatched,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=progress,
        )
    _show.print_made(result, as_json=as_json)
    return 0


@command.command(epilog=_show.examples("memcard lora info style.safetensors"))
@click.argument("ref")
@click.option("--base", help="Also say what fits this checkpoint and what does not.")
@_show.json_option
def info(ref: str, base: str | None, as_json: bool) -> int:
    """Print rank, alpha, targets and trigger words of a LoRA."""
    from memcard.jobs.lora import lora_info

    facts = lora_info(ref, base=base).to_dict()
    if as_json:
        _show.print_json(facts)
        return 0
    said = facts.pop("metadata")
    _show.print_facts({"title": said.get("modelspec.title") or said.get("ss_output_name"), **facts})
    if not facts["unmatched"] and base:
        click.echo(f"every layer fits {base}")
    return 0
