"""memcard lora: add-ons that adjust a base without replacing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memcard.cli import _show
from memcard.cli._types import Rule, Weighted


@click.group()
def command() -> None:
    """Bake LoRAs into a checkpoint, extract, combine or convert them, look inside."""


@command.command(
    epilog=_show.examples(
        "memcard lora bake base.safetensors style.safetensors:0.8 --out styled.safetensors",
        "memcard lora bake starter starter/lora_pixel:0.5 --out half-pixel.safetensors",
        "memcard lora bake base.safetensors s.safetensors --blocks text_encoder=0 --out o.safetensors",
        "memcard lora bake base.safetensors s.safetensors --blocks OUTALL --out o.safetensors",
    )
)
@click.argument("base")
@click.argument("loras", nargs=-1, required=True, type=Weighted())
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--blocks",
    multiple=True,
    metavar="REGEX=NUMBER",
    help="Multiply the strength in modules whose name REGEX finds; the first that does counts. "
    "Names look like unet_up_blocks_1_attentions_0_proj_in. Also a preset such as OUTALL or MIDD, or "
    "12, 17, 20, 26 or 61 numbers, one for each block.",
)
@click.option("--skip-unmatched", is_flag=True, help="Leave out keys that fit nothing in BASE.")
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@_show.json_option
def bake(
    base: str,
    loras: tuple[tuple[str, float], ...],
    out: Path,
    blocks: tuple[str, ...],
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
            blocks=_blocks(blocks),
            overwrite=overwrite,
            dry_run=dry_run,
            progress=progress,
        )
    _show.print_made(result, as_json=as_json)
    return 0


def _blocks(texts: tuple[str, ...]) -> list[tuple[str, float]]:
    """Read rules, presets and lists, in the order given."""
    from memcard.jobs.lora import block_strengths

    rule, found = Rule(), list[tuple[str, float]]()
    for text in texts:
        found += [rule.convert(text, None, None)] if "=" in text else block_strengths(text)
    return found


@command.command(
    epilog=_show.examples(
        "memcard lora extract base.safetensors tuned.safetensors --rank 32 --out style.safetensors",
        "memcard lora extract base.safetensors tuned.safetensors --rank 128 --energy 0.99 --out s.safetensors",
        "memcard lora extract a.safetensors b.safetensors --out s.safetensors --keep-residual rest.safetensors",
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
@click.option(
    "--keep-residual",
    "residual",
    type=click.Path(path_type=Path),
    help="Also write what the LoRA misses, a lossless delta of BASE with the LoRA baked in.",
)
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
    residual: Path | None,
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
            residual=residual,
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
            "residual": _residual(result.residual),
        }
    )
    return 0


def _residual(delta: Any) -> str | None:
    """Say where the residual is and how large."""
    if delta is None:
        return None
    share = delta.nbytes / delta.result_bytes
    return f"{delta.out}, {_show.human_size(delta.nbytes)} ({share:.0%} of the fine-tune)"


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


@command.command(
    epilog=_show.examples(
        "memcard lora convert style.safetensors --to diffusers --out style-diffusers.safetensors",
        "memcard lora convert style.safetensors --to peft --out adapter/",
        "memcard lora convert adapter/ --to kohya --family sdxl --out style.safetensors",
    )
)
@click.argument("lora")
@click.option(
    "--to",
    type=click.Choice(["kohya", "peft", "diffusers"]),
    required=True,
    help="Whose names: kohya (also A1111, ComfyUI), peft or diffusers.",
)
@click.option("-o", "--out", required=True, help="File to write; for PEFT also FOLDER/.")
@click.option(
    "--family", help="Of its base, where the file does not tell: sd1, sd2, sdxl, sd3, flux."
)
@click.option("--base", help="A checkpoint to take the names from, for models of unusual size.")
@click.option(
    "--fold-alpha",
    is_flag=True,
    help="Multiply alpha / rank into the factors, for programs that read no configuration.",
)
@_show.force_option
@_show.json_option
def convert(
    lora: str,
    to: str,
    out: str,
    family: str | None,
    base: str | None,
    fold_alpha: bool,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Write LORA in the names of another program; what it changes stays the same."""
    from memcard.jobs.lora_convert import lora_convert

    with _show.progress() as progress:
        result = lora_convert(
            *(lora, out),
            to=to,
            family=family,
            base=base,
            fold_alpha=fold_alpha,
            overwrite=overwrite,
            progress=progress,
        )
    facts = result.to_dict()
    if as_json:
        _show.print_json(facts)
        return 0
    shown = {**facts, "size": _show.human_size(result.nbytes), "nbytes": None}
    _show.print_facts(
        {**shown, "joined": f"{result.joined} split or joined" if result.joined else None}
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
