"""The card of one checkpoint: what a person wants to know before using a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from memcard.cli import _show

if TYPE_CHECKING:
    from rich.table import Table

    from memcard.core.architecture import Component
    from memcard.core.report import Report

Row: TypeAlias = tuple[str, Sequence[str]]  # a label and its lines

MARKS: Mapping[str, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "unsafe": ("UNSAFE", "red"),
    "corrupt": ("CORRUPT", "red"),
    "unsupported": ("unsupported", "yellow"),
}
_KINDS: Mapping[str, str] = {
    "checkpoint": "checkpoint",
    "denoiser": "denoiser alone",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "image_encoder": "image encoder",
    "lora": "LoRA",
    "embedding": "embedding (textual inversion)",
    "controlnet": "ControlNet",
    "motion_module": "motion module",
    "ip_adapter": "IP-Adapter",
    "hypernetwork": "hypernetwork",
    "upscaler": "upscaler",
    "delta": "delta",
    "training": "training state",
    "unknown": "unknown",
}
_PREDICTIONS: Mapping[str, str] = {
    "epsilon": "the noise (epsilon)",
    "v_prediction": "v (v-prediction)",
    "flow": "a flow (rectified flow)",
    "edm": "the denoised image (EDM)",
}


def is_line(report: Report) -> str:
    """Return in one line what it is: ``Stable Diffusion XL, inpainting: checkpoint``."""
    identity = report.identity
    family = title(identity.architecture) if identity.architecture else None
    if len(identity.candidates) > 1:
        family = " or ".join(title(name) for name in identity.candidates)
    kind, variant = _KINDS[identity.kind], identity.variant
    if variant and variant.startswith(kind):  # "LoRA, rank 8" says it better
        kind, variant = variant, None
    if identity.kind in ("vae", "text_encoder", "image_encoder"):
        kind = ": ".join([kind, *(p.what for p in report.components.values() if p.what)][:2])
    named = ", ".join(part for part in (family, variant) if part)
    return f"{named}: {kind}" if named else kind


def title(architecture: str) -> str:
    """Return the title of a family."""
    from memcard.jobs.inspect import family_title

    return family_title(architecture)


def rows(report: Report) -> Iterator[Row]:
    """Yield labels and lines, the most wanted first; nothing that is empty."""
    identity = report.identity
    if report.tensors:
        yield "is", [is_line(report)]
    yield from _written(report)
    yield from _made_of(report)
    names = f", {identity.dialect} names" if identity.dialect else ""
    yield "file", [f"{report.format or 'unknown'}, {_show.human_size(report.size)}{names}"]
    yield from _lines("because", report.evidence)
    yield from _lines("safe", report.safety)
    yield from ((name, [text]) for name, text in report.digests.items())
    yield from _lines("why", report.faults)
    yield from _lines("note", report.notes)


def count(n: int) -> str:
    """Return a number of parameters as people say it: 860 M, 2.57 B."""
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return str(n)


def plain(report: Report) -> None:
    """Print the card as aligned lines, for files and pipes."""
    import click

    mark, color = MARKS[report.verdict]
    click.echo(_show.clean(f"{report.path}: ") + click.style(mark, fg=color, bold=True))
    _show.print_facts({label: list(lines) for label, lines in rows(report)})


def framed(report: Report) -> None:
    """Print the card in a frame, for a terminal."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    mark, color = MARKS[report.verdict]
    head = Text.assemble(
        (_show.clean(report.path.name), "bold"), "  ", (f" {mark} ", f"{color} reverse")
    )
    Console().print(Panel(_grid(report), title=head, title_align="left", border_style=color))


def _grid(report: Report) -> Table:
    from rich.table import Table
    from rich.text import Text

    loud = {"why": "red", "missing": "yellow", "note": "yellow", "is": "bold"}
    quiet = {"because", "safe", "file", "tensors"}
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, lines in rows(report):
        style = loud.get(label, "dim" if label in quiet else "")
        grid.add_row(label, Text("\n".join(_show.clean(line) for line in lines), style=style))
    return grid


def _made_of(report: Report) -> Iterator[Row]:
    """Yield the parts, those that are missing, and what their values are."""
    identity = report.identity
    if report.components:
        yield "holds", _columns([_part(name, p) for name, p in report.components.items()])
    yield from _lines("missing", identity.missing)
    if identity.prediction:
        yield "predicts", [_prediction(report)]
    if identity.ema:
        yield "EMA", ["smoothed weights lie beside the raw ones; convert --only ema takes them"]
    if identity.quantization:
        yield "quantized", [identity.quantization]
    if report.tensors:
        dtypes = ", ".join(f"{d} {_show.human_size(n)}" for d, n in report.dtypes.items())
        total = f"{len(report.tensors)}, {count(report.parameters)} parameters: {dtypes}"
        yield "tensors", [total]


def _lines(label: str, lines: Sequence[str]) -> Iterator[Row]:
    if lines:
        yield label, list(lines)


def _written(report: Report) -> Iterator[Row]:
    """Yield what the file says about itself."""
    spec, training = report.modelspec, report.training
    for key in ("title", "author", "trigger_phrase", "usage_hint", "merged_from"):
        if spec.get(key):
            yield key.replace("_", " "), [spec[key]]
    if spec.get("license"):
        yield "license", [spec["license"]]
    if training:
        facts = [f"{k} {v}" for k, v in training.items() if k != "tags"]
        yield "trained", [", ".join(facts[i : i + 4]) for i in range(0, len(facts), 4)]
    if tags := training.get("tags"):
        yield "captions", [", ".join(f"{tag} ({n})" for tag, n in tags.items())]


def _part(name: str, part: Component) -> list[str]:
    dtypes = "+".join(part.dtypes) or ""
    size = _show.human_size(part.nbytes) if part.nbytes else ""
    return [name, count(part.parameters), dtypes, size, part.what or ""]


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _prediction(report: Report) -> str:
    identity = report.identity
    what = _PREDICTIONS.get(identity.prediction or "", str(identity.prediction))
    why = "; ".join(identity.prediction_evidence)
    return f"{what}: {why}" if why else what


def summary(reports: Sequence[Report]) -> list[list[str]]:
    """Return one line a file: verdict, what it is, dtypes, size, path."""
    return [
        [
            MARKS[r.verdict][0],
            is_line(r) if r.tensors else (r.format or "-"),
            "+".join(list(r.dtypes)[:2]),
            _show.human_size(r.size),
            str(r.path),
        ]
        for r in reports
    ]


def totals(reports: Sequence[Report]) -> str:
    """Return how many files there are of each verdict, and their size."""
    verdicts: dict[str, Any] = {}
    for report in reports:
        verdicts[report.verdict] = verdicts.get(report.verdict, 0) + 1
    told = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items())
    size = _show.human_size(sum(report.size for report in reports))
    return (
        f"{_show.counted(len(reports), 'checkpoint')}, {size}: {told}"
        if reports
        else "no checkpoints here"
    )
