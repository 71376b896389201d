"""Draw the starter's pictures: objects in five styles, 64x64 RGBA, from permissively licensed emoji.

Every icon set names its icons by the same Unicode (CLDR) slug, so one object is found in all sets
without a table. Sources: Microsoft Fluent Emoji (MIT), LobeHub fluent-emoji-3d (MIT), Google Noto
Emoji (Apache-2.0); see ``src/memcard/starter/NOTICE``.
"""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
SIZE = 64
MARGIN = 0.06  # share of the canvas left free on each side

PACKAGES = (
    "@lobehub/fluent-emoji-3d@1.1.0",
    "@iconify-json/fluent-emoji-flat@1.2.6",
    "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "@iconify-json/noto@1.2.9",
    "@iconify-json/noto-v1@1.2.5",
    "unicode-emoji-json@0.9.0",
)
SVG_PACKAGE = {
    "flat icon": "fluent-emoji-flat",
    "cartoon": "noto",
    "retro drawing": "noto-v1",
    "black stencil": "fluent-emoji-high-contrast",
}
STYLES = ("3d render", "flat icon", "cartoon", "retro drawing")  # what the base learns
NEW_STYLE = "black stencil"  # kept out of the base, for the derived checkpoints
NEWER_THAN = "retro drawing"  # Noto v1 ended in 2017: five newer objects lack this style


@dataclass(frozen=True)
class Pictures:
    """RGBA pictures (uint8, ``[n, 64, 64, 4]``, straight alpha) with object and style of each."""

    rgba: NDArray[np.uint8]
    objects: tuple[str, ...]
    styles: tuple[str, ...]

    def index(self) -> dict[tuple[str, str], int]:
        """Return the row of each (object, style)."""
        return {pair: i for i, pair in enumerate(zip(self.objects, self.styles, strict=True))}


def read_objects() -> list[str]:
    """Return the objects of ``objects.txt`` in file order."""
    return (HERE / "objects.txt").read_text(encoding="utf-8").split("\n")[:-1]


def read_held_out() -> set[tuple[str, str]]:
    """Return the (object, style) pairs of ``held_out.json``, which no UNet sees."""
    pairs = json.loads((HERE / "held_out.json").read_text(encoding="utf-8"))
    return {(thing, style) for thing, style in pairs}


def fetch_packages(folder: Path) -> Path:
    """Install the icon packages with npm into ``folder`` (about 70 MB) and return node_modules."""
    modules = folder / "node_modules"
    if not (modules / "unicode-emoji-json").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES]
        subprocess.run(command, cwd=folder, check=True)
    return modules


def fit(picture: Image.Image) -> NDArray[np.uint8]:
    """Scale with premultiplied alpha and centre on a transparent 64x64 canvas."""
    inner = round(SIZE * (1 - 2 * MARGIN))
    x = np.asarray(picture.convert("RGBA")).astype(np.float32)
    x[..., :3] *= x[..., 3:] / 255
    bands = [Image.fromarray(np.ascontiguousarray(x[..., c])) for c in range(4)]
    small = [band.resize((inner, inner), Image.Resampling.LANCZOS) for band in bands]
    y = np.stack([np.asarray(band) for band in small], axis=-1)
    alpha = np.clip(y[..., 3:], 0, 255)
    y[..., :3] = np.clip(y[..., :3] / np.maximum(alpha, 1) * 255, 0, 255)
    y[..., 3:] = alpha
    canvas = np.zeros((SIZE, SIZE, 4), np.uint8)
    edge = (SIZE - inner) // 2
    canvas[edge : edge + inner, edge : edge + inner] = y.round().astype(np.uint8)
    return canvas


def draw_svg(icons: dict, slug: str) -> Image.Image | None:
    """Rasterise one icon of an Iconify set, or return None if the set lacks it."""
    import resvg_py

    name = icons.get("aliases", {}).get(slug, {}).get("parent", slug)
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{width}" height="{height}" color="#202020">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIZE, height=2 * SIZE)
    return Image.open(io.BytesIO(bytes(png)))


def draw_object(
    modules: Path, sets: dict[str, dict], emoji: str, slug: str
) -> dict[str, Image.Image]:
    """Return the object's picture in every style that has one."""
    drawn = {}
    code = "-".join(f"{ord(c):04x}" for c in emoji)
    plain = "-".join(f"{ord(c):04x}" for c in emoji if ord(c) != 0xFE0F)
    for name in (code, plain, f"{plain}-fe0f"):
        webp = modules / "@lobehub/fluent-emoji-3d/assets" / f"{name}.webp"
        if webp.is_file():
            drawn["3d render"] = Image.open(webp)
            break
    for style, icons in sets.items():
        picture = draw_svg(icons, slug)
        if picture is not None:
            drawn[style] = picture
    return drawn


def draw_pictures(modules: Path, objects: list[str]) -> Pictures:
    """Draw all objects; refuse objects that lack a style, naming all of them at once."""
    emoji_of = json.loads((modules / "unicode-emoji-json/data-by-emoji.json").read_text("utf-8"))
    by_name = {facts["name"]: (emoji, facts["slug"]) for emoji, facts in emoji_of.items()}
    sets = {}
    for style, package in SVG_PACKAGE.items():
        text = (modules / "@iconify-json" / package / "icons.json").read_text("utf-8")
        sets[style] = json.loads(text)
    rgba, names, styles, faults = [], [], [], []
    for thing in objects:
        emoji, slug = by_name[thing]
        drawn = draw_object(modules, sets, emoji, slug.replace("_", "-"))
        missing = {*STYLES, NEW_STYLE} - {NEWER_THAN} - drawn.keys()
        if missing:
            faults.append(f"{thing}: no {', '.join(sorted(missing))}")
        for style in (*STYLES, NEW_STYLE):
            if style in drawn:
                rgba.append(fit(drawn[style]))
                names.append(thing)
                styles.append(style)
    if faults:
        raise SystemExit("objects.txt names objects that lack a style:\n" + "\n".join(faults))
    return Pictures(np.stack(rgba), tuple(names), tuple(styles))


def write_pictures(path: Path, pictures: Pictures) -> None:
    """Store pictures as an .npz without pickles."""
    np.savez_compressed(
        path,
        rgba=pictures.rgba,
        objects=np.array(pictures.objects),
        styles=np.array(pictures.styles),
    )


def read_pictures(path: Path) -> Pictures:
    """Read what ``write_pictures`` wrote."""
    stored = np.load(path, allow_pickle=False)
    objects, styles = stored["objects"].tolist(), stored["styles"].tolist()
    return Pictures(stored["rgba"], tuple(objects), tuple(styles))


def composite(rgba: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.float32]:
    """Lay ``[n, 64, 64, 4]`` on one colour and return ``[n, 3, 64, 64]`` in -1..1."""
    x = rgba.astype(np.float32) / 255
    alpha = x[..., 3:]
    flat = x[..., :3] * alpha + np.array(colour, np.float32) / 255 * (1 - alpha)
    return np.ascontiguousarray(flat.transpose(0, 3, 1, 2)) * 2 - 1
