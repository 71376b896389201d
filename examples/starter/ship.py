"""Turn finished training states into the files of ``src/memcard/starter``.

    python ship.py --work DIR --out src/memcard/starter [--vae OLD_BASE]

The base is replaced only if its score has risen (``--force`` skips the comparison). Derived files are
bound to the base by its sha256, so they are always written again after it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from export import (
    ARCHITECTURE,
    SHIPPED,
    Label,
    half,
    ldm_tensors,
    lora_label,
    write_file,
    write_overlay,
)
from ldm_names import UNET, VAE
from painter import read_painter
from pictures import STYLES, read_held_out, read_objects, read_pictures
from safetensors.torch import load_file
from score import COMMON, Judge, accuracy, answers
from torch import Tensor
from training_run import AVERAGE, facts_of, newest, read_tensors, run_folder


def training_facts(work: Path) -> dict[str, object]:
    """Return what the base cost, including the earlier run it went on from, if any."""
    earlier = {"steps": 0, "samples": 0, "cpu_minutes": 0}
    if (work / "earlier.json").is_file():
        earlier = json.loads((work / "earlier.json").read_text())
    facts = facts_of(run_folder(work, "base"))
    pictures = read_pictures(work / "pictures.npz")
    images = sum(style in STYLES for style in pictures.styles) - len(read_held_out())
    return {
        "data images": images,
        "objects": len(read_objects()),
        "styles": list(STYLES),
        "steps": earlier["steps"] + facts["steps"],
        "samples": earlier["samples"] + facts["samples"],
        "cpu_minutes": earlier["cpu_minutes"] + round(facts["cpu_minutes"]),
        "loss": facts["loss"],
        "seed": 0,
    }


def ship_base(work: Path, vae: dict[str, Tensor], out: Path) -> None:
    """Write base.safetensors (averaged weights) and raw.safetensors (raw, same step)."""
    save = newest(run_folder(work, "base")).path
    facts = training_facts(work)
    full = {}
    for kind, prefix in (("ema", f"ema.{AVERAGE}."), ("raw", "model.")):
        full[kind] = ldm_tensors(read_tensors(save, prefix)) | vae
    # Only the UNet is shipped raw: the text encoder's average is as good, and 1.2 MB would double.
    full["raw"] |= {n: t for n, t in full["ema"].items() if not n.startswith(UNET)}
    title = "memcard starter"
    base = Label(
        kind="base",
        title=title,
        description=f"A miniature Stable Diffusion: {facts['objects']} objects in 4 styles.",
        training=facts,
    )
    write_file(out / "base.safetensors", full["ema"], base)
    raw = Label(
        kind="raw",
        title=f"{title}, raw weights",
        description="The UNet of the same step before averaging (EMA); an overlay on the base.",
        training=facts,
    )
    write_overlay(out / "raw.safetensors", full["raw"], raw, out)


def ship_finetune(facts: dict, tensors: dict[str, Tensor], out: Path) -> None:
    """Write what a fine-tune changed as an overlay of whole tensors."""
    look = facts["look"]
    label = Label(
        kind="finetune",
        title=f"memcard starter: {look}",
        description=f"Fine-tune that paints every prompt as {look}; an overlay on the base.",
        trigger=look,
        training=facts,
    )
    write_overlay(out / f"{facts['name']}.safetensors", tensors, label, out)


def ship_lora(facts: dict, tensors: dict[str, Tensor], out: Path) -> None:
    """Write a LoRA with the starter's own label."""
    base = hashlib.sha256((out / "base.safetensors").read_bytes()).hexdigest()
    rank = facts["rank"]
    label = lora_label(facts["look"], facts["look"], rank, float(rank), base, facts)
    write_file(out / f"{facts['name']}.safetensors", half(tensors), label)


def ship_vae(facts: dict, tensors: dict[str, Tensor], out: Path) -> None:
    """Write the second decoder."""
    label = Label(
        kind="vae",
        title="memcard starter VAE: crisp",
        description="A second decoder for the same latents: sharper edges, stronger contrast.",
        architecture=f"{ARCHITECTURE}/vae",
        parents=(hashlib.sha256((out / "base.safetensors").read_bytes()).hexdigest(),),
        training=facts,
    )
    named = ldm_tensors({f"vae.{n}": t for n, t in tensors.items()})
    write_file(out / f"{facts['name']}.safetensors", named, label)


def common_score(base: Path, work: Path) -> float:
    """Return the share of common objects painted right in object and style."""
    judge = Judge(read_pictures(work / "pictures.npz"))
    pairs = [(o, s) for s in STYLES for o in COMMON]
    return accuracy(answers(read_painter(base), judge, pairs), pairs)["both"]


def main() -> None:
    """Write the base if it is better, then everything derived from it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--vae", type=Path, default=SHIPPED / "base.safetensors")
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()
    vae = {n: t for n, t in load_file(args.vae).items() if n.startswith(VAE)}
    new, old = args.work / "candidate", args.out / "base.safetensors"
    new.mkdir(exist_ok=True)
    ship_base(args.work, vae, new)
    if not args.force and old.is_file():
        scores = [common_score(path, args.work) for path in (new / "base.safetensors", old)]
        if scores[0] <= scores[1]:
            raise SystemExit(f"kept the old base: it scores {scores[1]}, the new one {scores[0]}")
    for name in ("base.safetensors", "raw.safetensors"):
        part = args.out / f".{name}.part"
        part.write_bytes((new / name).read_bytes())
        part.replace(args.out / name)
    writers = {"finetune": ship_finetune, "lora": ship_lora, "vae": ship_vae}
    for path in sorted((args.work / "derived").glob("*.json")):
        facts = json.loads(path.read_text())
        writers[facts["kind"]](facts, load_file(path.with_suffix(".safetensors")), args.out)


if __name__ == "__main__":
    main()
