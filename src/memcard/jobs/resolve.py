"""From what a user names to a checkpoint: paths, and the starter that comes with the package.

A file that is a delta stands for the checkpoint it makes of its base. The base is looked for by its
SHA-256: in the starter, beside the file and in the working folder. One of mode ``lossless`` is read as if it
were that checkpoint; one of mode ``replace`` is a recipe of two files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from memcard.core.checkpoint import Checkpoint
from memcard.core.digest_cache import DigestCache, cache_folder
from memcard.core.progress import Listener, silent
from memcard.errors import (
    FormatError,
    IntegrityError,
    MemcardError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from memcard.formats import open_file
from memcard.jobs._delta_base import check_base, find_base, may_be_base
from memcard.jobs._delta_file import KEY as _DELTA
from memcard.jobs._delta_file import MODE, DeltaCheckpoint, read_index
from memcard.jobs._library_refs import library_path, name_of, record_of
from memcard.jobs._stored import open_stored
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Node, Source
from memcard.store.manifest import get as manifest_of

STARTER = "starter"
_PREFIXES = ("", "finetune_", "lora_", "vae_")


def resolve(
    ref: str | Path, *, salvage: bool = False, base: str | Path | None = None
) -> Checkpoint:
    """Open the checkpoint a user names: a path, ``starter``, ``starter/raw``, ``starter/STYLE``.

    Args:
        ref: what the user wrote.
        salvage: list the tensors of a file that asks to run code; nothing is run.
        base: what the file is a delta of; None: look for it.

    Raises:
        FormatError: the file cannot be read as a checkpoint.
        MismatchError: another ``base`` is wanted; says which.
        NotFoundError: nothing has this name, or the base of a delta is not at hand.
        UsageError: there is a ``base``, and the file is no delta.
    """
    path = locate(ref)
    checkpoint = _opened(path, salvage=salvage, base=base)
    mode = checkpoint.metadata.get(f"{_DELTA}mode")
    if base is not None and mode is None and not isinstance(checkpoint, DeltaCheckpoint):
        checkpoint.close()
        raise UsageError(f"{path}: is no delta, so it has no base. Leave the base out.")
    if mode is None:
        return checkpoint
    checkpoint.close()
    node = node_for(ref, digests=False, base=base)
    return evaluate(node, open_source, OPS, metadata=metadata_of(node))


def metadata_of(node: Node) -> dict[str, str]:
    """Return what the checkpoint that ``node_for`` gave says about itself: the delta speaks."""
    while not isinstance(node, Source):
        node = node.inputs[-1] if node.op == "overlay" else node.inputs[0]
    checkpoint = open_source(node)
    metadata = {k: v for k, v in checkpoint.metadata.items() if not k.startswith(_DELTA)}
    checkpoint.close()
    return metadata


def node_for(
    ref: str | Path,
    *,
    digests: bool = True,
    base: str | Path | None = None,
    progress: Listener = silent,
) -> Node:
    """Return the recipe of what a user names: a source, or a delta of mode ``replace`` on its base.

    Args:
        ref: as for ``resolve``.
        digests: record the SHA-256 of every file; reads each file that is not known yet.
        base: of a delta of mode ``replace``; None: look for it.
        progress: hears about the hashing.
    """
    path = locate(ref)
    checkpoint = _opened(path, progress=progress)
    metadata = dict(checkpoint.metadata)
    names = tuple(checkpoint.specs)
    checkpoint.close()
    source = _source(path, digests, progress)
    mode = metadata.get(f"{_DELTA}mode")
    if mode is None:
        return source
    if mode != "replace":
        raise UnsupportedError(
            f"{path}: a delta of mode {mode!r}; this memcard knows 'lossless' and 'replace'."
        )
    found = _base_of(path, metadata, names, base, progress)
    return Apply("overlay", (_source(found, digests, progress), source))


def open_source(source: Source) -> Checkpoint:
    """Open the file a source names; a delta of mode ``replace`` stays one, as ``overlay`` wants it."""
    return _opened(locate(source.ref))


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
    return _opened(path, progress=progress)


def files_behind(source: Source) -> tuple[Path, ...]:
    """List the files that are read for a source: its own, and the base of a lossless delta."""
    path = locate(source.ref)
    try:
        checkpoint = open_source(source)
    except MemcardError:
        return (path,)  # who opens it next says what is wrong with it
    checkpoint.close()
    return (path, *getattr(checkpoint, "parts", ()))


def locate(ref: str | Path) -> Path:
    """Return the file a user names: a path, a name of the starter, or one of the library.

    Raises:
        NotFoundError: there is none; lists what there is for a name of the starter.
        IntegrityError, MismatchError: see ``memcard.jobs._library_refs``.
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
    if (stored := library_path(text)) is not None:
        return stored
    raise NotFoundError(
        f"{text}: no such file, and no such name in the library (`memcard ls`). Give a path, or one of: "
        f"{', '.join(names())}."
    )


def names() -> tuple[str, ...]:
    """List the names that come with the package."""
    stems = [p.stem for p in sorted(starter_folder().glob("*.safetensors"))]
    return (STARTER, *(f"{STARTER}/{stem}" for stem in stems if stem != "base"))


def starter_folder() -> Path:
    """Return the folder of the built-in model."""
    return Path(str(files("memcard") / "starter"))


def digest(path: Path, progress: Listener = silent) -> str:
    """Return the SHA-256 of a file; remembered, also by the next run, until the file changes."""
    if (record := record_of(path)) is not None:
        return manifest_of(*record).sha256
    return known_digests().sha256(path, progress)


def fresh_digest(path: Path, progress: Listener = silent) -> str:
    """Return the SHA-256 of what is really in a file: it is read whatever is remembered."""
    return known_digests().fresh(path, only=("sha256",), progress=progress)["sha256"]


@cache
def known_digests() -> DigestCache:
    """Return what is remembered of all files, in this process and from earlier runs."""
    return DigestCache(cache_folder())


def label(ref: str) -> str:
    """Return the name to write into shared files: no folder of this machine in it."""
    path = Path(ref)
    if path.parent.resolve() == starter_folder().resolve():
        return STARTER if path.stem == "base" else f"{STARTER}/{path.stem}"
    if (record := record_of(path)) is not None:
        return name_of(*record)
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


def _opened(
    path: Path,
    *,
    salvage: bool = False,
    base: str | Path | None = None,
    progress: Listener = silent,
) -> Checkpoint:
    """Open a file; a lossless delta is seen through, and a packed checkpoint of the library read."""
    if (record := record_of(path)) is not None:
        return open_stored(*record)
    checkpoint = open_file(path, salvage=salvage)
    if checkpoint.metadata.get(f"{_DELTA}mode") != MODE:
        return checkpoint
    try:
        return _seen_through(path, checkpoint, base, progress)
    except BaseException:
        checkpoint.close()
        raise


def _seen_through(
    path: Path, delta: Checkpoint, base: str | Path | None, progress: Listener
) -> DeltaCheckpoint:
    try:
        index = read_index(delta)
    except FormatError as error:
        raise type(error)(f"{path}: {error}", faults=error.faults) from None
    if base is None:
        found = find_base(
            *(path, delta.metadata, lambda other: may_be_base(other, index[0])),
            known=_known(),
            digest=digest,
            progress=progress,
        )
    else:
        found = locate(base)
        check_base(found, index[0], delta.metadata, digest=digest, progress=progress)
    return DeltaCheckpoint(open_file(found), delta, parts=(found, path), index=index)


def _base_of(
    path: Path,
    metadata: Mapping[str, str],
    changed: tuple[str, ...],
    base: str | Path | None,
    progress: Listener,
) -> Path:
    """Return the base of a delta of mode ``replace``."""
    wanted = metadata.get(f"{_DELTA}base_sha256", "")
    if base is None:
        return find_base(
            *(path, metadata, lambda other: _has_all(other, changed)),
            known=_known(),
            digest=digest,
            progress=progress,
        )
    found = locate(base)
    if digest(found, progress) != wanted:
        raise MismatchError(
            f"{found}: is not the base of {path}. Wanted is the file with SHA-256 {wanted}."
        )
    return found


def _known() -> tuple[Path, ...]:
    return (starter_folder() / "base.safetensors",)


def _has_all(checkpoint: Checkpoint, changed: tuple[str, ...]) -> bool:
    is_delta = f"{_DELTA}mode" in checkpoint.metadata
    return not is_delta and all(name in checkpoint.specs for name in changed)
