"""A finished comparison becomes labelled sheets, one HTML page, or a folder with both and all pictures."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memcard._version import __version__
from memcard.core.atomic import replacing
from memcard.core.progress import Listener, Notice
from memcard.errors import NotFoundError, UsageError
from memcard.jobs._compare_axes import worded
from memcard.jobs._compare_cells import Plan, Planned, Wish
from memcard.jobs._compare_store import Store, read_cell
from memcard.jobs.resolve import label, locate

if TYPE_CHECKING:
    from PIL.Image import Image

    from memcard.generation.settings import Settings
    from memcard.generation.table import Slot, Table

_MARK: Final = "memcard_compare"  # of our sheets: a text in the PNG
_INDEX, _LIST, _CELLS = "index.html", "comparison.json", "cells"
_LARGE: Final = 150_000_000  # bytes of a page that browsers are slow with
_STEM, _WORD = 120, 24  # characters of a file name, and of what one axis adds to it


def refuse_outputs(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Look at where results shall go before hours are spent on them.

    Raises:
        UsageError: a file is there that no comparison wrote, or its kind is unknown.
        NotFoundError: the folder above is not there.
    """
    for path in (Path(p).expanduser() for p in paths):
        suffix = path.suffix.lower()
        if not path.is_dir() and suffix not in ("", ".png", ".html", ".htm"):
            raise UsageError(
                f"{path}: comparisons become .png, .html, or a folder; use such a name."
            )
        if not path.parent.is_dir():
            raise NotFoundError(f"{path.parent}: no such folder. Make it first.")
        _refuse(path, overwrite)


def _refuse(path: Path, overwrite: bool) -> None:
    """Raise if ``path`` is something a comparison did not make; its own results are brought up to date."""
    if overwrite or not path.exists():
        return
    if path.is_dir():
        ours = not any(path.iterdir()) or (path / _LIST).is_file()
    elif path.suffix.lower() == ".png":
        ours = _is_sheet(path)
    else:
        with path.open("rb") as file:
            ours = _generator().encode() in file.read(2000)
    if not ours:
        raise UsageError(
            f"{path}: is there, and no comparison made it. Choose another name, or use --force."
        )


def _generator() -> str:
    from memcard.generation.compare_page import GENERATOR

    return GENERATOR


def _is_sheet(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _MARK in image.info
    except OSError:
        return False


def write_sheets(
    plan: Plan, store: Store, path: Path, *, cell: int | None, overwrite: bool
) -> tuple[Path, ...]:
    """Write one PNG for each page; numbers in the names if there are several."""
    from memcard.generation.picture import texts
    from memcard.generation.table import draw

    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: sheets are written as .png; end the name in .png.")
    tables = list(_tables(plan, store))
    paths = [path] if len(tables) == 1 else [
        path.with_stem(f"{path.stem}-{i + 1:0{len(str(len(tables)))}}") for i in range(len(tables))
    ]  # fmt: skip
    for one in paths:
        _refuse(one, overwrite)
    said = json.dumps({"memcard": __version__, "axes": _axes(plan)}, ensure_ascii=False)
    for one, table in zip(paths, tables, strict=True):
        page = draw(table, cell=cell)
        with replacing(one) as file:
            page.save(file, "PNG", optimize=True, pnginfo=texts({_MARK: said}))
    return tuple(paths)


def write_page(
    plan: Plan, store: Store, path: Path, *, overwrite: bool, progress: Listener
) -> Path:
    """Write one HTML page with every picture in it."""
    from memcard.generation.compare_page import write

    _refuse(path, overwrite)
    images = {c.key: i for i, c in enumerate(plan.ordered())}
    size = sum(store.path(key).stat().st_size for key in images) * 4 // 3
    if size > _LARGE:
        progress(Notice(f"{path} has {size / 1e6:.0f} MB: browsers may be slow with it. The folder form "
                        "(-o FOLDER) also has each picture as a file."))  # fmt: skip
    facts = _page_facts(plan, store, images)
    with replacing(path) as file:
        write(file, facts, (store.path(key).read_bytes() for key in images))
    return path


def write_folder(
    plan: Plan,
    store: Store,
    path: Path,
    *,
    cell: int | None,
    overwrite: bool,
    progress: Listener,
) -> tuple[Path, ...]:
    """Write page, sheets and pictures; what an earlier comparison left there and this one has not, goes."""
    _refuse(path, overwrite)
    (path / _CELLS).mkdir(parents=True, exist_ok=True)
    before = _listed(path)
    names = _file_names(plan)
    files = []
    for one in plan.ordered():
        target = path / _CELLS / names[one.key]
        with replacing(target) as file:
            file.write(store.path(one.key).read_bytes())
        files.append(target)
    files += write_sheets(plan, store, path / "grid.png", cell=cell, overwrite=True)
    files.append(write_page(plan, store, path / _INDEX, overwrite=True, progress=progress))
    now = [file.relative_to(path).as_posix() for file in files]
    said = {"memcard": __version__, "axes": _axes(plan), "files": now, "cells": [
        {"at": [axis.labels[i] for axis, i in zip(plan.axes, c.at, strict=True) if axis.varies],
         "file": f"{_CELLS}/{names[c.key]}" if c.key else None, "why_not": c.why_not or None}
        for c in plan.cells]}  # fmt: skip
    with replacing(path / _LIST) as file:
        file.write(json.dumps(said, ensure_ascii=False, indent=1).encode())
    for old in before - set(now):
        (path / old).unlink(missing_ok=True)
    return (path / _INDEX, *(file for file in files if file.name != _INDEX))


def _listed(path: Path) -> set[str]:
    """Return the files an earlier comparison wrote into a folder: only names it may have given."""
    try:
        found = json.loads((path / _LIST).read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    ours = re.compile(rf"grid(-\d+)?\.png|{_CELLS}/[\w.-]+\.png", re.ASCII)
    return {name for name in found if isinstance(name, str) and ours.fullmatch(name)}


def _axes(plan: Plan) -> dict[str, list[str]]:
    return {axis.name: list(axis.labels) for axis in plan.axes if axis.varies}


def _tables(plan: Plan, store: Store) -> Iterator[Table]:
    """Return the pages as tables of pictures, in the order of the page axes."""
    from memcard.generation.table import Table

    layout, axes = plan.layout, plan.axes
    cells = {cell.at: cell for cell in plan.cells}
    ys = range(len(axes[layout.y].values)) if layout.y is not None else range(1)
    xs = range(len(axes[layout.x].values)) if layout.x is not None else range(1)
    for chosen in product(*(range(len(axes[i].values)) for i in layout.pages)):
        page = dict(zip(layout.pages, chosen, strict=True))
        grid = [[cells[_at(plan, page, x, y)] for x in xs] for y in ys]
        if not any(cell.key for row in grid for cell in row):
            continue  # a sampler and a schedule that do not go together: nothing to see
        columns = _side(plan, layout.x, [[row[x] for row in grid] for x in xs])
        rows = _side(plan, layout.y, grid)
        title, detail = _title(plan, page, [cell for row in grid for cell in row])
        slots = [[_slot(cell, store) for cell in row] for row in grid]
        yield Table(title, detail, columns, rows, slots)


def _at(plan: Plan, page: dict[int, int], x: int, y: int) -> tuple[int, ...]:
    place = {**page}
    if plan.layout.x is not None:
        place[plan.layout.x] = x
    if plan.layout.y is not None:
        place[plan.layout.y] = y
    return tuple(place.get(i, 0) for i in range(len(plan.axes)))


def _slot(cell: Planned, store: Store) -> Slot:
    from memcard.generation.table import Slot

    if cell.settings is None:
        return Slot((1, 1), None, cell.why_not)
    return Slot((cell.settings.width, cell.settings.height), partial(_opened, store.path(cell.key)))


def _opened(path: Path) -> Image:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def _side(plan: Plan, axis: int | None, lines: Sequence[Sequence[Planned]]) -> list[str]:
    """Return the labels of rows or columns, with what else is particular to each of them.

    A card may ask for other steps or another CFG with each checkpoint; who looks must know.
    """
    labels = [""] * len(lines) if axis is None else list(plan.axes[axis].labels)
    if axis is None:
        return labels
    said = [_common(line) for line in lines]
    own = [name for name in said[0] if all(name in each for each in said)
           and len({each[name] for each in said}) > 1 and name != plan.axes[axis].kind]  # fmt: skip
    varying = {a.kind for a in plan.axes if a.varies}
    return [
        ", ".join([label, *(each[name] for name in own if name not in varying)])
        for label, each in zip(labels, said, strict=True)
    ]


def _common(cells: Iterable[Planned]) -> dict[str, str]:
    """Return the settings that are the same in all of ``cells``, as people read them."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        for name, text in _worded(cell).items():
            found.setdefault(name, set()).add(text)
    return {name: next(iter(texts)) for name, texts in found.items() if len(texts) == 1}


def _worded(cell: Planned) -> dict[str, str]:
    """Return the settings of a cell that are worth a word, as people read them."""
    if cell.settings is None:
        return {}
    said = _telling(cell.settings)
    said.pop("prediction_type", None)
    found = {name: worded(name, value) for name, value in said.items()}
    return {**found, "seed": worded("seed", cell.seed)}


def _telling(settings: Settings) -> dict[str, Any]:
    """Return what one looks for first, and what else the user or the card asked for."""
    said = asdict(settings)
    origin = said.pop("origin")
    size = said.pop("width"), said.pop("height")
    first = {name: said.pop(name) for name in ("sampler", "schedule", "steps", "cfg")}
    rest = {n: v for n, v in said.items() if origin.get(n, "family") != "family"}
    if said["negative"]:
        rest["negative"] = said["negative"]
    return {**first, "size": size, **rest}


def _title(plan: Plan, page: dict[int, int], cells: Sequence[Planned]) -> tuple[str, str]:
    """Return what a page shows, and what all its pictures have in common."""
    chosen = [plan.axes[i].labels[at] for i, at in page.items() if plan.axes[i].kind != "prompt"]
    prompts = {cell.prompt for cell in cells}
    title = ", ".join([*prompts] if len(prompts) == 1 else [])
    fixed = [a.labels[0] for a in plan.axes if not a.varies and _is_said(a.kind, a.values[0])]
    on_page = {plan.axes[i].kind for i in page}
    common = [t for name, t in _common(cells).items() if name not in on_page]
    return title, " · ".join([*chosen, *fixed, *common])


def _is_said(kind: str, value: Any) -> bool:
    """Whether an axis with one value is worth a word beside the settings, which speak for themselves."""
    return kind == "checkpoint" or (kind == "vae" and value is not None) or kind.startswith("lora")


def _file_names(plan: Plan) -> dict[str, str]:
    """Return a file name for each key: what varies in it, each name once."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for cell in plan.ordered():
        pairs = zip(plan.axes, cell.at, strict=True)
        words = [axis.labels[i] for axis, i in pairs if axis.varies] or [cell.prompt]
        parts = [re.sub(r"[^a-z0-9.]+", "-", w.lower()).strip("-.")[:_WORD] for w in words]
        stem = "-".join(part.strip("-.") for part in parts if part)[:_STEM].strip("-.") or "cell"
        names = (f"{stem}.png", *(f"{stem}-{i}.png" for i in range(2, len(plan.cells) + 2)))
        found[cell.key] = next(name for name in names if name not in taken)
        taken.add(found[cell.key])
    return found


def _page_facts(plan: Plan, store: Store, images: dict[str, int]) -> dict[str, Any]:
    """Return what the page is told: axes, where they stand, and each cell."""
    layout, names = plan.layout, _file_names(plan)
    prompts = {cell.prompt for cell in plan.cells}
    common = _common(plan.cells)
    fixed = [a.labels[0] for a in plan.axes if not a.varies and _is_said(a.kind, a.values[0])]
    return {
        "memcard": __version__,
        "title": next(iter(prompts)) if len(prompts) == 1 else f"{len(prompts)} prompts",
        "fixed": [*fixed, *common.values()],
        "axes": [{"name": a.name, "labels": list(a.labels)} for a in plan.axes],
        "x": layout.x,
        "y": layout.y,
        "pages": list(layout.pages),
        "cells": [_cell_facts(cell, plan, store, images, names) for cell in plan.cells],
    }


def _cell_facts(
    cell: Planned, plan: Plan, store: Store, images: dict[str, int], names: dict[str, str]
) -> dict[str, Any]:
    if cell.settings is None:
        return {"at": list(cell.at), "why": cell.why_not}
    origin = cell.settings.origin
    shown = {"checkpoint": cell.model.label, "SHA-256": cell.model.sha256[:10]}
    shown |= {f"LoRA {one.short}": f"{strength:g}" for one, strength in cell.loras}
    shown |= {"VAE": cell.vae.label} if cell.vae else {}
    rows = [[n, v, ""] for n, v in {**shown, "prompt": cell.prompt}.items()]
    for name, value in _telling(cell.settings).items():
        text = worded(name, value) if name == "size" else _plain(value)
        rows.append(
            [name.replace("_", " "), text, origin.get("width" if name == "size" else name, "")]
        )
    rows.append(["seed", str(cell.seed), ""])
    return {
        "at": list(cell.at),
        "image": images[cell.key],
        "size": [cell.settings.width, cell.settings.height],
        "file": names[cell.key],
        "settings": rows,
        "text": str(read_cell(store.path(cell.key)).get("parameters", "")),
        "command": _command(cell, plan.wish),
    }


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _command(cell: Planned, wish: Wish) -> str:
    """Return the command that makes this one picture."""
    parts = ["memcard", "generate", cell.prompt, "-c", cell.model.label]
    for one, strength in cell.loras:
        parts += ["--lora", f"{one.label}:{strength:g}"]
    if cell.vae:
        parts += ["--vae", cell.vae.label]
    for option, refs in (("text-encoder", wish.text_encoders), ("embedding", wish.embeddings)):
        for ref in refs:
            parts += [f"--{option}", label(str(locate(ref)))]
    user = dict(cell.user)
    if "width" in user:
        user["size"] = f"{user.pop('width')}x{user.pop('height')}"
    for name, value in user.items():
        parts += [
            f"--{name.replace('_', '-')}",
            _plain(value),
        ]
    return shlex.join([*parts, "--seed", str(cell.seed)])
