"""memcard lora: add-ons that adjust a base without replacing it."""

from __future__ import annotations

from pathlib import Path

import click

from memcard.cli import _show
from memcard.cli._types import Rule, Weighted


@click.group()
def command() -> None:
    """Bake LoRAs into a checkpoint, extract them from one, combine them, look inside."""


@command.command(
    epilog=_show.examples(
        "memcard lora bake base.safetensors style.safetensors:0.8 --out styled.safetensors",
        "memcard lora bake starter starter/lora_neon:0.5 --out half-neon.safetensors",
        "memcard lora bake base.safetensors s.safetensors --blocks text_encoder=0 --out o.safetensors",
    )
)
@click.argument("base")
@click.argument("loras", nargs=-1, required=True, type=Weighted())
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--blocks",
    multiple=True,
    type=Rule(),
    help="Multiply the strength in modules whose name REGEX finds; the first that does counts. "
    "Names look like unet_up_blocks_1_attentions_0_proj_in.",
)
@click.option("--skip-unmatched", is_flag=True, help="Leave out keys that fit nothing in BASE.")
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@_show.json_option
def bake(
    base: str,
    loras: tuple[tuple[str, float], ...],
    out: Path,
    blocks: tuple[tuple[str, float], ...],
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
            blocks=blocks,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=progress,
        )
    _show.print_made(result, as_json=as_json)
    return 0


@command.command(
    epilog=_show.examples(
        "memcard lora extract base.safetensors tuned.safetensors --rank 32 --out style.safetensors",
        "memcard lora extract base.safetensors tuned.safetensors --rank 128 --energy 0.99 --out s.safetensors",
    )
)
@click.argument("base")
@click.argument("tuned")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--rank", default=32, show_default=True, help="Of every layer; with --energy at most."
)
@click.option("--energy", type=float, help="Share of each layer's squared change to keep, up to 1.")
@click.option("--dtype", default="F16", show_default=True, help="F16, BF16 or F32.")
@click.option("--seed", default=0, show_default=True, help="Of the randomised SVD.")
@_show.force_option
@_show.json_option
def extract(
    base: str,
    tuned: str,
    out: Path,
    rank: int,
    energy: float | None,
    dtype: str,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Write a LoRA of what TUNED changed in BASE, with its error layer by layer."""
    from memcard.jobs.lora_extract import lora_extract

    with _show.progress() as progress:
        result = lora_extract(
            *(base, tuned, out),
            rank=rank,
            energy=energy,
            dtype=dtype.upper(),
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        _show.print_json(result.to_dict())
        return 0
    worst = sorted(result.layers, key=lambda layer: -layer.error)
    rows = [[x.name, "x".join(map(str, x.shape)), str(x.rank), f"{x.error:.3%}"] for x in worst]
    click.echo(_show.table(rows[:20], header=["layer, worst first", "shape", "rank", "error"]))
    _show.print_facts(
        {
            "out": str(result.out),
            "size": _show.human_size(result.nbytes),
            "layers": f"{len(result.layers)} changed, {result.unchanged} equal in both",
            "error over all layers": f"{result.error:.3%}",
            "left out": list(result.left_out),
        }
    )
    return 0


@command.command(
    epilog=_show.examples(
        "memcard lora combine ink.safetensors:0.8 neon.safetensors:0.5 --out both.safetensors",
        "memcard lora combine a.safetensors b.safetensors --rank 32 --dtype F16 --out small.safetensors",
    )
)
@click.argument("loras", nargs=-1, required=True, type=Weighted())
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option("--rank", type=int, help="Compress to this rank; without it the result is exact.")
@click.option("--dtype", default="F32", show_default=True, help="F16, BF16 or F32.")
@_show.force_option
@_show.json_option
def combine(
    loras: tuple[tuple[str, float], ...],
    out: Path,
    rank: int | None,
    dtype: str,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Write one LoRA that does what LORAS do together, each at its strength (LORA:0.8)."""
    from memcard.jobs.lora_combine import lora_combine

    with _show.progress() as progress:
        result = lora_combine(
            loras, out, rank=rank, dtype=dtype.upper(), overwrite=overwrite, progress=progress
        )
    facts = result.to_dict()
    if as_json:
        _show.print_json(facts)
        return 0
    lost = "nothing: exact" if result.exact else f"up to {result.error:.3%} of a layer's change"
    _show.print_facts(
        {
            "out": facts["out"],
            "size": _show.human_size(result.nbytes),
            "layers": result.layers,
            "ranks": facts["ranks"],
            "lost": lost,
        }
    )
    return 0


@command.command(epilog=_show.examples("memcard lora info style.safetensors"))
@click.argument("ref")
@click.option("--base", help="Also say what fits this checkpoint and what does not.")
@_show.json_option
def info(ref: str, base: str | None, as_json: bool) -> int:
    """Print kind, names, rank, alpha, targets and trigger words of a LoRA."""
    from memcard.jobs.lora_info import lora_info

    facts = lora_info(ref, base=base).to_dict()
    if as_json:
        _show.print_json(facts)
        return 0
    said = facts.pop("metadata")
    _show.print_facts({"title": said.get("modelspec.title") or said.get("ss_output_name"), **facts})
    if not facts["unmatched"] and base:
        click.echo(f"every layer fits {base}")
    return 0
