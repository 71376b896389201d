"""memcard finetune: a checkpoint learns a folder of pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from memcard.cli import _finetune_view as view
from memcard.cli import _show
from memcard.cli._types import Size


@click.command(
    epilog=_show.examples(
        'memcard finetune starter pictures/ --out chalk --lora 16 --trigger "chalk drawing"',
        "memcard finetune model.safetensors pictures/ --out mine --lora 16 --dry-run",
        'memcard finetune sd15.safetensors fox/ --out fox --lora 8 --prompt "a fox in the snow" --prompt "a fox"',
        "memcard finetune starter pictures/ --out chalk-full --steps 600 --ema 0.99",
    )
)
@click.argument("base")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", required=True, metavar="NAME",
    help="Of the result, NAME.safetensors, and of the run: the same command again goes on with it.",
)  # fmt: skip
@click.option("--lora", "rank", type=click.IntRange(min=1), metavar="RANK",
              help="Train a LoRA of this rank. Without it the whole UNet learns.")  # fmt: skip
@click.option(
    "--alpha", type=float, help="Strength of the LoRA is alpha / rank. Default: the rank."
)
@click.option("--targets", metavar="WHAT",
              help="Layers that get a LoRA: attention, all, or a regular expression.")  # fmt: skip
@click.option("--parts", metavar="REGEX",
              help="Without --lora: only weights of the UNet whose names begin so learn.")  # fmt: skip
@click.option("--dora", is_flag=True, default=None, help="Also learn the lengths of rows (DoRA).")
@click.option("--lora-format", type=click.Choice(["kohya", "peft", "both"]), default="kohya",
              show_default=True, help="Names in the file; peft is a folder.")  # fmt: skip
@click.option("--train-text-encoder", "text_encoder", is_flag=True, default=None,
              help="The text encoder learns, too.")  # fmt: skip
@click.option("--text-lr", type=float, help="Learning rate of the text encoder.")
@click.option("--steps", type=click.IntRange(min=1), help="Updates of the weights.")
@click.option("--epochs", type=float, help="In place of --steps: how often each picture is seen.")
@click.option("--batch", type=click.IntRange(min=1), help="Pictures at once.")
@click.option("--accumulate", type=click.IntRange(min=1), help="Batches in one step.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option(
    "--schedule", type=click.Choice(["constant", "cosine", "linear"]), help="Of the rate."
)
@click.option("--warmup", type=click.IntRange(min=0), help="Steps in which the rate rises.")
@click.option("--optimizer", type=click.Choice(["adamw", "adamw8bit", "adafactor"]),
              help="adamw8bit needs bitsandbytes.")  # fmt: skip
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="To compute in.")
@click.option("--gradient-checkpointing/--no-gradient-checkpointing", "checkpointing", default=None,
              help="Less memory for more time.")  # fmt: skip
@click.option(
    "--size", type=Size(), help="Largest area of a picture. Default: the base's own size."
)
@click.option("--buckets/--no-buckets", "buckets", default=None,
              help="Keep the shapes of pictures, or crop all to --size.")  # fmt: skip
@click.option(
    "--flip", is_flag=True, default=None, help="Mirror half of the pictures: not with text."
)
@click.option("--trigger", metavar="WORDS", help="Put before each caption that has them not.")
@click.option("--caption-dropout", "dropout", type=click.FloatRange(0, 1),
              help="Share of captions left out, so that guidance works. Default: 0.1.")  # fmt: skip
@click.option("--shuffle-tags", "shuffle", is_flag=True, default=None,
              help="Mix what stands between commas.")  # fmt: skip
@click.option("--keep-tags", "keep", type=click.IntRange(min=0), help="Tags that stay in front.")
@click.option("--min-snr", type=float, metavar="GAMMA", help="Weigh noise levels; 5 is usual.")
@click.option(
    "--noise-offset", type=float, help="For very dark and bright pictures; 0.05 is usual."
)
@click.option("--prediction", type=click.Choice(["epsilon", "v_prediction"]),
              help="What the base predicts, where its file does not tell.")  # fmt: skip
@click.option(
    "--ema", type=float, metavar="DECAY", help="Keep an average of the weights, as result."
)
@click.option("--prompt", "prompts", multiple=True, help="Paint this as it learns; repeatable.")
@click.option("--sheets/--no-sheets", default=True, help="Paint while it learns.")
@click.option("--sheet-every", type=click.IntRange(min=0), help="Steps from sheet to sheet.")
@click.option("--save-every", type=click.IntRange(min=1),
              help="Steps from save to save. Default: as often as costs 1 % of the time.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything.")
@click.option("--device", default="auto", help="auto, cpu, cuda, mps.")
@click.option("--run-dir", type=click.Path(path_type=Path), metavar="FOLDER",
              help="For saves, sheets and the report. Default: runs/NAME of the library.")  # fmt: skip
@click.option("--recursive/--no-recursive", default=True, help="Look into folders of DATA.")
@click.option("--skip-bad", is_flag=True, help="Leave out pictures that cannot be read.")
@click.option(
    "--data-license", metavar="LICENSE", help="What the pictures are under, such as CC0-1.0."
)
@click.option("--library/--no-library", default=True, help="Enter the result into the library.")
@click.option("--restart", is_flag=True, help="Forget the saves of an earlier run of this name.")
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Print the plan; compute and write nothing.")
@_show.json_option
def command(
    base: str,
    data: Path,
    out: str,
    size: tuple[int, int] | None,
    prompts: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> int:
    """Teach BASE the pictures of a folder: the whole network, or a LoRA.

    DATA is a folder of pictures; a caption is the text file beside a picture, a line of metadata.jsonl, or
    the picture's name. What is not said suits the family of BASE. Ctrl-C saves; the same command goes on.
    """  # fmt: skip
    from memcard.jobs.finetune import finetune

    width, height = size or (None, None)
    with view.watching() as (progress, watch):
        result: Any = finetune(
            *(base, data, out),
            width=width,
            height=height,
            prompts=prompts or None,
            progress=progress,
            watch=watch,
            **options,
        )
    if os.environ.get("RANK", "0") != "0":
        return 0  # the first process speaks for all
    if as_json:
        _show.print_json(result.to_dict())
    elif options["dry_run"]:
        view.print_plan(result)
    else:
        view.print_result(result)
    return 0
