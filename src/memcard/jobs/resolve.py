"""From what a user names to a checkpoint: paths, and the starter that comes with the package.

A file that is a delta (metadata ``memcard.delta.mode`` = ``replace``) stands for the checkpoint it
makes of its base; the base is looked for in the starter and beside the file, by its SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from memcard.core.checkpoint import Checkpoint
from memcard.core.digest import sha256_file
from memcard.core.progress import Listener, silent
from memcard.errors import IntegrityError, MemcardError, NotFoundError, UnsupportedError
from memcard.formats import open_file
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Node, Source

STARTER = "starter"
_PREFIXES = ("", "finetune_", "lora_", "vae_")
_DELTA = "memcard.delta."


def resolve(ref: str | Path, *, salvage: bool = False) -> Checkpoint:
    """Open the checkpoint a user names: a path, ``starter``, ``starter/raw``, ``starter/STYLE``.

    Args:
        ref: what the user wrote.
        salvage: list the tensors of a file that asks to run code; nothing is run.

    Raises:
        FormatError: the file cannot be read as a checkpoint.
        NotFoundError: nothing has this name, or the base of a delta is not at hand.
    """
    checkpoint = open_file(locate(ref), salvage=salvage)
    if f"{_DELTA}mode" not in checkpoint.metadata:
        return checkpoint
    checkpoint.close()
    node = node_for(ref, digests=False)
    return evaluate(node, open_source, OPS, metadata=metadata_of(node))


def metadata_of(node: Node) -> dict[str, str]:
    """Return what the checkpoint that ``node_for`` gave says about itself: the delta speaks."""
    while not isinstance(node, Source):
        node = node.inputs[-1] if node.op == "overlay" else node.inputs[0]
    checkpoint = open_source(node)
    metadata = {k: v for k, v in checkpoint.metadata.items() if not k.startswith(_DELTA)}
    checkpoint.close()
    return metadata


def node_for(ref: str | Path, *, digests: bool = True, progress: Listener = silent) -> Node:
    """Return the recipe of what a user names: a source, or a delta on its base.

    Args:
        ref: as for ``resolve``.
        digests: record the SHA-256 of every file; reads each file once.
        progress: hears about the hashing.
    """
    path = locate(ref)
    checkpoint = open_file(path)
    metadata = dict(checkpoint.metadata)
    names = tuple(checkpoint.specs)
    checkpoint.close()
    source = _source(path, digests, progress)
    mode = metadata.get(f"{_DELTA}mode")
    if mode is None:
        return source
    if mode == "lossless":
        raise UnsupportedError(
            f"{path}: is a delta, of the base {metadata.get(f'{_DELTA}base_name', '')!r}. Make the "
            f"checkpoint of it first: memcard delta apply BASE {path.name} -o FILE."
        )
    if mode != "replace":
        raise UnsupportedError(f"{path}: a delta of mode {mode!r}; this memcard knows 'replace'.")
    base = _find_base(path, metadata, names)
    return Apply("overlay", (_source(base, digests, progress), source))


def open_source(source: Source) -> Checkpoint:
    """Open the file a source names, as it is: a delta stays a delta."""
    return open_file(locate(source.ref))


def checked_source(source: Source, progress: Listener = silent) -> Checkpoint:
    """Open the file a source names if its contents are those the recipe was written for.

    Raises:
        IntegrityError: the file has another SHA-256.
    """
    path = locate(source.ref)
    if source.sha256 is not None and digest(path, progress) != source.sha256:
        raise IntegrityError(
            f"{path}: SHA-256 is {digest(path)}, the recipe was made with {source.sha256}. "
            "Put the original file back, or make a new recipe from this one."
        )
    return open_file(path)


def locate(ref: str | Path) -> Path:
    """Return the file a user names.

    Raises:
        NotFoundError: there is none; lists what there is for a name of the starter.
    """
    text = str(ref)
    path = Path(ref).expanduser()
    if path.exists():
        return path
    if text == STARTER:
        text = f"{STARTER}/base"
    shelf, _, name = text.partition("/")
    if shelf == STARTER and name:
        return _starter_file(name)
    raise NotFoundError(
        f"{text}: no such file, and no such name. Give a path, or one of: {', '.join(names())}."
    )


def names() -> tuple[str, ...]:
    """List the names that come with the package."""
    stems = [p.stem for p in sorted(starter_folder().glob("*.safetensors"))]
    return (STARTER, *(f"{STARTER}/{stem}" for stem in stems if stem != "base"))


def starter_folder() -> Path:
    """Return the folder of the built-in model."""
    return Path(str(files("memcard") / "starter"))


def digest(path: Path, progress: Listener = silent) -> str:
    """Return the SHA-256 of a file; remembered until its size or time changes."""
    state = path.stat()
    key = str(path.resolve()), state.st_size, state.st_mtime_ns
    if key not in _digests:
        _digests[key] = sha256_file(path, progress)
    return _digests[key]


_digests: dict[tuple[str, int, int], str] = {}


def label(ref: str) -> str:
    """Return the name to write into shared files: no folder of this machine in it."""
    path = Path(ref)
    if path.parent.resolve() == starter_folder().resolve():
        return STARTER if path.stem == "base" else f"{STARTER}/{path.stem}"
    return ref if ref in names() else path.name


def card_of(metadata: Mapping[str, str]) -> dict[str, object]:
    """Read ``memcard.card`` from metadata; {} if there is none or it is not a JSON object."""
    try:
        card = json.loads(metadata.get("memcard.card", "{}"))
    except ValueError:
        return {}
    return card if isinstance(card, dict) else {}


def _source(path: Path, digests: bool, progress: Listener) -> Source:
    return Source(str(path), digest(path, progress) if digests else None)


def _starter_file(name: str) -> Path:
    folder = starter_folder()
    for prefix in _PREFIXES:
        path = folder / f"{prefix}{name}.safetensors"
        if path.parent == folder and path.is_file():
            return path
    raise NotFoundError(f"{STARTER}/{name}: not in the starter. There are: {', '.join(names())}.")


def _find_base(path: Path, metadata: Mapping[str, str], changed: tuple[str, ...]) -> Path:
    wanted = metadata.get(f"{_DELTA}base_sha256", "")
    for candidate in _candidates(path):
        if _may_be_base(candidate, changed) and digest(candidate) == wanted:
            return candidate
    raise NotFoundError(
        f"{path}: this is a delta, and its base (SHA-256 {wanted or 'not stated'}) is neither in "
        f"the starter nor in {path.parent}. Put the base beside it."
    )


def _candidates(path: Path) -> Iterator[Path]:
    yield from starter_folder().glob("base.safetensors")
    yield from (p for p in sorted(path.parent.glob("*.safetensors")) if p != path)


def _may_be_base(path: Path, changed: tuple[str, ...]) -> bool:
    """Tell from the header whether hashing the file is worth it."""
    try:
        checkpoint = open_file(path)
    except (MemcardError, OSError):
        return False  # someone else's broken file is not our fault to report
    with_all = all(name in checkpoint.specs for name in changed)
    is_delta = f"{_DELTA}mode" in checkpoint.metadata
    checkpoint.close()
    return with_all and not is_delta
