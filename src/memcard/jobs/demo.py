"""The tour: every kind of checkpoint makes the same pictures, and a sheet shows what it changes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard._version import __version__
from memcard.core.atomic import replacing
from memcard.core.extras import require
from memcard.core.progress import Listener, Notice, silent
from memcard.jobs._demo_page import page
from memcard.jobs.inspect import inspect
from memcard.jobs.merge import merge
from memcard.jobs.resolve import card_of, label, locate, names

if TYPE_CHECKING:
    from memcard.generation.grid import Row

PROMPTS = (
    "3d render of a dog face",
    "flat icon of a red apple",
    "cartoon of a pizza",
    "retro drawing of a cat face",
    "cartoon of a rocket, sky blue background",
    "3d render of a house, pink background",
    "flat icon of a rose",
    "red heart, retro drawing, yellow background",
)
KINDS = {"finetune": "fine-tune", "lora": "LoRA", "vae": "VAE", "raw": "raw weights"}


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the sheet: what is loaded, and how it is told to a shell."""

    label: str
    detail: str
    checkpoint: str | Path
    loras: tuple[tuple[str, float], ...] = ()
    vae: str | None = None
    cfg: float | None = None

    def command(self, seed: int) -> str:
        """Return the command that makes the first picture of this row."""
        parts = [f'memcard generate "{PROMPTS[0]}" -c {self.checkpoint}']
        parts += [f"--lora {ref}:{strength:g}" for ref, strength in self.loras]
        parts += [f"--vae {self.vae}"] if self.vae else []
        parts += [f"--cfg {self.cfg:g}"] if self.cfg is not None else []
        return " ".join([*parts, f"--seed {seed}"])


@dataclass(frozen=True, slots=True)
class Tour:
    """What the demo left behind.

    Attributes:
        sheet: PNG with one row per checkpoint and one column per prompt.
        merged: the checkpoint that was merged on the way.
        page: HTML page that shows both and says how to repeat them.
        checkpoints: a table: name, kind, size, parents, license.
        commands: what was done, as shell commands.
        pictures: number of pictures made.
        seconds: wall time.
    """

    sheet: Path
    merged: Path
    page: Path
    checkpoints: Sequence[Mapping[str, str]]
    commands: Sequence[str]
    pictures: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "sheet": str(self.sheet),
            "merged": str(self.merged),
            "page": str(self.page),
            "checkpoints": [dict(row) for row in self.checkpoints],
            "commands": list(self.commands),
            "pictures": self.pictures,
            "seconds": round(self.seconds, 1),
        }


def demo(
    out: str | Path = "memcard-demo",
    *,
    prompts: Sequence[str] = PROMPTS,
    seed: int = 1,
    progress: Listener = silent,
) -> Tour:
    """Make the tour on the built-in starter model; about a minute on two cores, no network.

    Args:
        out: folder; made if it is not there. Files of an earlier tour in it are replaced.
        prompts: the columns of the sheet.
        seed: of every picture.
        progress: hears each step as a command one can repeat.

    Raises:
        UsageError: torch and diffusers are not installed.
        DiskError: the folder cannot be written.
    """
    start = time.perf_counter()
    require("generate", what="The demo")
    out = Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    merged = out / "merged.safetensors"
    commands = [f"memcard inspect {name}" for name in names()[:1]]
    styles = [name for name in names() if "/finetune_" in name]
    _say(progress, commands[0])
    commands.append(
        f"memcard merge weighted_average starter {styles[0]} --weights 0.5,0.5 --out {merged}"
    )
    _say(progress, commands[1])
    merge(
        "weighted_average", ["starter", styles[0]], weights=(0.5, 0.5), out=merged, overwrite=True
    )
    lines = list(_lines(merged, styles))
    rows = [_row(line, prompts, seed, commands, progress) for line in lines]
    sheet = _write_sheet(rows, prompts, out / "sheet.png")
    checkpoints = [_facts(ref) for ref in (*names(), str(merged))]
    seconds = time.perf_counter() - start
    html = page(
        checkpoints=checkpoints,
        commands=commands,
        labels=[line.label for line in lines],
        seed=seed,
        seconds=seconds,
        version=__version__,
    )
    with replacing(out / "index.html") as file:
        file.write(html.encode())
    pictures = len(lines) * len(prompts)
    return Tour(sheet, merged, out / "index.html", checkpoints, commands, pictures, seconds)


def _lines(merged: Path, styles: Sequence[str]) -> Iterator[Line]:
    loras = [name for name in names() if "/lora_" in name]
    yield Line("base", "EMA weights, CFG 3", "starter", cfg=3)
    yield Line("base", "CFG 1: soft", "starter", cfg=1)
    yield Line("base", "CFG 7: burnt", "starter", cfg=7)
    yield Line("raw", "same step, not averaged", "starter/raw")
    for style in styles:
        yield Line(f"{_short(style)}", "fine-tune", style)
    for lora in loras:
        yield Line(f"{_short(lora)} 0.5", "LoRA at half strength", "starter", ((lora, 0.5),))
        yield Line(f"{_short(lora)} 1.0", "LoRA", "starter", ((lora, 1.0),))
    yield Line("merge", f"half base, half {_short(styles[0])}", merged)
    for vae in [name for name in names() if "/vae_" in name]:
        yield Line(f"{_short(vae)} VAE", "another decoder", "starter", vae=vae)


def _row(
    line: Line, prompts: Sequence[str], seed: int, commands: list[str], progress: Listener
) -> Row:
    from memcard.generation.grid import Row
    from memcard.jobs.generate import generate

    commands.append(line.command(seed))
    _say(progress, commands[-1])
    settings = {} if line.cfg is None else {"cfg": line.cfg}
    images = generate(
        prompts, line.checkpoint, line.loras, vae=line.vae, seed=seed, progress=progress, **settings
    )
    return Row(line.label, line.detail, images)


def _write_sheet(rows: Sequence[Row], prompts: Sequence[str], path: Path) -> Path:
    from memcard.generation.grid import sheet

    with replacing(path) as file:
        sheet(rows, prompts).save(file, "PNG", optimize=True)
    return path


def _facts(ref: str) -> dict[str, str]:
    """Return one line of the table of checkpoints."""
    path = locate(ref)
    report = inspect(path)
    card = card_of(report.metadata)
    kind = str(card.get("kind", "unknown"))
    parents = report.metadata.get("modelspec.merged_from") or ("starter" if kind in KINDS else "-")
    return {
        "checkpoint": label(str(path)),
        "kind": KINDS.get(kind, kind),
        "size": f"{report.size / 1e6:.1f} MB",
        "parents": parents,
        "license": str(card.get("license") or "unknown"),
    }


def _short(ref: str) -> str:
    return ref.rpartition("/")[2].partition("_")[2]


def _say(progress: Listener, command: str) -> None:
    progress(Notice(f"$ {command}"))
