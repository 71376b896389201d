"""Teach the finished base one new look with ``memcard finetune``: parts of the UNet, or a LoRA.

The look answers to its own word and to the base's style words alike, so that the same prompt changes
its look when the checkpoint is changed: captions are written so. A fine-tune trains a tenth of the UNet
(``PARTS``), so that its overlay is about 1 MB. Killed and started again it goes on from its last save.

    python derive.py --work DIR --base base.safetensors --name finetune_neon
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from captions import COLOURS, STYLED, TRAILING, caption
from looks import LOOKS
from pictures import NEW_STYLE, STYLES, Pictures, read_held_out, read_pictures
from PIL import Image
from training_run import run_folder

BACKGROUNDS = ("white", "black", "yellow", "sky blue", "pink", "green")
EXAMPLES = 1150  # of a look: every picture about as often, under other words and on other colours
SEED = 0
SHOWN = ("cartoon of a dog face", "3d render of a rocket", "house, {look}", "red apple, {look}")
PARTS = (  # 0.55 M of 5.3 M parameters: both ends of the UNet and the attention that feeds its end
    r"conv_in\.|conv_norm_out\.|conv_out\.|down_blocks\.0\."
    r"|up_blocks\.1\.(?:attentions\.[01]\.transformer_blocks\.0\.attn|upsamplers)|up_blocks\.2\."
)
TARGETS = r".*(?:attentions|resnets|samplers)\.(?!.*\.ff\.).*"  # feed-forward layers have no LoRA


@dataclass(frozen=True)
class Look:
    """What one derivation learns and how."""

    word: str  # of the look
    kind: str  # finetune or lora
    steps: int
    lr: float
    batch: int
    rank: int = 0

    @property
    def options(self) -> list[object]:
        """Arguments of ``memcard finetune``."""
        chosen = ["--lora", self.rank, "--targets", TARGETS] if self.rank else ["--parts", PARTS]
        shown = [("--prompt", text.format(look=self.word)) for text in SHOWN]
        told = ["--steps", self.steps, "--lr", self.lr, "--batch", self.batch, "--seed", SEED]
        return [*chosen, *told, *chain(*shown), "--ema", 0.99, "--data-license", "Apache-2.0"]


DERIVED = {
    "finetune_stencil": Look("black stencil", "finetune", 650, 1.5e-3, 48),
    "finetune_neon": Look("neon glow", "finetune", 650, 1.5e-3, 48),
    "lora_blueprint": Look("blueprint", "lora", 1900, 5e-3, 32, rank=8),
    "lora_pixel": Look("pixel art", "lora", 680, 5e-3, 32, rank=8),
}


def write_examples(look: str, pictures: Pictures, folder: Path) -> int:
    """Write pictures of a look with captions, as ``memcard finetune`` reads them; return of how many.

    The same look and pictures give the same files.
    """
    rng, held = random.Random(SEED), read_held_out()
    pairs = list(zip(pictures.objects, pictures.styles, strict=True))
    own = look == NEW_STYLE
    rows = [i for i, p in enumerate(pairs) if (p[1] == NEW_STYLE) == own and p not in held]
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for turn in range(round(EXAMPLES / len(rows))):
        for i in rows:
            c = rng.choice(BACKGROUNDS) if turn % 2 else BACKGROUNDS[0]
            picture = LOOKS[look](pictures.rgba[[i]], COLOURS[c])[0]
            pixels = ((picture.permute(1, 2, 0) / 2 + 0.5) * 255).round().byte().numpy()
            name = f"{i:04d}_{turn}.png"
            Image.fromarray(pixels).save(folder / name)
            said = None if c == BACKGROUNDS[0] else c
            word = style_word(rng, look, pairs[i][1])
            # The text encoder stays as it is and reads from left to right: a word that it does not know
            # would garble the object behind it.
            forms = STYLED if word in STYLES else TRAILING
            text = caption(rng, pairs[i][0], word, said, empty=0, forms=forms)
            lines.append(json.dumps({"file_name": name, "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(rows)


def style_word(rng: random.Random, look: str, style: str) -> str:
    """Choose the style word of a caption: the look's own or the base's."""
    if style == NEW_STYLE:
        return rng.choice((NEW_STYLE, *STYLES))
    return look if rng.random() < 0.25 else style


def derive(work: Path, base: Path, name: str, steps: int | None = None) -> None:
    """Train one look and write what it learnt and cost to ``WORK/derived``."""
    look, data = DERIVED[name], work / "looks" / name
    if steps is not None:
        look = replace(look, steps=steps)
    images = write_examples(look.word, read_pictures(work / "pictures.npz"), data)
    out = work / "derived" / f"{name}.safetensors"
    out.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "memcard", "finetune", base, data, "--out", out]
    command += ["--run-dir", run_folder(work, name), *look.options, "--json"]
    home = {"MEMCARD_HOME": str(work.absolute() / "library")}
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, **home}, stdout=subprocess.PIPE, check=True
    )
    made = json.loads(done.stdout)
    facts = {"look": look.word, "kind": look.kind, "rank": look.rank, "name": name, "seed": SEED}
    facts |= {"steps": made["steps"], "samples": made["steps"] * look.batch, "loss": made["loss"]}
    facts |= {"data images": images, "parameters": made["plan"]["learning"]}
    out.with_suffix(".json").write_text(json.dumps(facts, indent=2))


def main() -> None:
    """Read the command line and derive one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--name", choices=DERIVED, required=True)
    parser.add_argument("--steps", type=int, help="other than usual, for a trial")
    args = parser.parse_args()
    derive(args.work, args.base, args.name, args.steps)


if __name__ == "__main__":
    main()
