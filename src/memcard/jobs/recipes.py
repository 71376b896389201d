"""Reading recipes: our own as JSON and YAML, those inside merged files, and those of other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from memcard.errors import CorruptError, MemcardError, NotFoundError
from memcard.formats import open_file
from memcard.jobs.importers import a1111, mecha, mergekit
from memcard.jobs.importers._mix import Imported, Names
from memcard.jobs.resolve import locate
from memcard.recipes.nodes import Apply, Node, Source, sources
from memcard.recipes.text import from_json, to_json
from memcard.recipes.yaml_form import from_yaml, read_yaml, to_yaml

_MOST: Final = 16 << 20  # bytes of a recipe; a thousand inputs take 0.2 MB
_TEXTS: Final = (".json", ".yaml", ".yml", ".mecha", ".txt")
_FOREIGN: Final = ("primary_model_hash", "model_a")  # keys of sd_merge_recipe as a file of its own


def read_recipe(recipe: str | Path | Node) -> Imported:
    """Return a recipe with the sources where they are: beside the recipe, else as they stand.

    Args:
        recipe: a recipe; its JSON text; a file with our JSON or YAML, a configuration of mergekit, a
            ``.mecha`` of sd-mecha or an ``sd_merge_recipe`` of A1111; or a checkpoint that carries a recipe
            of memcard, A1111 or supermerger.

    Raises:
        CorruptError: not a recipe.
        NotFoundError: no such file, or it carries no recipe, or a source is nowhere.
        UnsupportedError: another program's recipe that asks for what memcard does not do.
    """
    if isinstance(recipe, (Source, Apply)):
        return Imported(recipe)
    if isinstance(recipe, str) and recipe.lstrip().startswith("{"):
        return Imported(_placed(from_json(recipe), Path()))
    path = Path(recipe).expanduser()
    if not path.is_file():
        raise NotFoundError(f"{path}: no such recipe.")

    def names(source: Source) -> Sequence[str]:
        checkpoint = open_file(_place(source.ref, path.parent))
        found = tuple(checkpoint.specs)
        checkpoint.close()
        return found

    found = _from_file(path, names)
    return Imported(_placed(found.node, path.parent), found.notes)


def write_recipe(recipe: str | Path | Node, form: Literal["json", "yaml"] = "yaml") -> str:
    """Return a recipe of any kind as our text, sources named as ``read_recipe`` found them."""
    node = read_recipe(recipe).node
    return to_yaml(node) if form == "yaml" else to_json(node) + "\n"


def parents_of(recipe: str | Path | Node) -> tuple[str, ...]:
    """List the checkpoints a recipe is made from, from left to right; a LoRA is one of them."""
    return tuple(source.ref for source in sources(read_recipe(recipe).node))


def _from_file(path: Path, names: Names) -> Imported:
    with path.open("rb") as file:
        head = file.read(_MOST + 1)
    if len(head) > _MOST or (path.suffix.lower() not in _TEXTS and head.lstrip()[:1] != b"{"):
        return _from_checkpoint(path, names)
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CorruptError(f"{path}: not UTF-8, so not a recipe.") from None
    try:
        return _from_text(text, names)
    except MemcardError as error:
        raise type(error)(f"{path}: {error}") from None


def _from_text(text: str, names: Names) -> Imported:
    if text.startswith("version "):
        return mecha.read(text)
    if text.lstrip().startswith("{"):
        return _from_object(text, names)
    document = read_yaml(text)
    if isinstance(document, Mapping) and ("merge_method" in document or "slices" in document):
        return mergekit.read(document, names)
    return Imported(from_yaml(text))


def _from_object(text: str, names: Names) -> Imported:
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None  # from_json says what is wrong with it
    if isinstance(found, dict) and any(key in found for key in _FOREIGN):
        return a1111.read({"sd_merge_recipe": text}, names)
    if isinstance(found, dict) and "merge_method" in found:  # JSON is YAML too
        return mergekit.read(found, names)
    return Imported(from_json(text))


def _from_checkpoint(path: Path, names: Names) -> Imported:
    checkpoint = open_file(path)
    metadata = dict(checkpoint.metadata)
    checkpoint.close()
    if "memcard.recipe" in metadata:
        return Imported(from_json(metadata["memcard.recipe"]))
    if "sd_merge_recipe" in metadata:
        return a1111.read(metadata, names)
    raise NotFoundError(
        f"{path}: carries no recipe (neither memcard.recipe nor sd_merge_recipe in its metadata)."
    )


def _placed(node: Node, folder: Path) -> Node:
    if isinstance(node, Apply):
        return Apply(node.op, tuple(_placed(child, folder) for child in node.inputs), node.params)
    return Source(str(_place(node.ref, folder)), node.sha256)


def _place(ref: str, folder: Path) -> Path:
    """Look beside the recipe, also without the folders and with the suffix other programs leave out."""
    bare = ref.replace("\\", "/").rpartition("/")[2]
    for name in (ref, bare, f"{ref}.safetensors", f"{bare}.safetensors"):
        beside = folder / name
        if beside.is_file():
            return beside
    return locate(ref)
