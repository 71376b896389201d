"""memcard picture: how a picture was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.jobs.image_info import ImageInfo


@click.command(
    epilog=_show.examples(
        "memcard picture rocket.png",
        "memcard picture *.png --json | jq '.[].settings'",
        "memcard picture comfyui.png --raw prompt",
    )
)
@click.argument("paths", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--raw", metavar="KEYWORD", help="Print this text as it stands in the file.")
@_show.json_option
def command(paths: tuple[str, ...], raw: str | None, as_json: bool) -> int:
    """Say how a picture was made, and with which of your files it can be made again.

    Reads PNG, JPEG, WebP, MP4 and GIF of memcard, A1111, Forge, SD.Next, ComfyUI, SwarmUI, Fooocus, InvokeAI, NovelAI and
    Civitai; never the pixels. With --json one IMAGE prints an object, several a list. Ends with 1 if a picture
    does not say how it was made.
    """
    from memcard.jobs.image_info import read_image, request_of

    infos = {path: read_image(path) for path in paths}
    if raw is not None:
        return _raw(infos, raw)
    facts = []
    for i, (path, info) in enumerate(infos.items()):
        asked = request_of(info, folder=Path(path).parent)
        again = {"found": list(asked.found), "missing": list(asked.missing)}
        facts.append({"path": path, **info.to_dict(), "again": again})
        if not as_json:
            click.echo(nl=i > 0)
            _show.print_facts(_readable(path, info, [*asked.found, *asked.missing]))
    if as_json:
        _show.print_json(facts[0] if len(facts) == 1 else facts)
    return 0 if all(_says(info) for info in infos.values()) else 1


def _says(info: ImageInfo) -> bool:
    return bool(info.prompt or info.settings or info.checkpoint)


def _raw(infos: dict[str, ImageInfo], keyword: str) -> int:
    for path, info in infos.items():
        if keyword not in info.raw:
            there = ", ".join(info.raw) or "none"
            raise click.UsageError(f"{path}: has no text {keyword!r}. There are: {there}.")
    for info in infos.values():
        click.echo(_show.clean(info.raw[keyword]))
    return 0


def _readable(path: str, info: ImageInfo, files: list[str]) -> dict[str, Any]:
    used, vae, said = info.checkpoint, info.vae, dict(info.settings)
    if "width" in said and "height" in said:
        said["size"] = f"{said.pop('width')}x{said.pop('height')}"
    if said.get("frames") == 1:
        said = {name: value for name, value in said.items() if name not in ("frames", "fps")}
    said = {name: value for name, value in said.items() if value != 0}  # 0 is off
    loras = [f"{lora.name}: {lora.strength:g}" for lora in info.loras]
    return {
        "path": path,
        "made by": info.tool,
        "prompt": info.prompt,
        "negative": info.negative,
        "checkpoint": None
        if used is None
        else " ".join([used.name, *(h[:12] for h in used.hashes)]),
        "vae": None if vae is None else vae.name,
        "loras": loras,
        "seed": None if info.seed is None else str(info.seed),
        **{name: f"{v:g}" if isinstance(v, float) else v for name, v in said.items()},
        "recipe": info.recipe,
        "your files": files,
        "notes": list(info.notes),
    }
